//! Metadata that every object has: names, labels, annotations, owners, finalizers.
//!
//! Rules and wordings are those of `k8s.io/apimachinery` `validation`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{CauseKind, FieldErrors, Path};
use crate::kind::{Descriptor, NameRule};
use crate::kinds::check::{json, optional_non_negative};
use crate::strategy::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};

/// Longest label value and name part of a qualified name.
const LABEL_MAX: usize = 63;
/// Longest subdomain, and with it most names.
const SUBDOMAIN_MAX: usize = 253;
/// What is wrong with other names without a prefix.
pub(crate) const UNQUALIFIED_FINALIZER: &str =
    "name is neither a standard finalizer name nor is it fully qualified";
/// Finalizers that need no domain.
const OWN_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];
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

/// Warns of a name that is used where DNS looks, and is not made for it.
pub(crate) fn hostname_warning(meta: &ObjectMeta, used_in: &str) -> Vec<String> {
    let wrong = meta.name.as_deref().map(dns1123_label).unwrap_or_default();
    if wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        wrong.join(" ")
    )]
}

/// Takes back what a write of a status said of an object's metadata, for kinds that let it say nothing.
pub(crate) fn keep(meta: &mut ObjectMeta, old: &ObjectMeta) {
    meta.labels.clone_from(&old.labels);
    meta.annotations.clone_from(&old.annotations);
    meta.finalizers.clone_from(&old.finalizers);
    meta.owner_references.clone_from(&old.owner_references);
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
    if let Some(base) = meta.generate_name.as_deref().filter(|base| !base.is_empty()) {
        for wrong in name(kind.name_rule, &completed(base)) {
            errors.invalid(&path.child("generateName"), base, wrong);
        }
    }
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
    optional_non_negative(errors, &path.child("generation"), meta.generation);
    validate_labels(meta.labels.as_ref(), &path.child("labels"), errors);
    validate_annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    validate_owners(meta, &path.child("ownerReferences"), errors);
    validate_finalizers(meta, &path.child("finalizers"), errors);
}

/// The beginning of a name as the rule for whole names can judge it: it may end with a hyphen, which may be one
/// character too many.
fn completed(base: &str) -> String {
    let mut text = base.to_owned();
    if base.len() > 1 && base.ends_with('-') {
        text.pop();
        text.pop();
        text.push('a');
    }
    text
}

/// Whether a finalizer is neither Kubernetes' own nor says whose it is.
pub(crate) fn is_unqualified(finalizer: &str) -> bool {
    !finalizer.contains('/') && !OWN_FINALIZERS.contains(&finalizer)
}

