//! The engine behind every front door: what can be done with objects, for any kind.
//!
//! REST, gRPC and the server's own parts all come through here, with the proof that they may
//! ([`Authorized`]). Writes are read-modify-write under a precondition on the revision read: a client's
//! own precondition is judged once, everything else is tried again here when somebody was faster.
//!
//! A kind may be a face of a stored one. Clients' values come and go in the served form, checks and
//! ownership are about it; what is stored, admitted and proposed is the stored form.

mod apply;
mod charge;
mod delete;
mod local;
mod read;
mod scale;
mod write;

use std::sync::Arc;

use balsa_log::{ProposeError, ReadError};
use balsa_model::fields::Writer;
use balsa_model::strategy::Part;
use balsa_model::{
    AnyObject, Failure, Key, KindRef, Mutation, Object, Operation, Precondition, Reason, Revision,
};
use balsa_rt::Clock;
use balsa_state::{Refusal, State, Store};
use serde_json::Value;

use crate::admission::{Admission, Admitted};
use crate::authorize::Authorized;
use crate::quota::Quota;

pub(crate) use apply::Configuration;
pub(crate) use local::Binding;
pub use local::LocalBackend;
pub(crate) use read::watch_failed;
pub(crate) use read::{Begin, Listed, Page, ResourceVersionMatch, Wanted};
#[cfg(any(test, fuzzing))]
pub(crate) use read::{decode_token, encode_token};
pub(crate) use scale::{SCALE, scale_of};
pub(crate) use write::{Patch, Written};

/// Largest object that is stored, in bytes of JSON: etcd's limit, which clients know.
pub const MAX_OBJECT_BYTES: usize = 1_572_864;

/// How often a write without a client's precondition is tried again.
const ATTEMPTS: usize = 8;

/// What can be done with objects. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    admission: Admission,
    quota: Quota,
    clock: Clock,
}

impl Engine {
    /// An engine on a store, whose objects may take `storage_quota` bytes; 0: any number.
    pub fn new(store: Store, admission: Admission, storage_quota: u64, clock: Clock) -> Self {
        let quota = Quota::new(store.state().clone(), storage_quota);
        Self { store, admission, quota, clock }
    }

    /// What is there now, on this server.
    pub fn state(&self) -> &State {
        self.store.state()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the objects may take.
    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    /// The clock that stamps objects.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// That what is here may be shown, and judged by.
    fn in_service(&self) -> Result<(), Failure> {
        match self.store.log().is_distrusted() {
            true => Err(read_failed(&ReadError::Distrusted)),
            false => Ok(()),
        }
    }

    /// Proposes what was admitted: one verdict a mutation.
    async fn propose(
        &self,
        who: &Authorized,
        admitted: Admitted,
    ) -> Result<Vec<Result<Revision, Refusal>>, Failure> {
        self.in_service()?;
        let mutations = admitted.into_mutations();
        if let Some(large) = mutations.iter().find(|m| m.object.len() > MAX_OBJECT_BYTES) {
            let message = format!(
                "Request entity too large: {} \"{}\" has {} bytes; the limit is {MAX_OBJECT_BYTES}",
                large.kind.descriptor().resource(),
                large.key.name,
                large.object.len()
            );
            return Err(Failure::new(Reason::RequestEntityTooLarge, message));
        }
        self.quota.admit(&mutations)?;
        let outcome = match who.leader_term() {
            Some(term) => self.store.propose_as_leader(term, mutations).await,
            None => self.store.propose(mutations).await,
        };
        outcome.map_err(|error| proposal_failed(&error))
    }

    /// What is proposed for an object; `value` is its JSON, and `managed` the text of its managedFields.
    fn mutation(
        &self,
        who: &Authorized,
        operation: Operation,
        object: &dyn AnyObject,
        (value, managed): (&Value, &str),
        precondition: Precondition,
    ) -> Mutation {
        let meta = object.meta();
        let key =
            Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let mut bytes = Object::canonical_with(object.kind(), value, managed);
        // Who owns what is not what an object may be too large for.
        if bytes.len() > MAX_OBJECT_BYTES && !managed.is_empty() {
            bytes = Object::canonical_with(object.kind(), value, "");
        }
        Mutation {
            operation,
            kind: object.kind(),
            key,
            object: bytes.into(),
            precondition,
            claims: object.claims(),
            user: who.name().clone(),
        }
    }

    /// Who writes a part of an object now, for its managedFields.
    fn writer<'a>(&self, who: &'a Authorized, kind: KindRef, target: Target) -> Writer<'a> {
        let Target { part, subresource } = target;
        Writer { manager: who.manager(), kind, part, subresource, now: self.clock.now_seconds() }
    }
}

