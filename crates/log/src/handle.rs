//! [`Log`]: open it, propose, read, ask how it is, shut it down.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use balsa_rt::{CancellationToken, Scope, TaskKind};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot, watch};

use crate::codec::pb;
use crate::config::LogConfig;
use crate::error::{LogError, ProposeError, ReadError};
use crate::incoming::Incoming;
use crate::leadership::{self, Heard, Leadership};
use crate::log_store::LogStore;
use crate::machine::{LogIndex, Machine, StateMachine, blocking};
use crate::network::Network;
use crate::read_index::{self, Waiter};
use crate::service::{self, PeerServer};
use crate::store::Store;
use crate::tables::Tables;
use crate::transport::{Lane, TransportConfig};
use crate::types::{NodeId, Payload, Place, Raft, Reply, Types};
use crate::{compaction, members, metrics};

/// How long the last news may take at shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Proposals of the leader's own work that are taken however small the room for others is.
const OWN_PENDING: usize = 64;

/// The replicated log of one server. Clones are handles to the same log; it runs until
/// [`Log::shutdown`].
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: LogConfig,
    pub(crate) store: Arc<Store>,
    pub(crate) raft: Raft,
    pub(crate) transport: TransportConfig,
    /// Its tables are not to be trusted: nobody gets them.
    pub(crate) suspect: AtomicBool,
    /// The snapshot that is being received.
    pub(crate) incoming: tokio::sync::Mutex<Incoming>,
    waiting: Waiting,
    leadership: watch::Receiver<Leadership>,
    pub(crate) heard: Heard,
    applied: watch::Receiver<LogIndex>,
    readers: mpsc::UnboundedSender<Waiter>,
    /// Servers whose lag stands in the metrics.
    pub(crate) peers_told: Mutex<BTreeSet<String>>,
    scope: Mutex<Option<Scope>>,
    /// It was told to stop.
    pub(crate) closing: AtomicBool,
}

