//! What a kind is: its descriptor and its behaviour.
//!
//! [`Kind`] is implemented once a kind, in `kinds/`, on the typed object of k8s-openapi. Everything
//! else in Balsa (routes, watches, patches, the fold) is generic over kinds and meets them through
//! the object-safe [`KindApi`] and [`AnyObject`], which are implemented once, here.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field::FieldErrors;
use crate::object::Object;
use crate::status::Failure;
use crate::table::{Cell, Column};

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A part of an object with a URL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// Written by whoever observes; keeps everything but `status` as it is.
    Status,
    /// `autoscaling/v1 Scale`.
    Scale,
    /// Container logs.
    Log,
    /// A command in a container.
    Exec,
    /// A container's own streams.
    Attach,
    /// Byte pipes to ports.
    PortForward,
    /// HTTP to what runs there.
    Proxy,
    /// A pod's node, once.
    Binding,
    /// A deletion that disruption budgets may refuse.
    Eviction,
    /// The namespace controller's last word.
    Finalize,
    /// A service account's token.
    Token,
    /// The word of who may allow a certificate.
    Approval,
    /// Containers that join a pod which runs.
    EphemeralContainers,
    /// What a pod's containers may use, while they run.
    Resize,
}

impl Subresource {
    /// The last part of its URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

/// How names of a kind's objects are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 characters: most kinds.
    Subdomain,
    /// RFC 1123 label, 63 characters: namespaces.
    Label,
    /// RFC 1035 label, 63 characters, starts with a letter: services.
    Dns1035Label,
    /// Anything that fits one part of a URL path: RBAC's kinds.
    PathSegment,
}

/// What is constant about a kind.
#[derive(Debug)]
pub struct Descriptor {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version, `v1`.
    pub version: &'static str,
    /// Kind, `Pod`.
    pub kind: &'static str,
    /// Resource, `pods`.
    pub plural: &'static str,
    /// Resource of one, `pod`.
    pub singular: &'static str,
    /// In a namespace or not.
    pub scope: Scope,
    /// What fingers type, `po`.
    pub short_names: &'static [&'static str],
    /// Groups of kinds, `all`.
    pub categories: &'static [&'static str],
    /// Parts with URLs of their own.
    pub subresources: &'static [Subresource],
    /// How names are checked.
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes of what is neither metadata nor status.
    pub has_generation: bool,
    /// Seconds between the request for deletion and the removal when nobody says otherwise; `None`
    /// for kinds that go at once. Only pods wait.
    pub graceful: bool,
    /// Field labels that field selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub field_labels: &'static [&'static str],
    /// Field labels by which watchers are found, not asked one by one (`spec.nodeName` of pods).
    pub indexed_fields: &'static [&'static str],
    /// Whether PUT of a missing object creates it.
    pub create_on_update: bool,
    /// Whether PUT must say which version it replaces.
    pub needs_version: bool,
    /// Whether a deletion is answered with the object, not only with the news that it is gone.
    pub returns_deleted: bool,
    /// Name of the message in the protobuf tables, `core.v1.Pod`.
    pub message: &'static str,
    /// Columns of `kubectl get`.
    pub columns: &'static [Column],
}

