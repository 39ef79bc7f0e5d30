//! Kinds and their objects behind object-safe faces, for code that is generic over kinds. Implemented once, for
//! whatever is a [`Kind`].

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::{Claim, Descriptor, Face, Kind, Pods, ScaleOf, Subresource};
use crate::field::FieldErrors;
use crate::kinds::pod_spec::warnings;
use crate::object::Object;
use crate::status::Failure;
use crate::table::Cell;

/// A kind behind an object-safe face. Compared by identity of its group and resource.
pub trait KindApi: Send + Sync + 'static {
    /// What is constant about it.
    fn descriptor(&self) -> &'static Descriptor;
    /// How its canonical bytes start, up to the first field of `metadata`.
    fn prefix(&self) -> &'static str;
    /// The typed object of a JSON tree; apiVersion and kind may be absent.
    ///
    /// # Errors
    /// When it does not decode (`BadRequest`).
    fn decode(&self, value: Value) -> Result<Box<dyn AnyObject>, Failure>;
    /// The typed object of a JSON text, for a downcast to the kind's own type.
    ///
    /// # Errors
    /// When it does not decode.
    fn read(&self, json: &[u8]) -> Result<Arc<dyn Any + Send + Sync>, serde_json::Error>;
    /// The JSON tree of an object of the kind's own type, with apiVersion and kind; null for any other.
    fn write(&self, object: &dyn Any) -> Value;
    /// A reference to its schema, which goes into the generator's definitions.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// See [`Kind::FACE`].
    fn face(&self) -> Option<&'static Face>;
}

/// That a kind stands in the list of kinds. What it takes to read, write and describe its objects is megabytes of
/// machine code; behind this it is compiled once, in the crate of the list, and not in each that knows the type.
pub trait Registered {
    /// The kind.
    fn registered() -> KindRef;
}

/// A kind, as it is passed around.
pub type KindRef = &'static dyn KindApi;

impl PartialEq for dyn KindApi {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.descriptor(), other.descriptor())
            || (self.descriptor().plural == other.descriptor().plural
                && self.descriptor().group == other.descriptor().group
                && self.descriptor().version == other.descriptor().version)
    }
}

impl Eq for dyn KindApi {}

impl std::hash::Hash for dyn KindApi {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.descriptor().plural.hash(state);
        self.descriptor().group.hash(state);
        self.descriptor().version.hash(state);
    }
}

impl dyn KindApi {
    /// The kind as which its objects are stored: itself, unless it is a face of another.
    pub fn stored(&'static self) -> KindRef {
        self.face().map_or(self, |face| (face.stored)())
    }

    /// An object of this kind as it is stored.
    pub fn to_stored(&'static self, value: Value) -> Value {
        match self.face() {
            Some(face) => typed(self.stored(), (face.to_stored)(value)),
            None => value,
        }
    }

    /// A stored object as this kind has it.
    pub fn from_stored(&'static self, value: Value) -> Value {
        match self.face() {
            Some(face) => typed(self, (face.from_stored)(value)),
            None => value,
        }
    }

    /// A stored object as an object of this kind, of the same revision. `None` if it does not decode, which
    /// the checks at the front door exclude.
    pub fn show(&'static self, stored: &Arc<Object>) -> Option<Arc<Object>> {
        if self.face().is_none() {
            return Some(stored.clone());
        }
        let shown = self.decode(self.from_stored(stored.bare_value())).ok()?.to_value();
        let bytes = Object::canonical_with(self, &shown, stored.managed_fields());
        Object::seal(self, &bytes, stored.revision()).ok().map(Arc::new)
    }
}

/// The same object, said to be of `kind`.
fn typed(kind: KindRef, mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), kind.descriptor().api_version().into());
        map.insert("kind".to_owned(), kind.descriptor().kind.into());
    }
    value
}

impl std::fmt::Debug for dyn KindApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.descriptor().qualified_kind())
    }
}

