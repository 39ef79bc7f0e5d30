//! Who belongs to the cluster, and how the log is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::{ChangeMembers, ServerState};
use tokio::sync::watch;

use crate::error::LogError;
use crate::handle::Log;
use crate::leadership::Leadership;
use crate::machine::LogIndex;
use crate::store::Family;
use crate::types::{Membership, NodeId, Place, Raft, Types};

/// What a server is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides the order of entries.
    Leader,
    /// It votes and takes what the leader sends.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It takes what the leader sends and does not vote.
    Learner,
    /// It does nothing any more.
    Stopped,
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node_id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// What people call it; may be empty.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
}

/// How the log is doing on this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// This server.
    pub node_id: NodeId,
    /// The term it is in.
    pub term: u64,
    /// What it is.
    pub role: Role,
    /// Who leads, when known.
    pub leader: Option<NodeId>,
    /// The last entry it has.
    pub last_index: Option<LogIndex>,
    /// The last entry that it knows to be committed.
    pub committed: Option<LogIndex>,
    /// The last entry it has applied.
    pub applied: Option<LogIndex>,
    /// The last entry that is gone from its log.
    pub purged: Option<LogIndex>,
    /// Everybody.
    pub members: Vec<Member>,
    /// On the leader: up to where each other server has the log.
    pub matched: BTreeMap<NodeId, Option<LogIndex>>,
    /// Bytes of entries, objects and history, in memory and on disk.
    pub log_bytes: u64,
    /// See `log_bytes`.
    pub objects_bytes: u64,
    /// See `log_bytes`.
    pub history_bytes: u64,
    /// Why the log has stopped, if it has.
    pub fatal: Option<String>,
}

impl Log {
    /// How the log is doing on this server.
    pub fn status(&self) -> LogStatus {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<crate::types::LogId>| id.map(|id| LogIndex(id.index));
        LogStatus {
            node_id: metrics.id,
            term: metrics.current_term,
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::Stopped,
            },
            leader: metrics.current_leader,
            last_index: metrics.last_log_index.map(LogIndex),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            purged: index(&metrics.purged),
            members: listed(metrics.membership_config.membership()),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, matched)| (*id, index(matched)))
                .collect(),
            log_bytes: self.shared.store.size(Family::Log),
            objects_bytes: self.shared.store.size(Family::Objects),
            history_bytes: self.shared.store.size(Family::History),
            fatal: match &metrics.running_state {
                Ok(()) | Err(Fatal::Stopped) => None,
                Err(fatal) => Some(fatal.to_string()),
            },
        }
    }

    /// Everybody, by id.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.shared.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        listed(metrics.membership_config.membership())
    }

    /// Whether a server belongs to the cluster, as far as this one knows.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.shared.raft.server_metrics().borrow_watched().membership_config.get_node(&node).is_some()
    }

    /// Entries that are known to be committed and are not applied here.
    pub fn lag(&self) -> u64 {
        let metrics = self.shared.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<crate::types::LogId>| id.map_or(0, |id| id.index);
        index(&metrics.cluster_committed).saturating_sub(index(&metrics.last_applied))
    }

    /// Waits until the log has stopped; why, unless it was shut down. Whoever gets a reason should end
    /// the process: this server acknowledges nothing any more.
    pub async fn stopped(&self) -> Option<String> {
        let mut changes = self.shared.raft.server_metrics();
        while changes.changed().await.is_ok() {}
        let closing = self.shared.closing.load(Ordering::Acquire);
        // One that panicked has not told anybody.
        self.status().fatal.or_else(|| (!closing).then(|| "openraft's task has ended by itself".to_owned()))
    }

    /// Lets server `node` take part without a vote, and waits until it has caught up.
    ///
    /// # Errors
    /// When this server does not lead or another change is under way.
    pub async fn add_learner(&self, node: NodeId, address: impl Into<String>) -> Result<(), LogError> {
        self.shared.raft.add_learner(node, Place::new(address, ""), true).await.map_err(refused)?;
        Ok(())
    }

    /// Lets server `node` take part without a vote. [`LogStatus::matched`] tells how far it is.
    ///
    /// # Errors
    /// When this server does not lead or another change is under way.
    pub async fn admit_learner(&self, node: NodeId, address: &str, name: &str) -> Result<(), LogError> {
        self.shared.raft.add_learner(node, Place::new(address, name), false).await.map_err(refused)?;
        Ok(())
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// When it is no learner, this server does not lead, or another change is under way.
    pub async fn promote(&self, node: NodeId) -> Result<(), LogError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node]))).await
    }

    /// Takes a server out of the cluster, voter or not.
    ///
    /// # Errors
    /// When it is the last voter, this server does not lead, or another change is under way.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), LogError> {
        let votes = self.status().members.iter().any(|member| member.node_id == node && member.voter);
        let nodes = BTreeSet::from([node]);
        self.change(if votes {
            ChangeMembers::RemoveVoters(nodes)
        } else {
            ChangeMembers::RemoveNodes(nodes)
        })
        .await
    }

    /// Tells the cluster that a member is reached at another address, or called differently, now.
    ///
    /// # Errors
    /// When it is no member, this server does not lead, or another change is under way.
    pub async fn set_place(&self, node: NodeId, address: &str, name: &str) -> Result<(), LogError> {
        // openraft would take it in.
        if !self.is_member(node) {
            return Err(LogError::Membership(format!("server {node} is not a member")));
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, Place::new(address, name))]))).await
    }

    /// Hands leadership to server `to`, and waits until it (or somebody else) has it.
    ///
    /// # Errors
    /// When this server does not lead, or still does after four election timeouts.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), LogError> {
        let raft = &self.shared.raft;
        let mut changes = raft.server_metrics();
        let (leads, leader) = {
            let now = changes.borrow_and_update();
            (now.state == ServerState::Leader, now.current_leader)
        };
        if !leads {
            return Err(LogError::NotLeader { leader });
        }
        let fatal = |error: &dyn std::fmt::Display| LogError::Fatal(error.to_string());
        raft.trigger().transfer_leader(to).await.map_err(|error| fatal(&error))?;
        let handed_over = async {
            loop {
                if changes
                    .borrow_and_update()
                    .current_leader
                    .is_some_and(|leader| leader != self.shared.config.node_id)
                {
                    return Ok(());
                }
                changes.changed().await.map_err(|error| fatal(&error))?;
            }
        };
        let limit = self.shared.config.election.1 * 4;
        tokio::time::timeout(limit, handed_over)
            .await
            .unwrap_or_else(|_| Err(LogError::Membership(format!("server {to} did not take over in time"))))
    }

    async fn change(&self, change: ChangeMembers<NodeId, Place>) -> Result<(), LogError> {
        self.shared.raft.change_membership(change, false).await.map_err(refused)?;
        Ok(())
    }
}

