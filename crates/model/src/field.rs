//! Errors about fields, with the paths and wordings of `k8s.io/apimachinery` `field.Error`, which
//! users read and scripts search.

use std::fmt;

use serde_json::Value;

/// What is wrong with a field: `metav1.CauseType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum CauseKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    NotFound,
    TooLong,
    TooMany,
    TypeInvalid,
}

impl CauseKind {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub cause: CauseKind,
    /// Its path, `spec.containers[0].name`.
    pub field: String,
    /// The value, as messages show it; empty where they show none.
    pub value: String,
    /// More words, or empty.
    pub detail: String,
}

impl FieldError {
    /// The message without the path.
    pub fn body(&self) -> String {
        let mut text = self.cause.text().to_owned();
        if !self.value.is_empty() {
            text = format!("{text}: {}", self.value);
        }
        if !self.detail.is_empty() {
            text = format!("{text}: {}", self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A path under construction. Cheap to extend: `path.child("spec").index(0)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path that starts with `name`.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Errors as they are found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that must be there is not.
    pub fn required(&mut self, field: &Path, detail: impl Into<String>) {
        self.push(CauseKind::Required, field, String::new(), detail);
    }

    /// A value is wrong; `value` is shown as JSON shows it.
    pub fn invalid(&mut self, field: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(CauseKind::Invalid, field, shown(&value.into()), detail);
    }

    /// A value is none of those that are known.
    pub fn not_supported(&mut self, field: &Path, value: impl Into<Value>, known: &[&str]) {
        let mut known = known.to_vec();
        known.sort_unstable();
        let known: Vec<String> = known.iter().map(|k| format!("\"{k}\"")).collect();
        let detail = format!("supported values: {}", known.join(", "));
        self.push(CauseKind::NotSupported, field, shown(&value.into()), detail);
    }

    /// A value must not be there, or must not change.
    pub fn forbidden(&mut self, field: &Path, detail: impl Into<String>) {
        self.push(CauseKind::Forbidden, field, String::new(), detail);
    }

    /// A value is there twice.
    pub fn duplicate(&mut self, field: &Path, value: impl Into<Value>) {
        self.push(CauseKind::Duplicate, field, shown(&value.into()), "");
    }

    /// What a value names is not there.
    pub fn not_found(&mut self, field: &Path, value: impl Into<Value>) {
        self.push(CauseKind::NotFound, field, shown(&value.into()), "");
    }

    /// A text is too long.
    pub fn too_long(&mut self, field: &Path, limit: usize) {
        self.push(CauseKind::TooLong, field, String::new(), format!("may not be more than {limit} bytes"));
    }

    /// A list is too long.
    pub fn too_many(&mut self, field: &Path, count: usize, limit: usize) {
        let detail = format!("must have at most {limit} items");
        self.push(CauseKind::TooMany, field, count.to_string(), detail);
    }

    /// `field is immutable`, when the two differ.
    pub fn immutable<T: PartialEq>(&mut self, field: &Path, new: &T, old: &T, value: impl Into<Value>) {
        if new != old {
            self.invalid(field, value, "field is immutable");
        }
    }

    /// One more error.
    pub fn push(&mut self, cause: CauseKind, field: &Path, value: String, detail: impl Into<String>) {
        self.0.push(FieldError { cause, field: field.0.clone(), value, detail: detail.into() });
    }

    /// All of another list's errors, too.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order they were found.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_those_of_kubernetes() {
        let mut errors = FieldErrors::new();
        let spec = Path::new("spec");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.not_supported(
            &spec.child("containers").index(0).child("imagePullPolicy"),
            "x",
            &["Never", "Always"],
        );
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(
            texts[1],
            "spec.containers[0].imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\""
        );
    }
}