impl Descriptor {
    /// A plain namespaced kind; the others say what differs.
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        message: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            singular,
            scope: Scope::Namespaced,
            short_names: &[],
            categories: &[],
            subresources: &[],
            name_rule: NameRule::Subdomain,
            has_generation: false,
            graceful: false,
            field_labels: &[],
            indexed_fields: &[],
            create_on_update: false,
            needs_version: false,
            returns_deleted: false,
            message,
            columns: crate::table::NAME_AND_AGE,
        }
    }

    /// A plain cluster-scoped kind.
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        message: &'static str,
    ) -> Self {
        let mut descriptor = Self::namespaced(group, version, kind, plural, singular, message);
        descriptor.scope = Scope::Cluster;
        descriptor
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, or `deployments.apps`: how messages name a resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Pod`, or `Deployment.apps`: how messages name a kind.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Whether it has that part.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether its objects may be deleted all at once. Nobody shall do that to namespaces.
    pub fn deletes_collections(&self) -> bool {
        !(self.group.is_empty() && self.plural == "namespaces")
    }

    /// Whether it is in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

/// Something of which the cluster has one each (a ClusterIP, a node port): the fold refuses a second
/// owner. `kubernetes` words: "provided IP is already allocated".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// What is claimed, `clusterip/10.96.0.10`.
    pub token: String,
    /// The field that claims it, for the refusal.
    pub field: &'static str,
    /// What the refusal says, `provided IP is already allocated`.
    pub refusal: &'static str,
}

/// The replicas of a scalable object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleOf {
    /// `spec.replicas`.
    pub replicas: i32,
    /// What is there, and the selector in its text form.
    pub status: ScaleStatus,
}

/// How a kind that is another version of a stored one goes to and fro. Values are whole objects as JSON;
/// their apiVersion and kind are neither read nor set here.
#[derive(Debug)]
pub struct Face {
    /// The kind that is stored.
    pub stored: fn() -> KindRef,
    /// An object of the face as the stored kind has it.
    pub to_stored: fn(Value) -> Value,
    /// A stored object as the face has it.
    pub from_stored: fn(Value) -> Value,
    /// The stored kind's name of one of the face's field labels.
    pub label: fn(&str) -> &str,
}

/// The behaviour of one kind. Every method is pure and deterministic. Of a kind with a [`Face`], what
/// happens to an object is the stored kind's; its checks, its columns and its row are its own.
pub trait Kind:
    Metadata<Ty = ObjectMeta>
    + Resource
    + Serialize
    + DeserializeOwned
    + JsonSchema
    + Clone
    + Send
    + Sync
    + 'static
{
    /// What is constant about it.
    const DESCRIPTOR: Descriptor;

    /// How it is stored, where that is as another kind: two versions of one store.
    const FACE: Option<Face> = None;

    /// Notes in an object's JSON what its typed form would not tell apart.
    fn before_decode(_value: &mut Value) {}

    /// Sets what the client left open. Called on create, on update and on patch results; must change
    /// nothing when called twice.
    fn set_defaults(&mut self) {}

    /// Clears what clients may not set on create and gives the status a new object starts with. The
    /// generic strategy has already dropped the client's `status` of kinds with that subresource.
    fn prepare_create(&mut self) {}

    /// Carries over what an update must not change. The generic strategy has already kept the old
    /// `status` (or, for a status update, everything else).
    fn prepare_update(&mut self, _old: &Self) {}

    /// Carries over what an update of one part must not change: all but that part. Of the status the generic
    /// strategy has already kept the rest.
    fn prepare_part(&mut self, _old: &Self, _part: Subresource) {}

    /// Whether something beside `metadata.finalizers` holds its deletion (`spec.finalizers` of namespaces).
    fn holds_deletion(&self) -> bool {
        false
    }

    /// Shows in the status that its deletion has begun.
    fn mark_deleting(&mut self) {}

    /// Refuses what is wrong with the object itself. Metadata is checked generically.
    fn validate(&self, _errors: &mut FieldErrors) {}

    /// Refuses what only an object that is there already may be.
    fn validate_create(&self, _errors: &mut FieldErrors) {}

    /// Refuses changes that may not be made.
    fn validate_update(&self, _old: &Self, _errors: &mut FieldErrors) {}

    /// Refuses changes that may not be made through a part of the object other than its status.
    fn validate_part(&self, old: &Self, _part: Subresource, errors: &mut FieldErrors) {
        Kind::validate_update(self, old, errors);
    }

    /// `Warning:` lines for a client that creates or updates it.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The value of a field label out of `DESCRIPTOR.field_labels`; an unset field is empty.
    fn field(&self, _label: &str) -> String {
        String::new()
    }

    /// The cells of its row, one for each column.
    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), Cell::age(self.metadata(), now)]
    }

    /// What it alone may have in the cluster.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// Its scale, for kinds with that subresource.
    fn scale(&self) -> Option<ScaleOf> {
        None
    }

    /// Sets `spec.replicas`, for kinds with the scale subresource.
    fn set_replicas(&mut self, _replicas: i32) {}
}

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
    /// A reference to its schema, which goes into the generator's definitions.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// See [`Kind::FACE`].
    fn face(&self) -> Option<&'static Face>;
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
    /// See [`Kind::validate_update`].
    fn validate_update(&self, old: &dyn AnyObject, errors: &mut FieldErrors);
    /// See [`Kind::validate_part`].
    fn validate_part(&self, old: &dyn AnyObject, part: Subresource, errors: &mut FieldErrors);
    /// See [`Kind::warnings`].
    fn warnings(&self) -> Vec<String>;
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

    fn warnings(&self) -> Vec<String> {
        Kind::warnings(self)
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

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<K>()
    }

    fn face(&self) -> Option<&'static Face> {
        Self::FACE.as_ref()
    }
}

/// The kind of a typed object.
pub fn kind_of<K: Kind>() -> KindRef {
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
