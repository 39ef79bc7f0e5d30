//! Linearizable reads: one confirmation of leadership serves all who asked before it began.
//!
//! A reader that arrives while a round is under way waits for the next one: the running round may
//! have fixed its index before the write that this reader must see.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::codec::pb;
use crate::error::ReadError;
use crate::machine::LogIndex;
use crate::transport::{Lane, TransportConfig};
use crate::types::{NodeId, Raft, Types};

/// A round that takes longer has lost its quorum.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Waiter = oneshot::Sender<Result<LogIndex, ReadError>>;

/// Serves readers round by round until nobody can ask any more.
pub(crate) async fn run(
    raft: Raft,
    node_id: NodeId,
    transport: TransportConfig,
    mut readers: mpsc::UnboundedReceiver<Waiter>,
) {
    let mut round = Vec::new();
    while readers.recv_many(&mut round, usize::MAX).await > 0 {
        let outcome = find_index(&raft, node_id, &transport).await;
        for waiter in round.drain(..) {
            let _ = waiter.send(outcome.clone());
        }
    }
}

async fn find_index(
    raft: &Raft,
    node_id: NodeId,
    transport: &TransportConfig,
) -> Result<LogIndex, ReadError> {
    match confirmed_index(raft).await {
        Err(ReadError::NotLeader { leader: Some(leader) }) if leader != node_id => {
            ask(raft, leader, transport).await
        }
        outcome => outcome,
    }
}

/// The index that a read must have applied, if this server leads and a quorum says so now.
pub(crate) async fn confirmed_index(raft: &Raft) -> Result<LogIndex, ReadError> {
    let asked = tokio::time::timeout(ROUND_TIMEOUT, raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
    match asked {
        // At least the entry with which its term began: what is committed was committed by then, or in this term
        // and so by this server, as long as it leads through no restart (see `LogConfig::raft`).
        Ok(Ok(linearizer)) => Ok(LogIndex(linearizer.read_log_id().index())),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
            Err(ReadError::NotLeader { leader: to.leader_id })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
            Err(ReadError::Unavailable)
        }
        Ok(Err(RaftError::Fatal(fatal))) => Err(fatal_read(&fatal)),
    }
}

async fn ask(raft: &Raft, leader: NodeId, transport: &TransportConfig) -> Result<LogIndex, ReadError> {
    use pb::read_index_response::Result as Wire;
    let lost = ReadError::NotLeader { leader: Some(leader) };
    let address = crate::handle::address_of(raft, leader).ok_or_else(|| lost.clone())?;
    let mut client = transport.client(leader, &address, Lane::Control).map_err(|_| lost.clone())?;
    let call = client.read_index(pb::ReadIndexRequest { to: leader });
    let Ok(Ok(response)) = tokio::time::timeout(ROUND_TIMEOUT, call).await else { return Err(lost) };
    match response.into_inner().result {
        Some(Wire::Index(index)) => Ok(LogIndex(index)),
        Some(Wire::NotLeader(other)) => Err(ReadError::NotLeader { leader: other.leader }),
        Some(Wire::Unavailable(pb::Blank {}) | Wire::Fatal(_)) | None => Err(ReadError::Unavailable),
    }
}

fn fatal_read(fatal: &Fatal<Types>) -> ReadError {
    match fatal {
        Fatal::Stopped => ReadError::Shutdown,
        Fatal::StorageError(_) | Fatal::Panicked => ReadError::Fatal(fatal.to_string()),
    }
}