impl Log {
    /// Opens the log of this server: rebuilds the state machine from its tables, applies again what
    /// is committed beyond them, and joins the cluster that it knows of, if any.
    ///
    /// # Errors
    /// When what is on disk is damaged, foreign or too new, or the configuration contradicts itself.
    pub async fn open<M: StateMachine>(
        config: LogConfig,
        machine: M,
        transport: TransportConfig,
    ) -> Result<Self, LogError> {
        metrics::describe();
        let raft_config = Arc::new(config.raft()?);
        let (path, node_id, faults) = (config.data_dir.clone(), config.node_id, config.faults.clone());
        let opened = balsa_rt::spawn_blocking(move || Store::open(&path, node_id, faults)).await;
        let store = Arc::new(opened.map_err(|error| LogError::Fatal(error.to_string()))??);
        let log_store = LogStore::open(store.clone(), config.cache_bytes)?;
        let (announce_applied, applied) = watch::channel(LogIndex::default());
        let machine =
            Machine::open(store.clone(), log_store.clone(), Box::new(machine), announce_applied, &transport)
                .await?;
        let network = Network { transport: transport.clone() };
        let raft = Raft::new(node_id, raft_config, network, log_store, machine)
            .await
            .map_err(|fatal| LogError::Fatal(fatal.to_string()))?;

        let scope = Scope::new();
        let (announce_leadership, leadership) = watch::channel(Leadership::default());
        scope.spawn(TaskKind::Raft, leadership::run(raft.clone(), announce_leadership, applied.clone()));
        let place = Place::new(&config.address, &config.name);
        scope.spawn(TaskKind::Raft, members::keep_place(raft.clone(), place, leadership.clone()));
        let small = compaction::keep_small(raft.clone(), store.clone(), config.max_log_bytes);
        scope.spawn(TaskKind::Raft, small);
        scope.spawn(TaskKind::Raft, verify(store.clone(), scope.token()));
        // A reader waits for its answer: there are as many as requests that the front doors let in.
        let (readers, asked) = mpsc::unbounded_channel();
        scope.spawn(TaskKind::Raft, read_index::run(raft.clone(), node_id, transport.clone(), asked));
        let shared = Shared {
            config,
            store,
            raft,
            transport,
            suspect: AtomicBool::new(false),
            incoming: tokio::sync::Mutex::default(),
            waiting: Waiting::default(),
            leadership,
            heard: Heard::default(),
            applied,
            readers,
            peers_told: Mutex::default(),
            scope: Mutex::new(Some(scope)),
            closing: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Forms a cluster of this server alone. Does nothing when it belongs to one.
    ///
    /// # Errors
    /// When the log has stopped.
    pub async fn initialize(&self) -> Result<(), LogError> {
        use openraft::errors::{InitializeError, RaftError};
        let config = &self.shared.config;
        let place = Place::new(&config.address, &config.name);
        let members = std::collections::BTreeMap::from([(config.node_id, place)]);
        match self.shared.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(LogError::Fatal(error.to_string())),
        }
    }

    /// A place among the proposals under way, for one of so many `bytes`.
    ///
    /// # Errors
    /// `Overloaded` when there is none.
    pub fn enter(&self, bytes: usize) -> Result<Turn, ProposeError> {
        let turn = Turn::enter(self.shared.clone(), bytes, false);
        turn.inspect_err(|error| metrics::proposal_failed(reason(error)))
    }

    /// Has `payload` committed and applied by the leader, wherever that is; its index and the state
    /// machine's reply. This server may not have applied it yet when it does not lead.
    ///
    /// # Errors
    /// See [`ProposeError`]: all but `Unknown` mean that nothing was proposed.
    pub async fn propose(&self, payload: Bytes) -> Result<(LogIndex, Bytes), ProposeError> {
        let turn = self.shared.fits(&payload);
        let turn = turn.and_then(|()| Turn::enter(self.shared.clone(), payload.len(), false));
        let turn = turn.inspect_err(|error| metrics::proposal_failed(reason(error)))?;
        self.propose_in(&turn, payload).await
    }

    /// Like [`Log::propose`], for somebody who has a turn already, or several.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_in(&self, _turn: &Turn, payload: Bytes) -> Result<(LogIndex, Bytes), ProposeError> {
        let outcome = match self.shared.submit(payload.clone(), None).await {
            Err(ProposeError::NotLeader { leader: Some(leader) }) if leader != self.shared.config.node_id => {
                self.shared.forward(leader, payload).await
            }
            outcome => outcome,
        };
        outcome.inspect_err(|error| metrics::proposal_failed(reason(error)))
    }

