//! Kubernetes objects and kinds: metadata, selectors, quantities, patches, `Status`, validation.
//!
//! Pure: no I/O, no async, no clock. Times, ids and random names come in as arguments.
//!
//! - [`kind`]: what a kind is (descriptor and behaviour) and the object-safe face of it;
//! - [`kinds`]: one file a kind, and the one list of them;
//! - [`object`]: a stored object, as the bytes that go on the wire beside its decoded metadata;
//! - [`mutation`]: what is proposed to the log and what came of it;
//! - [`strategy`]: from a request body to a Mutation: defaults, what clients may not set, validation;
//! - [`fields`]: who owns which fields, and server-side apply;
//! - [`fits`]: whether a node will do for a pod;
//! - [`claims`]: by which claims a pod has its volumes;
//! - [`pod_security`]: what a namespace's labels demand of pods;
//! - [`quota`]: what objects count against quotas; [`limits`]: what one of them may have;
//! - [`yaml`]: how manifests and bodies in YAML are read;
//! - [`status`]: how refusals look; [`field`]: errors with paths.

pub mod claims;
pub mod discovery;
pub mod field;
pub mod fields;
pub mod fits;
pub mod kind;
pub mod kinds;
pub mod limits;
pub mod meta;
pub mod mutation;
pub mod node_selector;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod pod_security;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
mod typed;
pub mod yaml;

pub use kind::{AnyObject, Descriptor, Kind, KindRef, Scope, Subresource};
pub use mutation::{Change, Mutation, Operation, Precondition};
pub use object::{Key, Object, Revision};
pub use status::{Failure, Reason};

/// The Kubernetes release whose API is served: `/version` reports it and the schemas are its own.
/// Moved up once a year together with the feature of `k8s-openapi`.
pub const KUBERNETES_VERSION: (u16, u16, u16) = (1, 33, 4);
