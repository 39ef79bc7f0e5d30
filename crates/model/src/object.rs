//! A stored object: the canonical JSON that goes on the wire, beside its decoded metadata.
//!
//! The bytes are spliced into lists and watch events as they are; nothing re-encodes them. Invariant:
//! they start with the kind's fixed prefix, so that the revision can be spliced in when the log has
//! given one ([`Object::seal`]), and `metadata.resourceVersion` is the revision that last changed it.
//!
//! `metadata.managedFields`, which can be as long as all the rest, stands last in the metadata and only in
//! the bytes: neither the decoded metadata nor the typed form have it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kind::{AnyObject, Kind, KindRef, kind_of};
use crate::typed::Typed;

/// The number of a Mutation in the whole log: an object's `resourceVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Revision {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Where an object is within its kind. The namespace of a cluster-scoped object is empty. Ordered by
/// namespace, then name, as lists are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace, or empty.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// The key of `name` in `namespace` (empty: cluster-scoped).
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One version of an object. Immutable, cheap to share.
pub struct Object {
    kind: KindRef,
    key: Key,
    revision: Revision,
    bytes: Bytes,
    meta: ObjectMeta,
    /// Where the text of its managedFields is.
    managed: Range<usize>,
    typed: Typed,
}

/// Why stored bytes are not an object. It is an alarm: what is stored was checked when it came in.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The bytes do not start as the kind's objects do.
    #[error("not the canonical form of a {0}")]
    NotCanonical(&'static str),
    /// The JSON does not decode.
    #[error("stored object does not decode: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct MetaOnly<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

/// Metadata without managedFields, and their text.
struct Metadata<'a> {
    meta: ObjectMeta,
    managed: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Metadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Metadata<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let mut managed = None;
                let rest = Rest { map, managed: &mut managed };
                let meta = ObjectMeta::deserialize(MapAccessDeserializer::new(rest))?;
                Ok(Metadata { meta, managed })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The fields of metadata but for managedFields.
struct Rest<'m, 'de, A> {
    map: A,
    managed: &'m mut Option<&'de RawValue>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Rest<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        while let Some(Name(name)) = self.map.next_key()? {
            if name != MANAGED_FIELDS {
                return seed.deserialize((&*name).into_deserializer()).map(Some);
            }
            *self.managed = Some(self.map.next_value()?);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

const MANAGED_FIELDS: &str = "managedFields";
/// What stands before their text, but for the first field of the metadata.
const MANAGED_FIELDS_KEY: &str = ",\"managedFields\":";

impl Object {
    /// The canonical JSON of `value` without a resourceVersion: kind, apiVersion and metadata first,
    /// then the other fields in their order. This is what a Mutation carries.
    pub fn canonical(kind: KindRef, value: &Value) -> Vec<u8> {
        let managed = value.get("metadata").and_then(|metadata| metadata.get(MANAGED_FIELDS));
        let managed = managed.filter(|managed| !managed.is_null()).map(Value::to_string);
        Self::canonical_with(kind, value, managed.as_deref().unwrap_or_default())
    }

    /// The same with another text of `managedFields`; empty: none.
    pub fn canonical_with(kind: KindRef, value: &Value, managed: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024 + managed.len());
        out.extend_from_slice(kind.prefix().as_bytes());
        let mut comma = false;
        for (name, field) in value.get("metadata").and_then(Value::as_object).into_iter().flatten() {
            if !matches!(name.as_str(), "resourceVersion" | MANAGED_FIELDS) && !field.is_null() {
                write_field(&mut out, comma, name, field);
                comma = true;
            }
        }
        if !managed.is_empty() {
            let key = if comma { MANAGED_FIELDS_KEY } else { &MANAGED_FIELDS_KEY[1..] };
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(managed.as_bytes());
        }
        out.push(b'}');
        for (name, field) in value.as_object().into_iter().flatten() {
            if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") && !field.is_null() {
                write_field(&mut out, true, name, field);
            }
        }
        out.push(b'}');
        out
    }

    /// Gives canonical bytes their revision: the one copy that an apply makes.
    ///
    /// # Errors
    /// When the bytes are not canonical JSON of `kind`.
    pub fn seal(kind: KindRef, canonical: &[u8], revision: Revision) -> Result<Self, ObjectError> {
        let rest = canonical
            .strip_prefix(kind.prefix().as_bytes())
            .ok_or(ObjectError::NotCanonical(kind.descriptor().kind))?;
        let comma = if rest.first() == Some(&b'}') { "" } else { "," };
        let version = format!("\"resourceVersion\":\"{revision}\"{comma}");
        let mut bytes = Vec::with_capacity(canonical.len() + version.len());
        bytes.extend_from_slice(kind.prefix().as_bytes());
        bytes.extend_from_slice(version.as_bytes());
        bytes.extend_from_slice(rest);
        Self::stored(kind, bytes.into(), revision)
    }

    /// An object as it was sealed before: from the tables, or from another server.
    ///
    /// # Errors
    /// When the bytes do not decode.
    pub fn stored(kind: KindRef, bytes: Bytes, revision: Revision) -> Result<Self, ObjectError> {
        let MetaOnly { metadata: Metadata { meta, managed } } = serde_json::from_slice(&bytes)?;
        let managed = managed.map_or(0..0, |text| {
            let start = text.get().as_ptr().addr().saturating_sub(bytes.as_ptr().addr());
            start..start + text.get().len()
        });
        let key =
            Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        Ok(Self { kind, key, revision, bytes, meta, managed, typed: Typed::default() })
    }

    /// Reads an object that came over the wire; its revision is its resourceVersion.
    ///
    /// # Errors
    /// When the bytes do not decode.
    pub fn received(kind: KindRef, bytes: Bytes) -> Result<Self, ObjectError> {
        let object = Self::stored(kind, bytes, Revision(0))?;
        let revision =
            object.meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default();
        Ok(Self { revision, ..object })
    }

    /// What it is.
    pub fn kind(&self) -> KindRef {
        self.kind
    }

    /// Where it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The revision that last changed it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Its JSON, as it goes on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its metadata, without managedFields.
    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    /// Its UID, or empty.
    pub fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    /// Whether somebody asked for its deletion.
    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// Its JSON as a tree, for patches and generic reads.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The same without managedFields.
    pub fn bare_value(&self) -> Value {
        serde_json::from_slice(&self.bare_bytes()).unwrap_or_default()
    }

    /// The text of its managedFields, a JSON list; empty where there is none.
    pub fn managed_fields(&self) -> &str {
        self.bytes
            .get(self.managed.clone())
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or_default()
    }

    /// Its JSON without managedFields.
    fn bare_bytes(&self) -> Cow<'_, [u8]> {
        let (before, after) = (self.bytes.get(..self.managed.start), self.bytes.get(self.managed.end..));
        let before = before.and_then(|before| before.strip_suffix(MANAGED_FIELDS_KEY.as_bytes()));
        match (before, after) {
            (Some(before), Some(after)) => Cow::Owned([before, after].concat()),
            _ => Cow::Borrowed(&self.bytes),
        }
    }

    /// Its typed form, decoded unless it was lately: whoever walks over many objects sorts out by
    /// [`Self::meta`] or an index first. `None` when it is of another kind, or does not decode, which the
    /// checks at the front door exclude.
    pub fn typed<K: Kind>(&self) -> Option<Arc<K>> {
        // Before the cache: a question of another kind must not settle what this object decodes to.
        if self.kind != kind_of::<K>() {
            return None;
        }
        let size = self.bytes.len() - self.managed.len();
        self.typed.get_or_make(size, || self.kind.read(&self.bare_bytes()).ok())?.downcast().ok()
    }

    /// Whether it is of kind `K`, and `question` says yes to it.
    pub fn is<K: Kind>(&self, question: impl FnOnce(&K) -> bool) -> bool {
        self.typed().is_some_and(|typed| question(&typed))
    }

    /// A copy of its typed form, to be changed; as [`Self::typed`].
    pub fn to_typed<K: Kind>(&self) -> Option<K> {
        self.typed().map(Arc::unwrap_or_clone)
    }

    /// Its typed form behind the object-safe face, for code that is generic over kinds.
    pub fn decode(&self) -> Option<Box<dyn AnyObject>> {
        self.kind.decode(self.bare_value()).ok()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{}", self.kind.descriptor().kind, self.key, self.revision)
    }
}

