//! What the faces of stored kinds share: see [`crate::kind::Face`].

use serde_json::Value;

use crate::kind::Kind;

/// The stored object behind one of a face; `None` if it does not decode.
pub(super) fn behind<F: Kind, K: Kind>(shown: &F) -> Option<K> {
    let face = F::FACE?;
    let mut value = (face.to_stored)(serde_json::to_value(shown).ok()?);
    let fields = value.as_object_mut()?;
    fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind"));
    serde_json::from_value(value).ok()
}

/// Renames fields of an object, in their places.
pub(super) fn renamed(value: Value, names: &[(&str, &str)]) -> Value {
    let Value::Object(fields) = value else { return value };
    let name = |field: String| match names.iter().find(|(from, _)| *from == field) {
        Some((_, to)) => (*to).to_owned(),
        None => field,
    };
    fields.into_iter().map(|(field, value)| (name(field), value)).collect()
}
