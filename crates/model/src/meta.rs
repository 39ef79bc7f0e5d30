//! Metadata that every object has: names, labels, annotations, owners, finalizers.
//!
//! Rules and wordings are those of `k8s.io/apimachinery` `validation`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, NameRule};

/// Longest label value and name part of a qualified name.
const LABEL_MAX: usize = 63;
/// Longest subdomain, and with it most names.
const SUBDOMAIN_MAX: usize = 253;
/// All annotations of an object together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|b| lower_alnum(*b) || *b == b'-')
        && lower_alnum(bytes[0])
        && lower_alnum(bytes[bytes.len() - 1])
}

/// What is wrong with `text` as an RFC 1123 label.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label_text(text) {
        wrong.push(LABEL_RULE.to_owned());
    }
    wrong
}

/// What is wrong with `text` as an RFC 1123 subdomain.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label_text) {
        wrong.push(SUBDOMAIN_RULE.to_owned());
    }
    wrong
}

/// What is wrong with `text` as an RFC 1035 label.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label_text(text) || !text.as_bytes()[0].is_ascii_lowercase() {
        wrong.push(DNS1035_RULE.to_owned());
    }
    wrong
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// What is wrong with `text` as a qualified name: `name`, or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns1123_subdomain(prefix).into_iter().map(|w| format!("prefix part {w}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                QUALIFIED_RULE.replacen("name part", "name", 1)
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_name_part(name) {
        wrong.push(QUALIFIED_RULE.to_owned());
    }
    wrong
}

/// What is wrong with `text` as the value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !text.is_empty() && !is_name_part(text) {
        wrong.push(LABEL_VALUE_RULE.to_owned());
    }
    wrong
}

/// What is wrong with `text` as one part of a URL path.
pub fn path_segment(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if matches!(text, "." | "..") {
        wrong.push(format!("may not be '{text}'"));
    }
    for bad in ["/", "%"] {
        if text.contains(bad) {
            wrong.push(format!("may not contain '{bad}'"));
        }
    }
    wrong
}

/// What is wrong with a name, by the kind's rule.
pub fn name(rule: NameRule, text: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => dns1123_subdomain(text),
        NameRule::Label => dns1123_label(text),
        NameRule::Dns1035Label => dns1035_label(text),
        NameRule::PathSegment => path_segment(text),
    }
}

/// Checks labels.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        for wrong in qualified_name(key) {
            errors.invalid(path, key.as_str(), wrong);
        }
        for wrong in label_value(value) {
            errors.invalid(path, value.as_str(), wrong);
        }
    }
}

/// Checks annotations: their keys, and their size together.
pub fn validate_annotations(
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.len();
        for wrong in qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), wrong);
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

/// Checks the metadata of any object.
pub fn validate(meta: &ObjectMeta, kind: &Descriptor, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        text => {
            for wrong in name(kind.name_rule, text) {
                errors.invalid(&path.child("name"), text, wrong);
            }
        }
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|_| kind.is_namespaced()) {
        for wrong in dns1123_label(namespace) {
            errors.invalid(&path.child("namespace"), namespace, wrong);
        }
    }
    validate_labels(meta.labels.as_ref(), &path.child("labels"), errors);
    validate_annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    validate_owners(meta, &path.child("ownerReferences"), errors);
    for finalizer in meta.finalizers.iter().flatten() {
        for wrong in qualified_name(finalizer) {
            errors.invalid(&path.child("finalizers"), finalizer.as_str(), wrong);
        }
    }
}

fn validate_owners(meta: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for (i, owner) in meta.owner_references.iter().flatten().enumerate() {
        let path = path.index(i);
        for (field, value) in [
            ("apiVersion", &owner.api_version),
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            if value.is_empty() {
                errors.invalid(&path.child(field), "", format!("{field} must not be empty"));
            }
        }
        if owner.controller == Some(true) {
            let this = format!("{}/{}", owner.kind, owner.name);
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.invalid(&path, this.as_str(), detail);
            }
            controller = Some(this);
        }
    }
}

/// Checks what an update may not change in metadata.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    let texts = [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
        ("uid", &new.uid, &old.uid),
    ];
    for (field, new, old) in texts {
        errors.immutable(&path.child(field), new, old, new.clone().unwrap_or_default());
    }
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.clone().unwrap_or_default();
        let added: Vec<_> = new.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.forbidden(&path.child("finalizers"), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns1123_subdomain("my.pod-1").is_empty());
        assert!(!dns1123_subdomain("My_Pod").is_empty());
        assert!(!dns1123_label("a.b").is_empty());
        assert!(!dns1035_label("1a").is_empty());
        assert!(!dns1035_label("").is_empty());
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert!(!qualified_name("/x").is_empty());
        assert!(!qualified_name("a/b/c").is_empty());
        assert!(label_value("").is_empty());
        assert!(!label_value("-x").is_empty());
        assert!(!path_segment("a/b").is_empty());
    }
}