/// A typed object behind an object-safe face; see [`Kind`] for what the methods mean.
pub trait AnyObject: Send + Sync {
    /// Its kind.
    fn kind(&self) -> KindRef;
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// See [`Kind::set_defaults`].
    fn set_defaults(&mut self);
    /// See [`Kind::prepare_create`].
    fn prepare_create(&mut self);
    /// See [`Kind::prepare_update`]; nothing happens when `old` is of another kind.
    fn prepare_update(&mut self, old: &dyn AnyObject);
    /// See [`Kind::prepare_part`]; nothing happens when `old` is of another kind.
    fn prepare_part(&mut self, old: &dyn AnyObject, part: Subresource);
    /// See [`Kind::holds_deletion`].
    fn holds_deletion(&self) -> bool;
    /// See [`Kind::mark_deleting`].
    fn mark_deleting(&mut self);
    /// See [`Kind::validate`].
    fn validate(&self, errors: &mut FieldErrors);
    /// See [`Kind::validate_create`].
    fn validate_create(&self, errors: &mut FieldErrors);
    /// See [`Kind::validate_status`].
    fn validate_status(&self, old: &dyn AnyObject, errors: &mut FieldErrors);
    /// See [`Kind::validate_update`].
    fn validate_update(&self, old: &dyn AnyObject, errors: &mut FieldErrors);
    /// See [`Kind::validate_part`].
    fn validate_part(&self, old: &dyn AnyObject, part: Subresource, errors: &mut FieldErrors);
    /// See [`Kind::pods`].
    fn pods(&self) -> Option<Pods<'_>>;
    /// See [`Kind::warnings`].
    fn warnings(&self) -> Vec<String>;
    /// See [`Kind::warnings_on_create`].
    fn warnings_on_create(&self) -> Vec<String>;
    /// The value of a field label; `metadata.name` and `metadata.namespace` included.
    fn field(&self, label: &str) -> String;
    /// See [`Kind::row`].
    fn row(&self, now: Timestamp) -> Vec<Cell>;
    /// See [`Kind::claims`].
    fn claims(&self) -> Vec<Claim>;
    /// See [`Kind::scale`].
    fn scale(&self) -> Option<ScaleOf>;
    /// See [`Kind::set_replicas`].
    fn set_replicas(&mut self, replicas: i32);
    /// The JSON tree, with apiVersion and kind.
    fn to_value(&self) -> Value;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<K: Kind> AnyObject for K {
    fn kind(&self) -> KindRef {
        kind_of::<K>()
    }

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn set_defaults(&mut self) {
        Kind::set_defaults(self);
    }

    fn prepare_create(&mut self) {
        Kind::prepare_create(self);
    }

    fn prepare_update(&mut self, old: &dyn AnyObject) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::prepare_update(self, old);
        }
    }

    fn prepare_part(&mut self, old: &dyn AnyObject, part: Subresource) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::prepare_part(self, old, part);
        }
    }

    fn holds_deletion(&self) -> bool {
        Kind::holds_deletion(self)
    }

    fn mark_deleting(&mut self) {
        Kind::mark_deleting(self);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        Kind::validate(self, errors);
    }

    fn validate_create(&self, errors: &mut FieldErrors) {
        Kind::validate_create(self, errors);
    }

    fn validate_status(&self, old: &dyn AnyObject, errors: &mut FieldErrors) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::validate_status(self, old, errors);
        }
    }

    fn validate_update(&self, old: &dyn AnyObject, errors: &mut FieldErrors) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::validate_update(self, old, errors);
        }
    }

    fn validate_part(&self, old: &dyn AnyObject, part: Subresource, errors: &mut FieldErrors) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::validate_part(self, old, part, errors);
        }
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Kind::pods(self)
    }

    fn warnings(&self) -> Vec<String> {
        let deprecated = K::DESCRIPTOR.deprecated.map(str::to_owned);
        let of_pods = Kind::pods(self).map(|pods| warnings::of(&pods)).unwrap_or_default();
        deprecated.into_iter().chain(Kind::warnings(self)).chain(of_pods).collect()
    }

    fn warnings_on_create(&self) -> Vec<String> {
        Kind::warnings_on_create(self)
    }

    fn field(&self, label: &str) -> String {
        match label {
            "metadata.name" => self.metadata().name.clone().unwrap_or_default(),
            "metadata.namespace" => self.metadata().namespace.clone().unwrap_or_default(),
            other => Kind::field(self, other),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        Kind::row(self, now)
    }

    fn claims(&self) -> Vec<Claim> {
        Kind::claims(self)
    }

    fn scale(&self) -> Option<ScaleOf> {
        Kind::scale(self)
    }

    fn set_replicas(&mut self, replicas: i32) {
        Kind::set_replicas(self, replicas);
    }

    fn to_value(&self) -> Value {
        // Typed objects hold nothing that JSON cannot: no maps with keys other than text.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct KindOf<K>(PhantomData<fn() -> K>);

impl<K: Kind> KindOf<K> {
    const PREFIX_BYTES: ([u8; PREFIX_CAPACITY], usize) = write_prefix(&K::DESCRIPTOR);
    const PREFIX: &'static str =
        match std::str::from_utf8(Self::PREFIX_BYTES.0.split_at(Self::PREFIX_BYTES.1).0) {
            Ok(prefix) => prefix,
            Err(_) => panic!("names of kinds are ASCII"),
        };
    const DESCRIPTOR: &'static Descriptor = &K::DESCRIPTOR;
    const FACE: &'static Option<Face> = &K::FACE;
}

impl<K: Kind> KindApi for KindOf<K> {
    fn descriptor(&self) -> &'static Descriptor {
        Self::DESCRIPTOR
    }

    fn prefix(&self) -> &'static str {
        Self::PREFIX
    }

    fn decode(&self, mut value: Value) -> Result<Box<dyn AnyObject>, Failure> {
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".to_owned(), K::API_VERSION.into());
            map.insert("kind".to_owned(), K::KIND.into());
        }
        K::before_decode(&mut value);
        let typed: K = serde_json::from_value(value).map_err(|error| {
            Failure::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: {error}",
                K::KIND,
                K::VERSION,
                K::KIND
            ))
        })?;
        Ok(Box::new(typed))
    }

    fn read(&self, json: &[u8]) -> Result<Arc<dyn Any + Send + Sync>, serde_json::Error> {
        Ok(Arc::new(serde_json::from_slice::<K>(json)?))
    }

    fn write(&self, object: &dyn Any) -> Value {
        object.downcast_ref::<K>().map(AnyObject::to_value).unwrap_or_default()
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<K>()
    }

    fn face(&self) -> Option<&'static Face> {
        Self::FACE.as_ref()
    }
}

