//! openraft's type parameters, bound to ours. Nothing of them leaves this crate.

use std::fmt;

use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch};
use openraft::vote::leader_id_std;
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::oneshot;

use crate::machine::Machine;

/// Names one server of the cluster for ever.
pub type NodeId = u64;

/// Where a server is, and what people call it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn new(address: impl Into<String>, name: impl Into<String>) -> Self {
        Self { address: address.into(), name: name.into() }
    }
}

/// What an entry carries. openraft wants to print it; people want its size, not its bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Carries an outcome back to whoever proposed; it is no fault when they stopped waiting.
pub(crate) struct Reply<T>(pub(crate) oneshot::Sender<T>);

impl<C: RaftTypeConfig, T: OptionalSend + 'static> openraft::raft::responder::Responder<C, T> for Reply<T> {
    fn on_complete(self, result: T) {
        let _ = self.0.send(result);
    }
}

/// One leader a term, so that a term and an index name an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Payload;
    type R = Bytes;
    type NodeId = NodeId;
    type Node = Place;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, NodeId, Place>;
    type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type Term = leader_id_std::CommittedLeaderId<u64>;
pub(crate) type LogId = openraft::LogId<Term>;
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, NodeId>>;
pub(crate) type EntryPayload = openraft::EntryPayload<Payload, NodeId, Place>;
pub(crate) type Entry = openraft::Entry<Term, EntryPayload>;
pub(crate) type Membership = openraft::Membership<NodeId, Place>;
pub(crate) type StoredMembership = openraft::StoredMembership<Term, NodeId, Place>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Term, NodeId, Place>;
pub(crate) type Snapshot = openraft::Snapshot<Term, NodeId, Place, crate::snapshot::SnapshotData>;
pub(crate) type Raft = openraft::Raft<Types, Machine>;
