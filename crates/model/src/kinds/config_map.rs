//! ConfigMap: small text or bytes that pods read.
//! Invariant: once `immutable`, neither the data nor `immutable` itself changes again.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

/// All values of one ConfigMap or Secret together, in bytes.
pub(crate) const MAX_DATA_BYTES: usize = 1024 * 1024;

impl Kind for ConfigMap {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["cm"],
        columns: &[Column::NAME, Column::text("Data"), Column::AGE],
        ..Descriptor::namespaced("", "v1", "ConfigMap", "configmaps", "configmap", "core.v1.ConfigMap")
    };

    fn validate(&self, errors: &mut FieldErrors) {
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            validate_key(&Path::new("data"), key, errors);
            if self.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                let detail = "duplicate of key present in binaryData";
                errors.invalid(&Path::new("data").key(key), key.as_str(), detail);
            }
            size += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            validate_key(&Path::new("binaryData"), key, errors);
            size += value.0.len();
        }
        if size > MAX_DATA_BYTES {
            // The object as a whole has no name; the reference server writes brackets.
            errors.too_long(&Path::new("[]"), MAX_DATA_BYTES);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        if self.immutable != Some(true) {
            errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
        }
        for (field, changed) in
            [("data", self.data != old.data), ("binaryData", self.binary_data != old.binary_data)]
        {
            if changed {
                errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
            }
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let count =
            self.data.as_ref().map_or(0, |d| d.len()) + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![
            Cell::name(self.metadata()),
            Cell::number(i64::try_from(count).unwrap_or(i64::MAX)),
            Cell::age(self.metadata(), now),
        ]
    }
}

/// Checks a key of a ConfigMap's or Secret's data: it becomes a file name.
pub(crate) fn validate_key(path: &Path, key: &str, errors: &mut FieldErrors) {
    const RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let path = path.key(key);
    if key.len() > 253 {
        errors.invalid(&path, key, "must be no more than 253 characters");
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.invalid(&path, key, RULE);
    }
    if key == "." || key == ".." {
        errors.invalid(&path, key, format!("must not be '{key}'"));
    } else if key.starts_with("..") {
        errors.invalid(&path, key, "must not start with '..'");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config_map(data: &[(&str, &str)], immutable: bool) -> ConfigMap {
        let data: BTreeMap<String, String> =
            data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { data: Some(data), immutable: immutable.then_some(true), ..ConfigMap::default() }
    }

    fn errors(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::new();
        check(&mut errors);
        errors.into_vec().iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn keys_must_be_file_names() {
        assert!(errors(|e| Kind::validate(&config_map(&[("ok.txt", "")], false), e)).is_empty());
        assert_eq!(errors(|e| Kind::validate(&config_map(&[("a/b", "")], false), e)), ["data[a/b]"]);
    }

    #[test]
    fn immutable_is_never_unset() {
        let old = config_map(&[("a", "1")], true);
        let new = config_map(&[("a", "2")], false);
        assert_eq!(errors(|e| Kind::validate_update(&new, &old, e)), ["immutable", "data"]);
    }
}