/// The kind of a typed object.
pub fn kind_of<K: Kind>() -> KindRef {
    K::registered()
}

/// The typed object of a JSON text; apiVersion and kind may be absent.
///
/// # Errors
/// When it does not decode.
pub fn from_slice<K: Kind>(json: &[u8]) -> Result<K, serde_json::Error> {
    let typed = kind_of::<K>().read(json)?.downcast::<K>();
    typed.map(Arc::unwrap_or_clone).map_err(|_| serde::de::Error::custom("registered as another kind"))
}

/// The JSON tree of a typed object, with apiVersion and kind.
pub fn to_value<K: Kind>(object: &K) -> Value {
    kind_of::<K>().write(object)
}

/// A kind of its typed object; called where it is [`Registered`].
pub const fn define<K: Kind>() -> KindRef {
    // A constant without state: every call gives the same kind, whatever the address.
    const { &KindOf::<K>(PhantomData) }
}

/// Room for a prefix, `{"kind":…,"apiVersion":…,"metadata":{`; a kind that does not fit does not compile.
const PREFIX_CAPACITY: usize = 192;

/// Writes a kind's prefix at compile time.
const fn write_prefix(descriptor: &Descriptor) -> ([u8; PREFIX_CAPACITY], usize) {
    let slash = if descriptor.group.is_empty() { "" } else { "/" };
    let parts = [
        "{\"kind\":\"",
        descriptor.kind,
        "\",\"apiVersion\":\"",
        descriptor.group,
        slash,
        descriptor.version,
        "\",\"metadata\":{",
    ];
    let (mut out, mut length, mut part) = ([0; PREFIX_CAPACITY], 0, 0);
    while part < parts.len() {
        let bytes = parts[part].as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            out[length] = bytes[i];
            length += 1;
            i += 1;
        }
        part += 1;
    }
    (out, length)
}
