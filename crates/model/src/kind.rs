//! What a kind is: its descriptor and its behaviour.
//!
//! [`Kind`] is implemented once a kind, in `kinds/`, on the typed object of k8s-openapi. Everything
//! else in Balsa (routes, watches, patches, the fold) is generic over kinds and meets them through
//! the object-safe [`KindApi`] and [`AnyObject`], which are implemented once, here.

use std::any::Any;
use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field::FieldErrors;
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

/// The behaviour of one kind. Every method is pure and deterministic.
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

    /// Sets what the client left open. Called on create, on update and on patch results; must change
    /// nothing when called twice.
    fn set_defaults(&mut self) {}

    /// Clears what clients may not set on create and gives the status a new object starts with. The
    /// generic strategy has already dropped the client's `status` of kinds with that subresource.
    fn prepare_create(&mut self) {}

    /// Carries over what an update must not change. The generic strategy has already kept the old
    /// `status` (or, for a status update, everything else).
    fn prepare_update(&mut self, _old: &Self) {}

    /// Whether something beside `metadata.finalizers` holds its deletion (`spec.finalizers` of namespaces).
    fn holds_deletion(&self) -> bool {
        false
    }

    /// Shows in the status that its deletion has begun.
    fn mark_deleting(&mut self) {}

    /// Refuses what is wrong with the object itself. Metadata is checked generically.
    fn validate(&self, _errors: &mut FieldErrors) {}

    /// Refuses changes that may not be made.
    fn validate_update(&self, _old: &Self, _errors: &mut FieldErrors) {}

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
}

/// A kind, as it is passed around.
pub type KindRef = &'static dyn KindApi;

impl PartialEq for dyn KindApi {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.descriptor(), other.descriptor())
            || (self.descriptor().plural == other.descriptor().plural
                && self.descriptor().group == other.descriptor().group)
    }
}

impl Eq for dyn KindApi {}

impl std::hash::Hash for dyn KindApi {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.descriptor().plural.hash(state);
        self.descriptor().group.hash(state);
    }
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
    /// See [`Kind::holds_deletion`].
    fn holds_deletion(&self) -> bool;
    /// See [`Kind::mark_deleting`].
    fn mark_deleting(&mut self);
    /// See [`Kind::validate`].
    fn validate(&self, errors: &mut FieldErrors);
    /// See [`Kind::validate_update`].
    fn validate_update(&self, old: &dyn AnyObject, errors: &mut FieldErrors);
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

    fn holds_deletion(&self) -> bool {
        Kind::holds_deletion(self)
    }

    fn mark_deleting(&mut self) {
        Kind::mark_deleting(self);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        Kind::validate(self, errors);
    }

    fn validate_update(&self, old: &dyn AnyObject, errors: &mut FieldErrors) {
        if let Some(old) = old.as_any().downcast_ref::<K>() {
            Kind::validate_update(self, old, errors);
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