/// Checks finalizers: their form, that they are qualified unless Kubernetes' own, and that dependents
/// are not to go and to stay.
fn validate_finalizers(meta: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for (i, finalizer) in finalizers.iter().enumerate() {
        let wrong = qualified_name(finalizer);
        if wrong.is_empty() && is_unqualified(finalizer) {
            errors.invalid(&path.index(i), finalizer.as_str(), UNQUALIFIED_FINALIZER);
        }
        for wrong in wrong {
            errors.invalid(path, finalizer.as_str(), wrong);
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN_FINALIZER) && has(FOREGROUND_FINALIZER) {
        let detail = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        errors.invalid(path, finalizers.to_vec(), detail);
    }
}

/// The version in an apiVersion; none of what is no apiVersion.
fn version_of(api_version: &str) -> &str {
    match api_version.split_once('/') {
        Some((_, version)) if version.contains('/') => "",
        Some((_, version)) => version,
        None => api_version,
    }
}

fn validate_owners(meta: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in meta.owner_references.iter().flatten() {
        for (field, value, word) in [
            ("apiVersion", version_of(&owner.api_version), "version"),
            ("kind", &owner.kind, "kind"),
            ("name", &owner.name, "name"),
            ("uid", &owner.uid, "uid"),
        ] {
            if value.is_empty() {
                // Which of the references it is, the path does not say: Kubernetes' does not either.
                let shown = if word == "version" { owner.api_version.as_str() } else { "" };
                errors.invalid(&path.child(field), shown, format!("{word} must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(path, json(owner), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    owner.name
                );
                errors.invalid(path, json(&meta.owner_references), detail);
            }
            controller = Some(owner.name.clone());
        }
    }
}

/// Checks what an update may not change in metadata, and what may change once more: so does Kubernetes,
/// and the causes of a refusal show it.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    validate_labels(new.labels.as_ref(), &path.child("labels"), errors);
    validate_annotations(new.annotations.as_ref(), &path.child("annotations"), errors);
    validate_owners(new, &path.child("ownerReferences"), errors);
    let texts = [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
        ("uid", &new.uid, &old.uid),
    ];
    for (field, new, old) in texts {
        errors.immutable(&path.child(field), new, old, new.clone().unwrap_or_default());
    }
    if let Some(new) =
        new.deletion_timestamp.as_ref().filter(|new| Some(*new) != old.deletion_timestamp.as_ref())
    {
        // As Go writes a time.
        let shown = new.0.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string();
        errors.push(CauseKind::Invalid, &path.child("deletionTimestamp"), shown, "field is immutable");
    }
    let (new_grace, old_grace) = (new.deletion_grace_period_seconds, old.deletion_grace_period_seconds);
    errors.immutable(&path.child("deletionGracePeriodSeconds"), &new_grace, &old_grace, new_grace);
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.clone().unwrap_or_default();
        let added = new.finalizers.iter().flatten().filter(|f| !known.contains(f));
        let added: Vec<String> = added.map(|finalizer| format!("{finalizer:?}")).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(value: serde_json::Value) -> Vec<String> {
        let meta: ObjectMeta = serde_json::from_value(value).unwrap();
        let mut errors = FieldErrors::new();
        validate_owners(&meta, &Path::new("ownerReferences"), &mut errors);
        validate_finalizers(&meta, &Path::new("finalizers"), &mut errors);
        errors.into_vec().into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect()
    }

    #[test]
    fn finalizers_are_qualified_or_kubernetes_own() {
        use serde_json::json;
        assert!(wrong(json!({"finalizers": ["kubernetes", "orphan", "example.com/a"]})).is_empty());
        let plain = wrong(json!({"finalizers": ["plain"]}));
        assert!(plain.len() == 1 && plain[0].starts_with("finalizers[0]: name is neither"), "{plain:?}");
        assert_eq!(wrong(json!({"finalizers": ["a b/c"]})).len(), 1);
        assert_eq!(wrong(json!({"finalizers": ["orphan", "foregroundDeletion"]})).len(), 1);
    }

    #[test]
    fn owners_are_named_and_one_of_them_controls() {
        use serde_json::json;
        let owner = |name: &str, kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true});
        assert!(wrong(json!({"ownerReferences": [owner("a", "Pod")]})).is_empty());
        assert_eq!(wrong(json!({"ownerReferences": [owner("a", "Event")]})).len(), 1);
        let two = wrong(json!({"ownerReferences": [owner("a", "Pod"), owner("b", "Pod")]}));
        assert!(two.len() == 1 && two[0].ends_with("for a and b"), "{two:?}");
        let empty =
            wrong(json!({"ownerReferences": [{"apiVersion": "", "kind": "Pod", "name": "x", "uid": ""}]}));
        assert_eq!(empty[0], "ownerReferences.apiVersion: version must not be empty");
        let three = json!({"apiVersion": "a/b/c", "kind": "Pod", "name": "x", "uid": "u"});
        assert_eq!(
            wrong(json!({"ownerReferences": [three]})),
            ["ownerReferences.apiVersion: version must not be empty"]
        );
    }

    #[test]
    fn beginnings_of_names_are_checked_too() {
        use crate::kind::kind_of;
        let wrong = |meta: serde_json::Value| {
            let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
            let kind = kind_of::<k8s_openapi::api::core::v1::ConfigMap>().descriptor();
            let mut errors = FieldErrors::new();
            validate(&meta, kind, &mut errors);
            errors.into_vec().into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        use serde_json::json;
        assert!(wrong(json!({"name": "a-x", "generateName": "a-"})).is_empty());
        for base in ["A_", "-", &"a".repeat(300)] {
            assert_eq!(wrong(json!({"name": "a", "generateName": base})), ["metadata.generateName"]);
        }
        assert_eq!(wrong(json!({"name": "a", "generation": -5})), ["metadata.generation"]);
    }

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