/// The part of an object that a write covers.
#[derive(Clone, Copy, Debug)]
struct Target {
    part: Part,
    /// The part of the URL, where `part` does not say it; or empty.
    subresource: &'static str,
}

impl From<Part> for Target {
    fn from(part: Part) -> Self {
        Self { part, subresource: "" }
    }
}

/// The preconditions that stand in an object's metadata.
pub(crate) fn precondition_of(value: &Value) -> Result<Precondition, Failure> {
    let text = |field: &str| {
        let found = value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        found.filter(|text| !text.is_empty())
    };
    let revision = match text("resourceVersion") {
        Some(version) => Some(version.parse().map_err(|_| {
            Failure::bad_request(format!(
                "metadata.resourceVersion: Invalid value: \"{version}\": must be an unsigned decimal integer"
            ))
        })?),
        None => None,
    };
    Ok(Precondition { revision, uid: text("uid").map(str::to_owned) })
}

/// Holds an object against a client's precondition, before the fold does.
pub(crate) fn check_precondition(old: &Object, precondition: &Precondition) -> Result<(), Failure> {
    let descriptor = old.kind().descriptor();
    if let Some(uid) = precondition.uid.as_deref().filter(|uid| *uid != old.uid()) {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
        return Err(Failure::conflict(descriptor, &old.key().name, why));
    }
    if precondition.revision.is_some_and(|revision| revision != old.revision()) {
        return Err(Failure::modified(descriptor, &old.key().name).at_revision(old.revision().0));
    }
    Ok(())
}

/// A stored object as the kind that was asked for has it.
pub(crate) fn shown(kind: KindRef, stored: &Arc<Object>) -> Result<Arc<Object>, Failure> {
    kind.show(stored).ok_or_else(|| Failure::internal("stored object does not decode"))
}

/// A refusal of the fold as the client sees it.
fn refused(kind: KindRef, name: &str, refusal: Refusal) -> Failure {
    let descriptor = kind.descriptor();
    match refusal {
        Refusal::AlreadyExists => Failure::already_exists(descriptor, name),
        Refusal::NotFound => Failure::not_found(descriptor, name),
        Refusal::Conflict { current } => Failure::modified(descriptor, name).at_revision(current.0),
        Refusal::UidMismatch { .. } => Failure::modified(descriptor, name),
        Refusal::Claimed { field, value, refusal } => {
            let mut errors = balsa_model::field::FieldErrors::new();
            let shown = value.rsplit('/').next().unwrap_or_default();
            errors.invalid(&balsa_model::field::Path::new(&field), shown, refusal);
            Failure::invalid(descriptor, name, errors)
                .unwrap_or_else(|| Failure::internal("a claim was refused without a reason"))
        }
        Refusal::Undecodable(why) => Failure::internal(why),
    }
}

fn proposal_failed(error: &ProposeError) -> Failure {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::Shutdown => {
            Failure::new(Reason::ServiceUnavailable, error.to_string()).retry_after(1)
        }
        ProposeError::Unknown => Failure::new(Reason::Timeout, error.to_string()),
        ProposeError::Overloaded => Failure::new(Reason::TooManyRequests, error.to_string()).retry_after(1),
        ProposeError::TooLarge { .. } => Failure::new(Reason::RequestEntityTooLarge, error.to_string()),
        ProposeError::Fatal(_) => Failure::internal(error),
    }
}

pub(crate) fn read_failed(error: &ReadError) -> Failure {
    Failure::new(Reason::ServiceUnavailable, error.to_string()).retry_after(1)
}
