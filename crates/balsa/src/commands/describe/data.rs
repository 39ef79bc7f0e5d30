//! ConfigMaps and Secrets, as `kubectl describe` shows them: the texts of the one, and of the other how much there
//! is.

use std::fmt::Write as _;

use balsa_model::Object;
use base64::Engine as _;
use serde_json::Value;

use super::head;
use super::page::{Page, plain, text};

const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";

/// A ConfigMap up to its events. Texts stand as they are, and are no part of a page, whose cells end at tabs.
pub(super) fn config_map(object: &Object) -> String {
    let value = object.value();
    let mut out = beginning(object, |_| {});
    out += "\nData\n====\n";
    for (key, text) in entries(&value, "data") {
        let _ = write!(out, "{key}:\n----\n{}\n\n", plain(text));
    }
    out += "\nBinaryData\n====\n";
    for (key, data) in entries(&value, "binaryData") {
        let _ = writeln!(out, "{key}: {} bytes", size(data));
    }
    out.push('\n');
    out
}

/// A Secret. What is in it is shown of one kind only: tokens of service accounts, which are asked for by this.
pub(super) fn secret(object: &Object) -> String {
    let value = object.value();
    let type_ = text(&value, "/type");
    beginning(object, |page| {
        page.line(0, "");
        page.field(0, "Type", type_);
        page.line(0, "");
        page.line(0, "Data");
        page.line(0, "====");
        for (key, data) in entries(&value, "data") {
            let is_token = key == "token" && type_ == TOKEN_TYPE;
            let token = decoded(data).filter(|_| is_token).and_then(|bytes| String::from_utf8(bytes).ok());
            page.field(0, key, token.unwrap_or_else(|| format!("{} bytes", size(data))));
        }
    })
}

fn beginning(object: &Object, rest: impl FnOnce(&mut Page)) -> String {
    let mut page = Page::default();
    head::name(&mut page, object);
    head::labels_and_annotations(&mut page, object);
    rest(&mut page);
    page.finish()
}

/// The entries of a map, by their names.
fn entries<'a>(value: &'a Value, field: &str) -> Vec<(&'a String, &'a Value)> {
    let mut entries: Vec<_> = value.get(field).and_then(Value::as_object).into_iter().flatten().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

fn decoded(data: &Value) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(data.as_str()?).ok()
}

/// Bytes of what is written in base64.
fn size(data: &Value) -> usize {
    decoded(data).map_or(0, |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use balsa_model::kind::kind_of;
    use balsa_model::{Kind, Revision};
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    use super::*;

    fn object<K: Kind>(value: &Value) -> Object {
        let kind = kind_of::<K>();
        Object::seal(kind, &Object::canonical(kind, value), Revision(1)).unwrap()
    }

    #[test]
    fn texts_are_shown_as_they_are() {
        let map = object::<ConfigMap>(&json!({"metadata": {"name": "c", "namespace": "zoo"},
            "data": {"b": "x\ty\nz", "a": ""}, "binaryData": {"c": "AAEC"}}));
        assert_eq!(
            config_map(&map),
            "Name:         c\nNamespace:    zoo\nLabels:       <none>\nAnnotations:  <none>\n\nData\n====\n\
             a:\n----\n\n\nb:\n----\nx\ty\nz\n\n\nBinaryData\n====\nc: 3 bytes\n\n"
        );
    }

    #[test]
    fn of_secrets_only_the_size_is_shown() {
        let of = |type_: &str| {
            object::<Secret>(&json!({"metadata": {"name": "s", "namespace": "zoo"}, "type": type_,
                "data": {"token": "aHVudGVyMg==", "longer-name": "YQ==", "none": ""}}))
        };
        let shown = secret(&of("Opaque"));
        assert!(
            shown.ends_with(
                "\nType:  Opaque\n\nData\n====\nlonger-name:  1 bytes\nnone:         0 bytes\ntoken:        7 bytes\n"
            ),
            "{shown}"
        );
        assert!(secret(&of(TOKEN_TYPE)).ends_with("token:        hunter2\n"));
    }
}