    /// Like [`Log::propose`], but never forwarded, and refused unless this server leads in `term`: what
    /// a deposed leader's work still proposes goes nowhere.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_as_leader(
        &self,
        term: u64,
        payload: Bytes,
    ) -> Result<(LogIndex, Bytes), ProposeError> {
        let outcome = self.shared.propose_here(payload, Some(term)).await;
        outcome.inspect_err(|error| metrics::proposal_failed(reason(error)))
    }

    /// Waits until this server has applied all that was committed anywhere when this was called. A
    /// read of its state is linearizable then.
    ///
    /// # Errors
    /// When no leader, or no quorum, can be reached.
    pub async fn read_index(&self) -> Result<LogIndex, ReadError> {
        if self.is_distrusted() {
            return Err(ReadError::Distrusted);
        }
        let (waiter, answer) = oneshot::channel();
        self.shared.readers.send(waiter).map_err(|_| ReadError::Shutdown)?;
        let index = answer.await.map_err(|_| ReadError::Shutdown)??;
        let mut applied = self.shared.applied.clone();
        applied.wait_for(|applied| *applied >= index).await.map_err(|_| ReadError::Shutdown)?;
        Ok(index)
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Up to where this server has applied, and every advance. Views are published before this moves.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.shared.applied.clone()
    }

    /// The state machine's tables.
    pub fn tables(&self) -> Tables {
        Tables::new(self.shared.store.clone())
    }

    /// What other servers call. Whoever mounts it must let only servers of this cluster in.
    pub fn service(&self) -> PeerServer {
        service::serve(self.shared.clone())
    }

    /// Hands leadership over if another voter can take it, and stops. What is acknowledged is on disk.
    ///
    /// # Errors
    /// When openraft's task had panicked, or the disk fails.
    pub async fn shutdown(&self) -> Result<(), LogError> {
        self.shared.closing.store(true, Ordering::Release);
        self.hand_over().await;
        let stopped = self.shared.raft.shutdown().await;
        // Whoever works as leader learns of the end before the tasks that tell it are ended.
        let told = async { self.leadership().wait_for(|now| !now.is_leader).await.map(|_| ()) };
        let _ = tokio::time::timeout(CLOSE_LIMIT, told).await;
        drop(self.shared.scope.lock().unwrap_or_else(PoisonError::into_inner).take());
        stopped.map_err(|error| LogError::Fatal(error.to_string()))?;
        // Nothing to apply again at the next start.
        let store = self.shared.store.clone();
        blocking(move || store.flush_tables()).await
    }

    /// Everything in the tables, as of now, as one stream that ends with its checksum: what `backup`
    /// reads. Memory does not grow with the state, and nothing waits for it.
    pub fn backup(&self) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        crate::backup::stream(self.shared.store.clone())
    }

    /// The best follower gets a chance to lead at once instead of after an election timeout. Does nothing
    /// on a server that does not lead, or has nobody to hand over to.
    pub async fn hand_over(&self) {
        let Some(heir) = self.heir() else { return };
        if let Err(error) = self.transfer_leader(heir).await {
            tracing::info!(%error, heir, "leadership was not handed over");
        }
    }

    fn heir(&self) -> Option<NodeId> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        if !metrics.state.is_leader() {
            return None;
        }
        let voters = metrics.membership_config.voter_ids();
        let progress = metrics.replication.as_ref()?;
        voters
            .filter(|voter| *voter != metrics.id)
            .filter_map(|voter| Some((progress.get(&voter)?.as_ref()?.index, voter)))
            .max()
            .map(|(_, voter)| voter)
    }
}

impl Shared {
    /// Proposes without forwarding; in `term` only, if one is given.
    pub(crate) async fn propose_here(
        self: &Arc<Self>,
        payload: Bytes,
        term: Option<u64>,
    ) -> Result<(LogIndex, Bytes), ProposeError> {
        self.fits(&payload)?;
        let _turn = Turn::enter(self.clone(), payload.len(), term.is_some())?;
        self.submit(payload, term).await
    }

    fn fits(&self, payload: &Bytes) -> Result<(), ProposeError> {
        let (size, limit) = (payload.len(), self.config.max_payload);
        if size > limit { Err(ProposeError::TooLarge { size, limit }) } else { Ok(()) }
    }

