//! Secret: small bytes that are nobody else's business.
//! Invariants: the type never changes; once `immutable`, the data does not either.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::{ByteString, Metadata as _};

use super::cells::or_empty;
use super::check::default_text;
use super::config_map::{MAX_DATA_BYTES, validate_key};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

/// Type of secrets that hold a service account's token.
pub const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// Whose token that is.
pub const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// And which of those that have had the name.
pub const SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

impl Kind for Secret {
    const DESCRIPTOR: Descriptor = Descriptor {
        field_labels: &["type"],
        columns: &[Column::NAME, Column::text("Type"), Column::text("Data"), Column::AGE],
        ..Descriptor::namespaced("", "v1", "Secret", "secrets", "secret", "core.v1.Secret")
    };

    fn set_defaults(&mut self) {
        for (key, value) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
        default_text(&mut self.type_, "Opaque");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            validate_key(&path, key, errors);
            size += value.0.len();
        }
        if size > MAX_DATA_BYTES {
            errors.too_long(&path, MAX_DATA_BYTES);
        }
        validate_type(self, &path, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        errors.immutable(&Path::new("type"), &self.type_, &old.type_, self.type_.clone());
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
            }
            if self.data != old.data {
                errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
            }
        }
    }

    fn field(&self, label: &str) -> String {
        match label {
            "type" => self.type_.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let count = self.data.as_ref().map_or(0, |d| d.len());
        vec![
            Cell::name(self.metadata()),
            or_empty(self.type_.as_deref()),
            Cell::number(i64::try_from(count).unwrap_or(i64::MAX)),
            Cell::age(self.metadata(), now),
        ]
    }
}

fn validate_type(secret: &Secret, path: &Path, errors: &mut FieldErrors) {
    let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    match secret.type_.as_deref().unwrap_or_default() {
        SERVICE_ACCOUNT_TOKEN => {
            let annotations = secret.metadata.annotations.as_ref();
            let account = annotations.and_then(|a| a.get(SERVICE_ACCOUNT_NAME));
            if account.is_none_or(String::is_empty) {
                let path = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT_NAME);
                errors.required(&path, "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(secret, ".dockercfg", path, errors),
        "kubernetes.io/dockerconfigjson" => validate_json(secret, ".dockerconfigjson", path, errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            // The reference server forgets to fill in its format, and scripts know it that way.
            errors.required(&path.key("%s").key("username"), "");
            errors.required(&path.key("%s").key("password"), "");
        }
        "kubernetes.io/ssh-auth" => {
            let key = secret.data.as_ref().and_then(|data| data.get("ssh-privatekey"));
            if key.is_none_or(|key| key.0.is_empty()) {
                errors.required(&path.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn validate_json(secret: &Secret, key: &str, path: &Path, errors: &mut FieldErrors) {
    let path = path.key(key);
    match secret.data.as_ref().and_then(|data| data.get(key)) {
        None => errors.required(&path, ""),
        Some(bytes) => {
            // Credentials by registry: a map, or nothing.
            let read = serde_json::from_slice::<Option<BTreeMap<String, serde::de::IgnoredAny>>>(&bytes.0);
            if let Err(error) = read {
                errors.invalid(&path, "<secret contents redacted>", error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(value: Value) -> Secret {
        let mut secret: Secret = serde_json::from_value(value).unwrap();
        Kind::set_defaults(&mut secret);
        secret
    }

    #[test]
    fn text_becomes_data() {
        let value =
            serde_json::to_value(secret(json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}}))).unwrap();
        assert_eq!(value["data"], json!({"a": "eA==", "b": "eQ=="}));
        assert_eq!(value["type"], "Opaque");
        assert!(value.get("stringData").is_none());
    }

    #[test]
    fn types_have_keys() {
        for (value, fields) in [
            (json!({"type": "kubernetes.io/tls"}), vec!["data[tls.crt]", "data[tls.key]"]),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "no"}}),
                vec!["data[.dockerconfigjson]"],
            ),
            (
                json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "[]"}}),
                vec!["data[.dockercfg]"],
            ),
            (json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "{\"a\": {}}"}}), vec![]),
            (
                json!({"type": SERVICE_ACCOUNT_TOKEN}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]"],
            ),
            (json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "u"}}), vec![]),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&secret(value), &mut errors);
            assert_eq!(errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>(), fields);
        }
    }

    #[test]
    fn the_type_stays() {
        // Who leaves it out means the default.
        let (old, new) = (secret(json!({"type": "other"})), secret(json!({})));
        let mut errors = FieldErrors::new();
        Kind::validate_update(&new, &old, &mut errors);
        assert_eq!(errors.into_vec()[0].to_string(), "type: Invalid value: \"Opaque\": field is immutable");
    }
}