/// Everybody on a members list, by id.
pub(crate) fn listed(members: &Membership) -> Vec<Member> {
    let voters: BTreeSet<NodeId> = members.voter_ids().collect();
    let member = |(id, node): (&NodeId, &Place)| Member {
        node_id: *id,
        address: node.address.clone(),
        name: node.name.clone(),
        voter: voters.contains(id),
    };
    members.nodes().map(member).collect()
}

/// A leader that was started at another address or name than its members list says puts that right.
pub(crate) async fn keep_place(raft: Raft, place: Place, mut leadership: watch::Receiver<Leadership>) {
    while leadership.wait_for(|now| now.is_leader).await.is_ok() {
        let me = *raft.node_id();
        let members = listed(raft.server_metrics().borrow_watched().membership_config.membership());
        if let Some(place) = new_place(&members, me, &place) {
            let node = BTreeMap::from([(me, place.clone())]);
            match raft.change_membership(ChangeMembers::SetNodes(node), true).await {
                Ok(_) => tracing::info!(address = place.address, "this server is known at its new address"),
                Err(error) => {
                    let address = &place.address;
                    tracing::warn!(%error, address, "the new address of this server is not known to others")
                }
            }
        }
        if leadership.wait_for(|now| !now.is_leader).await.is_err() {
            return;
        }
    }
}

/// How server `me` is to be listed, if not as it is. It does not take another's name.
fn new_place(members: &[Member], me: NodeId, wanted: &Place) -> Option<Place> {
    let listed = members.iter().find(|member| member.node_id == me)?;
    let mut place = wanted.clone();
    if !place.name.is_empty() && members.iter().any(|other| other.node_id != me && other.name == place.name) {
        tracing::warn!(name = place.name, "another server has this name; this one keeps the one it had");
        place.name.clone_from(&listed.name);
    }
    (listed.address != place.address || listed.name != place.name).then_some(place)
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> LogError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            LogError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(other) => LogError::Membership(other.to_string()),
        RaftError::Fatal(fatal) => LogError::Fatal(fatal.to_string()),
    }
}
