//! Patches: from the object that is there and a client's patch to the object that is wanted.
//!
//! - `json`: RFC 6902, with the lenience of Kubernetes' own implementation;
//! - `merge`: RFC 7386;
//! - [`strategic`]: Kubernetes' own, which knows how lists merge;
//! - [`three_way`](fn@three_way): makes a strategic patch out of three versions of an object.
//!
//! Server-side apply is no patch in this sense: it keeps books of who owns what, elsewhere.

mod json;
mod merge;
pub mod strategic;
mod three_way;

use serde_json::Value;

use crate::kind::KindRef;
use crate::schema::{self, Checked};
use crate::status::{Cause, Failure, Reason};

pub use three_way::three_way;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// A list of operations, RFC 6902.
    Json,
    /// A part of the object, RFC 7386.
    Merge,
    /// A part of the object, with directives and merge keys.
    Strategic,
    /// What one manager wants of the object: server-side apply.
    Apply,
}

impl PatchType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Merge, Self::Strategic, Self::Apply];

    /// Its media type. An apply may come as CBOR, too.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }

    /// The type that a `Content-Type` header names; parameters are ignored.
    ///
    /// # Errors
    /// `UnsupportedMediaType` for anything else.
    pub fn from_content_type(header: &str) -> Result<Self, Failure> {
        let media_type = header.split(';').next().unwrap_or_default().trim();
        let known = Self::ALL.into_iter().find(|t| t.content_type().eq_ignore_ascii_case(media_type));
        let cbor = || media_type.eq_ignore_ascii_case("application/apply-patch+cbor").then_some(Self::Apply);
        known.or_else(cbor).ok_or_else(|| Failure::generic(Reason::UnsupportedMediaType))
    }
}

/// Applies a client's patch to the JSON of an object. The result is canonical; unknown fields are
/// dropped from it and told.
///
/// # Errors
/// `BadRequest` when the patch is no patch, `Invalid` when it cannot be applied or its result is no
/// object of the kind. [`PatchType::Apply`] is refused: it is not done here.
pub fn apply(patch_type: PatchType, kind: KindRef, current: &Value, body: &[u8]) -> Result<Checked, Failure> {
    apply_to(patch_type, kind.descriptor().message, current, body)
}

/// The same for what is no kind of its own, such as a Scale: `message` is its name in the schema.
///
/// # Errors
/// As [`apply`].
pub fn apply_to(
    patch_type: PatchType,
    message: &str,
    current: &Value,
    body: &[u8],
) -> Result<Checked, Failure> {
    let patched = match patch_type {
        PatchType::Json => json::apply(current, body)?,
        PatchType::Merge => {
            let patch: Value =
                serde_json::from_slice(body).map_err(|_| Failure::bad_request("Invalid JSON Patch"))?;
            let mut patched = current.clone();
            merge::apply(&mut patched, patch);
            patched
        }
        PatchType::Strategic => {
            let patch = whole_numbers(object(body)?);
            strategic::apply(message, current, &patch)?
        }
        PatchType::Apply => return Err(Failure::internal("an apply patch is merged by field managers")),
    };
    check(message, current, patched)
}

/// What a client should be told about the text of its patch: fields that stand twice, and in a JSON patch
/// fields of an operation that there are none of. What the result has too much is told by [`apply`].
pub fn oddities(patch_type: PatchType, body: &[u8]) -> Vec<String> {
    let duplicates = schema::duplicates(body);
    match patch_type {
        PatchType::Merge | PatchType::Strategic => duplicates,
        PatchType::Json => {
            let found = json::unknown_fields(body);
            duplicates.into_iter().chain(found).map(|found| format!("json patch {found}")).collect()
        }
        // Its text is YAML, and read as such.
        PatchType::Apply => Vec::new(),
    }
}

/// The refusal of a patch under `fieldValidation=Strict`; `None` when there is nothing to refuse.
pub fn strict_failure(patched: &Value, found: &[String]) -> Option<Failure> {
    let why = || format!("strict decoding error: {}", found.join(", "));
    (!found.is_empty()).then(|| invalid(&patched.to_string(), &why()))
}