    /// What [`Self::propose_here`] does once there is a turn.
    async fn submit(&self, payload: Bytes, term: Option<u64>) -> Result<(LogIndex, Bytes), ProposeError> {
        self.fits(&payload)?;
        let leads = self.leadership.borrow().leader == Some(self.config.node_id);
        let (reply, outcome) = oneshot::channel();
        let mut request = self.raft.write(Payload(payload)).responder(Reply(reply));
        if let Some(term) = term {
            request = request.with_leader(term);
        }
        request.await.map_err(|fatal| not_proposed(&fatal))?;
        let outcome = async {
            tokio::select! {
                biased;
                outcome = outcome => outcome.map_err(|_| ()),
                // What becomes of it is for the new leader to say.
                () = self.deposed(self.config.node_id), if leads => Err(()),
            }
        };
        match tokio::time::timeout(self.config.propose_timeout, outcome).await {
            Ok(Ok(outcome)) => read_outcome(outcome),
            // Too late, or openraft stopped with the proposal in its hands.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Ends when another server than `leader` leads.
    async fn deposed(&self, leader: NodeId) {
        let mut leadership = self.leadership.clone();
        if leadership.wait_for(|now| now.leader.is_some_and(|other| other != leader)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn forward(&self, leader: NodeId, payload: Bytes) -> Result<(LogIndex, Bytes), ProposeError> {
        let lost = ProposeError::NotLeader { leader: Some(leader) };
        let address = address_of(&self.raft, leader).ok_or_else(|| lost.clone())?;
        let mut client =
            self.transport.client(leader, &address, Lane::Proposals).map_err(|_| lost.clone())?;
        let size = payload.len();
        let call = client.propose(pb::ProposeRequest { to: leader, payload });
        let call = async {
            tokio::select! {
                biased;
                answer = call => answer,
                () = self.deposed(leader) => Err(tonic::Status::aborted("another server leads")),
            }
        };
        match tokio::time::timeout(self.config.propose_timeout, call).await {
            Ok(Ok(response)) => service::read_propose(response.into_inner(), size),
            // It refused us, or the connection could not be made: nothing was proposed.
            Ok(Err(status)) if is_unsent(&status) => {
                if status.code() == tonic::Code::PermissionDenied {
                    self.transport.refused(leader, status.message());
                }
                Err(lost)
            }
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// Looks once, beside everything else, whether all that is on disk can be read. A server that finds damage
/// ends: what it would be asked for next may be just that.
async fn verify(store: Arc<Store>, token: CancellationToken) -> Result<(), LogError> {
    if balsa_rt::is_simulated() {
        return Ok(());
    }
    let read = balsa_rt::spawn_blocking(move || store.verify(|| token.is_cancelled())).await;
    read.unwrap_or(Ok(()))
}

/// Whether a call that failed has not been worked on by the other server.
fn is_unsent(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    use tonic::Code;
    if matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition) {
        return true;
    }
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What is under way.
#[derive(Default)]
pub(crate) struct Waiting {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place among the proposals under way, of which there is a limited number, and of which the bytes are limited
/// too. Dropping it frees it.
pub struct Turn {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Turn {
    /// Room for a payload of so many `bytes`; `own` is what the leader's own work proposes.
    fn enter(shared: Arc<Shared>, bytes: usize, own: bool) -> Result<Self, ProposeError> {
        let reserve = if own { shared.config.max_pending / 10 + OWN_PENDING } else { 0 };
        let count = shared.waiting.count.fetch_add(1, Ordering::Relaxed);
        let held = shared.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        let turn = Self { shared, bytes };
        let config = &turn.shared.config;
        let is_full = count >= config.max_pending + reserve;
        // One that is larger than all the room is taken when it comes alone.
        if is_full || (!own && held > 0 && held + bytes > config.max_pending_bytes) {
            return Err(ProposeError::Overloaded);
        }
        metrics::proposals_pending(count + 1);
        Ok(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let waiting = &self.shared.waiting;
        waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        let before = waiting.count.fetch_sub(1, Ordering::Relaxed);
        metrics::proposals_pending(before.saturating_sub(1));
    }
}

/// Where the members list says that a server is.
pub(crate) fn place_of(raft: &Raft, node: NodeId) -> Option<Place> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.get_node(&node).cloned()
}

/// Its address only.
pub(crate) fn address_of(raft: &Raft, node: NodeId) -> Option<String> {
    place_of(raft, node).map(|place| place.address)
}

fn read_outcome(outcome: ClientWriteResult<Types>) -> Result<(LogIndex, Bytes), ProposeError> {
    match outcome {
        Ok(response) => Ok((LogIndex(response.log_id.index), response.data)),
        Err(ClientWriteError::ForwardToLeader(to)) => Err(ProposeError::NotLeader { leader: to.leader_id }),
        Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => Err(ProposeError::Unknown),
    }
}

fn not_proposed(fatal: &Fatal<Types>) -> ProposeError {
    match fatal {
        Fatal::Stopped => ProposeError::Shutdown,
        Fatal::StorageError(_) | Fatal::Panicked => ProposeError::Fatal(fatal.to_string()),
    }
}

fn reason(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::NotLeader { .. } => "not_leader",
        ProposeError::Unknown => "unknown",
        ProposeError::Overloaded => "overloaded",
        ProposeError::TooLarge { .. } => "too_large",
        ProposeError::Shutdown => "shutdown",
        ProposeError::Fatal(_) => "fatal",
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
