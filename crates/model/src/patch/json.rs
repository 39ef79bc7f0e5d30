//! JSON patches, RFC 6902.
//!
//! As lenient as what Kubernetes uses: replacing what is not there adds it, and a missing value is null.

use serde::Deserialize;
use serde_json::Value;

use crate::status::{Failure, Reason};

/// How many operations a patch may have.
const MAX_OPERATIONS: usize = 10_000;

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    value: Value,
}

/// Fields of operations that no operation has.
pub(super) fn unknown_fields(body: &[u8]) -> Vec<String> {
    const KNOWN: [&str; 4] = ["op", "path", "from", "value"];
    let operations: Vec<serde_json::Map<String, Value>> = serde_json::from_slice(body).unwrap_or_default();
    let of_one = |(n, operation): (usize, serde_json::Map<String, Value>)| {
        let unknown = operation.into_iter().filter(|(field, _)| !KNOWN.contains(&field.as_str()));
        unknown.map(|(field, _)| format!("unknown field \"[{n}].{field}\"")).collect::<Vec<_>>()
    };
    operations.into_iter().enumerate().flat_map(of_one).collect()
}

/// Applies a patch.
///
/// # Errors
/// `BadRequest` when the body is no list of operations, `Invalid` when one of them cannot be done.
pub(super) fn apply(current: &Value, body: &[u8]) -> Result<Value, Failure> {
    let patch: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let patch: Vec<Operation> = match patch {
        Value::Array(_) => serde_json::from_value(patch)
            .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?,
        _ => {
            return Err(Failure::bad_request(
                "json: cannot unmarshal object into Go value of type jsonpatch.Patch",
            ));
        }
    };
    if patch.len() > MAX_OPERATIONS {
        return Err(Failure::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                patch.len()
            ),
        ));
    }
    let mut document = current.clone();
    for operation in patch {
        if operate(&mut document, operation).is_none() {
            return Err(Failure::generic(Reason::Invalid));
        }
    }
    Ok(document)
}

fn operate(document: &mut Value, operation: Operation) -> Option<()> {
    let path = Pointer::parse(&operation.path)?;
    match operation.op.as_str() {
        "add" => add(document, &path, operation.value),
        "remove" => remove(document, &path).map(drop),
        "replace" => replace(document, &path, operation.value),
        "test" => {
            let found = get(document, &path).unwrap_or(&Value::Null);
            (*found == operation.value).then_some(())
        }
        "copy" => {
            let value = get(document, &Pointer::parse(&operation.from)?)?.clone();
            add(document, &path, value)
        }
        "move" => {
            let value = remove(document, &Pointer::parse(&operation.from)?)?;
            add(document, &path, value)
        }
        _ => None,
    }
}

/// A JSON pointer; no parts: the whole document.
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let mut parts = text.split('/');
        // What stands before the first slash has never been looked at.
        parts.next();
        let parts: Vec<String> = parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        (!parts.is_empty()).then_some(Self(parts))
    }
}

fn get<'a>(document: &'a Value, pointer: &Pointer) -> Option<&'a Value> {
    pointer.0.iter().try_fold(document, |value, part| match value {
        Value::Object(map) => map.get(part),
        Value::Array(items) => items.get(index(part, items.len())?),
        _ => None,
    })
}

/// What holds the last part of a pointer, and that part.
fn parent<'a, 'p>(document: &'a mut Value, pointer: &'p Pointer) -> Option<(&'a mut Value, &'p str)> {
    let (last, above) = pointer.0.split_last()?;
    let parent = above.iter().try_fold(document, |value, part| match value {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => {
            let at = index(part, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })?;
    Some((parent, last))
}

/// An index into a list; negative ones count from its end.
fn index(part: &str, length: usize) -> Option<usize> {
    match part.strip_prefix('-') {
        Some(back) => length.checked_sub(back.parse().ok()?),
        None => part.parse().ok(),
    }
}

fn add(document: &mut Value, pointer: &Pointer, value: Value) -> Option<()> {
    if pointer.0.is_empty() {
        *document = value;
        return Some(());
    }
    match parent(document, pointer)? {
        (Value::Object(map), name) => {
            map.insert(name.to_owned(), value);
        }
        (Value::Array(items), "-") => items.push(value),
        (Value::Array(items), part) => {
            let at = index(part, items.len() + 1).filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn replace(document: &mut Value, pointer: &Pointer, value: Value) -> Option<()> {
    if pointer.0.is_empty() {
        *document = value;
        return Some(());
    }
    match parent(document, pointer)? {
        (Value::Object(map), name) => {
            map.insert(name.to_owned(), value);
        }
        (Value::Array(items), part) => {
            let at = index(part, items.len())?;
            *items.get_mut(at)? = value;
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, pointer: &Pointer) -> Option<Value> {
    match parent(document, pointer)? {
        (Value::Object(map), name) => map.shift_remove(name),
        (Value::Array(items), part) => {
            let at = index(part, items.len()).filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(patch: Value) -> Result<Value, Failure> {
        let document = json!({"data": {"a": "1", "b": "2"}, "list": [1, 2], "x/y": 1, "m~n": 2});
        apply(&document, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_are_done() {
        let result = patched(json!([
            {"op": "test", "path": "/data/a", "value": "1"},
            {"op": "replace", "path": "/data/a", "value": "9"},
            {"op": "move", "from": "/data/a", "path": "/data/moved"},
            {"op": "copy", "from": "/data/b", "path": "/data/copied"},
            {"op": "add", "path": "/list/-", "value": 3},
            {"op": "add", "path": "/list/0", "value": 0},
            {"op": "remove", "path": "/list/1"},
            {"op": "replace", "path": "/x~1y", "value": 5},
            {"op": "remove", "path": "/m~0n"},
        ]))
        .unwrap();
        assert_eq!(
            result,
            json!({"data": {"b": "2", "moved": "9", "copied": "2"}, "list": [0, 2, 3], "x/y": 5})
        );
    }

    #[test]
    fn as_lenient_as_kubernetes() {
        let result = patched(json!([
            {"op": "replace", "path": "/data/none", "value": "x"},
            {"op": "add", "path": "/data/z"},
            {"op": "test", "path": "/data/missing", "value": null},
            {"op": "add", "path": "data/top", "value": 1},
        ]))
        .unwrap();
        assert_eq!(result["data"], json!({"a": "1", "b": "2", "none": "x", "z": null}));
        assert_eq!(result["top"], 1);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for patch in [
            json!([{"op": "test", "path": "/data/a", "value": "2"}]),
            json!([{"op": "remove", "path": "/data/none"}]),
            json!([{"op": "add", "path": "/nope/deep", "value": "x"}]),
            json!([{"op": "add", "path": "/list/9", "value": "x"}]),
            json!([{"op": "move", "from": "/nope", "path": "/x"}]),
            json!([{"op": "frob", "path": "/x"}]),
            json!([{"path": "/data/a", "value": "1"}]),
            json!([{"op": "remove", "path": ""}]),
        ] {
            assert_eq!(patched(patch.clone()).unwrap_err().reason, Reason::Invalid, "{patch}");
        }
        assert_eq!(patched(json!({"op": "add"})).unwrap_err().reason, Reason::BadRequest);
        let many: Vec<Value> =
            (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": "/data/a", "value": "1"})).collect();
        assert_eq!(patched(many.into()).unwrap_err().reason, Reason::RequestEntityTooLarge);
    }
}