/// The same with whole numbers without a fraction: programs that know one sort of number write `1.0`.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) if float.fract() == 0.0 && float.abs() < 9.0e15 => (float as i64).into(),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, whole_numbers(value))).collect())
        }
        other => other,
    }
}

fn object(body: &[u8]) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let found = match value {
        Value::Object(_) => return Ok(value),
        Value::Null => "null",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(Failure::bad_request(format!(
        "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
    )))
}

/// The result as an object: of the kind it was, in canonical form.
fn check(message: &str, current: &Value, mut patched: Value) -> Result<Checked, Failure> {
    let shown = patched.to_string();
    let refuse = |why: &str| invalid(&shown, why);
    if let Some(map) = patched.as_object_mut() {
        for field in ["apiVersion", "kind"] {
            match (map.get(field), current.get(field)) {
                // What a patch takes away is known anyway.
                (None | Some(Value::Null), Some(value)) => {
                    map.insert(field.to_owned(), value.clone());
                }
                (new, old) if new == old => {}
                (new, old) => {
                    let text =
                        |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
                    return Err(refuse(&format!(
                        "{field} must stay \"{}\", not become \"{}\"",
                        text(old),
                        text(new)
                    )));
                }
            }
        }
    }
    schema::check(message, patched).map_err(|failure| refuse(&failure.message))
}

/// How Kubernetes refuses the result of a patch: an error about a field `patch`, of no object.
fn invalid(shown: &str, why: &str) -> Failure {
    let body = format!("Invalid value: {}: {why}", Value::from(shown));
    let mut failure = Failure::new(Reason::Invalid, format!(" \"\" is invalid: patch: {body}"));
    failure.causes.push(Cause {
        reason: "FieldValueInvalid".to_owned(),
        message: body,
        field: "patch".to_owned(),
    });
    failure
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::kind::kind_of;

    fn config_map() -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}})
    }

    fn patched(patch_type: PatchType, body: &str) -> Result<Checked, Failure> {
        apply(patch_type, kind_of::<ConfigMap>(), &config_map(), body.as_bytes())
    }

    #[test]
    fn strategic_patches_may_write_whole_numbers_with_a_fraction() {
        let found = whole_numbers(json!({"spec": {"replicas": 1.0, "list": [2e3, 1.5, 7]}}));
        assert_eq!(found, json!({"spec": {"replicas": 1, "list": [2000, 1.5, 7]}}));
    }

    #[test]
    fn results_are_objects_of_the_kind() {
        let checked = patched(PatchType::Merge, r#"{"data": {"b": "2"}, "bogus": 1, "kind": null}"#).unwrap();
        assert_eq!(checked.value["data"], json!({"a": "1", "b": "2"}));
        assert_eq!(checked.value["kind"], "ConfigMap");
        assert_eq!(checked.unknown, ["unknown field \"bogus\""]);
        for (patch_type, body) in [
            (PatchType::Merge, r#"{"data": {"a": 5}}"#),
            (PatchType::Merge, "[]"),
            (PatchType::Json, r#"[{"op": "replace", "path": "/kind", "value": "Secret"}]"#),
            (PatchType::Strategic, r#"{"data": "x"}"#),
        ] {
            let failure = patched(patch_type, body).unwrap_err();
            assert_eq!(failure.reason, Reason::Invalid, "{body}");
            assert!(failure.message.starts_with(" \"\" is invalid: patch: Invalid value: "), "{body}");
        }
        for (patch_type, body) in
            [(PatchType::Merge, "{"), (PatchType::Strategic, "3"), (PatchType::Json, "{}")]
        {
            assert_eq!(patched(patch_type, body).unwrap_err().reason, Reason::BadRequest, "{body}");
        }
    }

    #[test]
    fn content_types_are_read() {
        let parse = PatchType::from_content_type;
        assert_eq!(parse("application/merge-patch+json; charset=utf-8"), Ok(PatchType::Merge));
        let failure = parse("application/json").unwrap_err();
        assert_eq!(failure.reason, Reason::UnsupportedMediaType);
    }
}
