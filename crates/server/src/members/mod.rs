//! The servers of the cluster as this one knows them: who they are, how they are, and how that changes.
//!
//! - `join`: how a machine becomes a server; `introduce`: how servers that moved find each other;
//! - `alone`: how one goes on when the majority is lost for good;
//! - `replicas`: that all of them have the same state;
//! - `health`: how all of them are; `change`: what may be changed without losing the quorum.
//!
//! Invariant: a change of members is carried out by the leader alone, and only when a majority of the
//! voters that would be left answers.

mod alone;
mod change;
mod health;
mod introduce;
mod join;
mod replicas;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balsa_log::{Lane, Log, LogError, TransportConfig};
use balsa_model::{Failure, Reason};
use balsa_proto::peer;
use balsa_proto::peer::peer_service_client::PeerServiceClient;
use balsa_state::State;
use tonic::transport::Channel;

use crate::identity::ServerId;

pub(crate) use alone::form_anew;
pub(crate) use change::enter;
pub use health::machine;
pub(crate) use health::{MemberHealth, can_lose};
pub(crate) use introduce::keep_introduced;
pub(crate) use join::{enter_cluster, identify};
pub(crate) use replicas::check_replicas;

/// How long another server may take to say how it is.
const ASK: Duration = Duration::from_secs(1);
/// Largest lag at which a server counts as healthy, in entries.
pub(crate) const NEAR: u64 = 5_000;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Members(Arc<Inner>);

struct Inner {
    id: ServerId,
    address: String,
    pods_address: Option<SocketAddr>,
    log: Log,
    transport: TransportConfig,
    state: State,
    /// What comparing states came to, if it is not well.
    doubt: Mutex<Option<String>>,
}

impl Members {
    pub(crate) fn new(
        id: ServerId,
        (address, pods_address): (String, Option<SocketAddr>),
        log: Log,
        transport: TransportConfig,
        state: State,
    ) -> Self {
        Self(Arc::new(Inner { id, address, pods_address, log, transport, state, doubt: Mutex::default() }))
    }

    /// This server.
    pub(crate) fn id(&self) -> &ServerId {
        &self.0.id
    }

    /// Where this server is.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    pub(crate) fn log(&self) -> &Log {
        &self.0.log
    }

    pub(crate) fn transport(&self) -> &TransportConfig {
        &self.0.transport
    }

    /// Where all servers are, this one first.
    pub(crate) fn servers(&self) -> Vec<String> {
        let mut servers = vec![self.0.address.clone()];
        let others = self.0.log.members().into_iter().filter(|member| member.node_id != self.0.id.id);
        servers.extend(others.map(|member| self.0.transport.address(member.node_id, &member.address)));
        servers
    }

    /// This server, as others know it.
    pub(crate) fn place(&self) -> peer::Place {
        let (id, address) = (&self.0.id, self.0.address.clone());
        peer::Place { node_id: id.id, name: id.name.clone(), address }
    }

    /// All servers, as the members list has them.
    pub(crate) fn places(&self) -> Vec<peer::Place> {
        let place = |member: balsa_log::Member| peer::Place {
            node_id: member.node_id,
            address: self.0.transport.address(member.node_id, &member.address),
            name: member.name,
        };
        self.0.log.members().into_iter().map(place).collect()
    }

    /// A client of another server.
    pub(crate) fn peer(&self, node: u64) -> Result<PeerServiceClient<Channel>, Failure> {
        let listed = self.0.log.members().into_iter().find(|member| member.node_id == node);
        let listed = listed.ok_or_else(|| unavailable(format!("server {node} is not known here")))?;
        let channel = self.0.transport.channel(node, &listed.address, Lane::Control);
        channel.map(PeerServiceClient::new).map_err(|error| unavailable(error.to_string()))
    }

    /// The leader, if it is another server.
    pub(crate) fn leader(&self) -> Result<Option<PeerServiceClient<Channel>>, Failure> {
        match self.0.log.leadership().borrow().leader {
            Some(leader) if leader == self.0.id.id => Ok(None),
            Some(leader) => self.peer(leader).map(Some),
            None => Err(unavailable("the cluster has no leader at the moment".to_owned())),
        }
    }
}

pub(crate) fn unavailable(why: String) -> Failure {
    Failure::new(Reason::ServiceUnavailable, why).retry_after(1)
}

/// What the log says of a change, as clients are told.
pub(crate) fn log_failed(error: &LogError) -> Failure {
    match error {
        LogError::NotLeader { .. } => unavailable(error.to_string()),
        LogError::Membership(_) => Failure::new(Reason::Conflict, error.to_string()),
        _ => Failure::internal(error),
    }
}
