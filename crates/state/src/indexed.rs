//! The values of indexed fields, read out of an object's JSON without decoding the object: a pod costs a
//! tenth of it, on every server and for each of its changes.
//!
//! Invariant: an indexed field label is the path of a text in the object's JSON, and an absent one is
//! empty, as [`AnyObject::field`](balsa_model::AnyObject::field) says it; a test asks every kind.

use std::fmt;
use std::sync::Arc;

use balsa_model::Object;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The values of a kind's indexed fields, in the order of its descriptor.
pub(crate) type FieldValues = Arc<[Arc<str>]>;

/// The values of the fields that `object`'s kind indexes.
pub(crate) fn field_values(object: &Object) -> FieldValues {
    let labels = object.kind().descriptor().indexed_fields;
    if labels.is_empty() {
        // Shared: there are many such objects.
        return Arc::default();
    }
    labels.iter().map(|label| text_at(object.bytes(), label).unwrap_or_default().into()).collect()
}

fn text_at(json: &[u8], path: &str) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    TextAt(path).deserialize(&mut deserializer).ok().flatten()
}

/// Finds the text at a path of names, separated by dots; the empty path is the value itself.
struct TextAt<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for TextAt<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextAt<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (wanted, rest) = self.0.split_once('.').unwrap_or((self.0, ""));
        let mut found = None;
        while let Some(is_wanted) = map.next_key_seed(Is(wanted))? {
            if is_wanted {
                found = map.next_value_seed(TextAt(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.is_empty().then(|| text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a name is the one that is looked for, without copying it.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use balsa_model::kinds;
    use serde_json::{Value, json};

    use super::*;

    fn at(path: &str) -> Option<String> {
        let json = json!({
            "spec": {"a": [1, {"b": "no"}], "n": 1.5, "b": "yes \"1\"", "c": null, "deep": {"b": "deeper"}},
            "b": "top", "spec.b": "odd",
        });
        text_at(json.to_string().as_bytes(), path)
    }

    #[test]
    fn texts_are_found_where_they_are() {
        assert_eq!(at("spec.b").as_deref(), Some("yes \"1\""));
        assert_eq!(at("spec.deep.b").as_deref(), Some("deeper"));
        assert_eq!(at("b").as_deref(), Some("top"));
        for nothing in ["spec", "spec.a", "spec.n", "spec.c", "spec.x", "spec.a.b", "spec.b.x", "x", "b.x"] {
            assert_eq!(at(nothing), None, "{nothing}");
        }
        assert_eq!(text_at(b"{\"b\":", "b"), None);
    }

    /// Otherwise the index would not find what the selector selects.
    #[test]
    fn every_kinds_indexed_fields_are_paths_of_texts() {
        for kind in kinds::all() {
            for label in kind.descriptor().indexed_fields {
                let with = label.rsplit('.').fold(json!("some-text"), |value, name| json!({name: value}));
                for (value, expected) in [(with, "some-text"), (json!({}), "")] {
                    let typed = decode(*kind, value.clone());
                    assert_eq!(typed.field(label), expected, "{kind:?} {label}");
                    let found = text_at(typed.to_value().to_string().as_bytes(), label).unwrap_or_default();
                    assert_eq!(found, expected, "{kind:?} {label}");
                }
            }
        }
    }

    fn decode(kind: balsa_model::KindRef, value: Value) -> Box<dyn balsa_model::AnyObject> {
        kind.decode(value).unwrap_or_else(|error| panic!("{kind:?}: {error:?}"))
    }
}