fn write_field(out: &mut Vec<u8>, comma: bool, name: &str, value: &Value) {
    if comma {
        out.push(b',');
    }
    // Writing JSON of a `Value` into memory has no way to fail.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn canonical(value: &Value) -> Vec<u8> {
        Object::canonical(kind_of::<ConfigMap>(), value)
    }

    #[test]
    fn the_revision_is_spliced_in() {
        let bytes = canonical(&json!({"data": {"a": "b"}, "metadata": {"name": "x", "namespace": "n"}}));
        let object = Object::seal(kind_of::<ConfigMap>(), &bytes, Revision(42)).unwrap();
        assert_eq!(
            std::str::from_utf8(object.bytes()).unwrap(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"x","namespace":"n"},"data":{"a":"b"}}"#
        );
        assert_eq!(object.key().to_string(), "n/x");
        assert_eq!(object.typed::<ConfigMap>().unwrap().data.as_ref().unwrap()["a"], "b");
    }

    #[test]
    fn a_question_of_another_kind_settles_nothing() {
        use k8s_openapi::api::core::v1::Secret;
        let bytes = canonical(&json!({"metadata": {"name": "x", "namespace": "n"}}));
        let object = Object::seal(kind_of::<ConfigMap>(), &bytes, Revision(1)).unwrap();
        assert!(object.typed::<Secret>().is_none());
        assert!(object.typed::<ConfigMap>().is_some());
    }

    #[test]
    fn managed_fields_are_only_in_the_bytes() {
        let value =
            json!({"metadata": {"managedFields": [{"manager": "m"}], "name": "x"}, "data": {"a": "b"}});
        let object = Object::seal(kind_of::<ConfigMap>(), &canonical(&value), Revision(1)).unwrap();
        assert_eq!(object.managed_fields(), r#"[{"manager":"m"}]"#);
        let text = std::str::from_utf8(object.bytes()).unwrap();
        assert!(text.contains(r#""name":"x","managedFields":[{"manager":"m"}]},"data""#), "{text}");
        assert!(object.meta().managed_fields.is_none());
        assert!(object.typed::<ConfigMap>().unwrap().metadata.managed_fields.is_none());
        assert!(object.bare_value()["metadata"].get("managedFields").is_none());
        assert_eq!(object.bare_value()["data"], json!({"a": "b"}));
        assert_eq!(object.value()["metadata"]["managedFields"], json!([{"manager": "m"}]));
        let without = Object::canonical_with(kind_of::<ConfigMap>(), &object.value(), "");
        let object = Object::seal(kind_of::<ConfigMap>(), &without, Revision(1)).unwrap();
        assert_eq!(object.managed_fields(), "");
        assert_eq!(object.bare_value(), object.value());
    }

    #[test]
    fn a_client_cannot_smuggle_a_resource_version_in() {
        let bytes = canonical(&json!({"metadata": {"resourceVersion": "9"}}));
        let object = Object::seal(kind_of::<ConfigMap>(), &bytes, Revision(3)).unwrap();
        assert_eq!(object.meta().resource_version.as_deref(), Some("3"));
    }

    #[test]
    fn bytes_of_another_kind_are_refused() {
        assert!(Object::seal(kind_of::<ConfigMap>(), b"{\"kind\":\"Pod\"}", Revision(1)).is_err());
    }
}
