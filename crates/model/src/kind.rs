//! What a kind is: its descriptor and its behaviour.
//!
//! [`Kind`] is implemented once a kind, in `kinds/`, on the typed object of k8s-openapi. Everything
//! else in Balsa (routes, watches, patches, the fold) is generic over kinds and meets them through
//! the object-safe [`KindApi`] and [`AnyObject`].

mod any;
mod descriptor;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::any::{AnyObject, KindApi, KindRef, Registered, define, from_slice, kind_of, to_value};
pub use self::descriptor::{Descriptor, NameRule, Scope, Subresource};
use crate::field::{FieldErrors, Path};
use crate::table::Cell;

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

/// The pods that an object is, or makes.
#[derive(Clone, Debug)]
pub struct Pods<'a> {
    /// Their metadata, where it says anything.
    pub meta: Option<&'a ObjectMeta>,
    /// What they run.
    pub spec: &'a PodSpec,
    /// Where in the object metadata and spec are.
    pub path: Path,
}

impl<'a> Pods<'a> {
    /// A pod itself.
    pub fn of_pod(pod: &'a Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        Some(Self { meta: Some(&pod.metadata), spec, path: Path::default() })
    }

    /// Those of a template.
    pub fn of_template(template: &'a PodTemplateSpec, path: Path) -> Option<Self> {
        let spec = template.spec.as_ref()?;
        Some(Self { meta: template.metadata.as_ref(), spec, path })
    }
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
    Registered
    + Metadata<Ty = ObjectMeta>
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

    /// Refuses statuses that cannot be, by themselves or after the old one. Asked when a status is written; what
    /// is wrong with one that is there already keeps nobody from changing the rest.
    fn validate_status(&self, _old: &Self, _errors: &mut FieldErrors) {}

    /// Refuses changes that may not be made.
    fn validate_update(&self, _old: &Self, _errors: &mut FieldErrors) {}

    /// Refuses changes that may not be made through a part of the object other than its status.
    fn validate_part(&self, old: &Self, _part: Subresource, errors: &mut FieldErrors) {
        Kind::validate_update(self, old, errors);
    }

    /// The pods that it is, or makes.
    fn pods(&self) -> Option<Pods<'_>> {
        None
    }

    /// `Warning:` lines for a client that creates or updates it; what its pods have to be warned of is told
    /// generically.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// More of them for a client that creates it.
    fn warnings_on_create(&self) -> Vec<String> {
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
