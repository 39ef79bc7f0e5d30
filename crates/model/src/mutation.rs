//! What is proposed to the log, and what came of it.
//!
//! A Mutation is fully decided by whoever proposes it: defaults, validation, times, ids and names
//! are in the bytes. The fold only judges the precondition and what the cluster may have once.

use std::sync::Arc;

use bytes::Bytes;

use crate::kind::KindRef;
use crate::object::{Key, Object, Revision};

/// What a Mutation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Puts an object where there is none.
    Create,
    /// Puts another version of an object that is there.
    Replace,
    /// Takes an object away. Its last version is in the Mutation where the deletion changed it.
    Remove,
}

/// What must be true of the object for the Mutation to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// It was last changed by this revision.
    pub revision: Option<Revision>,
    /// It has this UID.
    pub uid: Option<String>,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// What it does.
    pub operation: Operation,
    /// To what kind.
    pub kind: KindRef,
    /// To which object.
    pub key: Key,
    /// Canonical JSON without a resourceVersion ([`Object::canonical`]); empty for a removal.
    pub object: Bytes,
    /// When it holds.
    pub precondition: Precondition,
    /// Tokens the cluster has one each of, as `(token, field, refusal)`: see [`crate::kind::Claim`].
    pub claims: Vec<crate::kind::Claim>,
    /// Who asked; for the history.
    pub user: Arc<str>,
}

/// What an applied Mutation did.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub revision: Revision,
    /// The kind.
    pub kind: KindRef,
    /// The object.
    pub key: Key,
    /// The version before, if there was one.
    pub old: Option<Arc<Object>>,
    /// The version after, if there is one. A removal has none: watchers see `old` under the
    /// revision of the removal.
    pub new: Option<Arc<Object>>,
    /// Who asked.
    pub user: Arc<str>,
}
