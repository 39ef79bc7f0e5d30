//! The state machine as seen from outside ([`StateMachine`]) and as openraft wants it ([`Machine`]).
//!
//! What the machine wants in its tables is written with the index that they then reflect, in one batch that
//! is not made durable: after a crash the entries behind that index are applied again. Replies leave after
//! the batch is written and the machine has published its views.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use prost::Message as _;
use rocksdb::WriteBatch;
use tokio::sync::watch;

use crate::codec;
use crate::error::{LogError, StateMachineError};
use crate::log_store::LogStore;
use crate::metrics::{self, SnapshotWork};
use crate::rebuild;
use crate::snapshot::{self, SnapshotData, SnapshotFile};
use crate::store::{Key, Store};
use crate::tables::{TableBatch, Tables};
use crate::transport::TransportConfig;
use crate::types::{EntryPayload, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};

/// Entries applied with one call and one batch.
const APPLY_ENTRIES: usize = 1024;

/// Position of an entry in the log; the first one is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl std::fmt::Display for LogIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry that a quorum has on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands. Indexes grow, not always by one: the log has entries of its own.
    pub index: LogIndex,
    /// What was proposed.
    pub payload: Bytes,
}

/// What the log is for. Every server feeds its own the same payloads in the same order.
#[async_trait]
pub trait StateMachine: Send + 'static {
    /// Rebuilds memory from the tables: at opening, and after a snapshot replaced them. `applied` is
    /// what the tables reflect.
    async fn restore(&mut self, tables: &Tables, applied: Option<LogIndex>) -> Result<(), StateMachineError>;

    /// Applies payloads in order and returns one reply for each, in order. What belongs into the
    /// tables goes into `batch`, which is written along with the new `applied`.
    async fn apply(&mut self, entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes>;

    /// Called after the batch is written and before the replies leave: publish views here.
    async fn publish(&mut self, applied: LogIndex);
}

/// openraft's state machine around ours.
pub(crate) struct Machine {
    store: Arc<Store>,
    log: LogStore,
    /// Never contended: the lock only makes `Sync` of `Send`.
    machine: Mutex<Box<dyn StateMachine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    announce: watch::Sender<LogIndex>,
}

impl Machine {
    /// Finishes what a crash interrupted, and rebuilds the machine's memory; from another server's tables
    /// if its own are damaged.
    pub(crate) async fn open(
        store: Arc<Store>,
        log: LogStore,
        machine: Box<dyn StateMachine>,
        announce: watch::Sender<LogIndex>,
        transport: &TransportConfig,
    ) -> Result<Self, LogError> {
        let resumed = store.clone();
        blocking(move || snapshot::resume_install(&resumed)).await?;
        let mut opened = Self {
            store,
            log,
            machine: Mutex::new(machine),
            applied: None,
            membership: StoredMembership::default(),
            announce,
        };
        match opened.load().await {
            Err(LogError::Damaged(why)) => opened.rescue(transport, &why).await?,
            loaded => loaded?,
        }
        Ok(opened)
    }

    /// Takes another server's tables, before this one has any part in the cluster.
    async fn rescue(&mut self, transport: &TransportConfig, why: &str) -> Result<(), LogError> {
        tracing::error!(why, "the tables are damaged: this server takes those of another one");
        metrics::rebuilt();
        let members = self.store.membership()?;
        let (file, meta) = rebuild::fetch_from_any(&self.store, &members, transport, why).await?;
        // First the log: cut short in between, the tables are still damaged, and all this begins again.
        self.log.restart_at(meta.last_log_id).await.map_err(|error| LogError::Fatal(error.to_string()))?;
        let store = self.store.clone();
        blocking(move || snapshot::install(&store, SnapshotData::File(file))).await?;
        self.load().await
    }

    /// Replaces tables that are not to be trusted while the log goes on. `false`: the file is older than
    /// what is applied here, which openraft would not apply again.
    pub(crate) async fn replace(&mut self, file: SnapshotFile, upto: LogId) -> Result<bool, LogError> {
        if Some(upto) < self.applied {
            return Ok(false);
        }
        let store = self.store.clone();
        blocking(move || snapshot::install(&store, SnapshotData::File(file))).await?;
        self.load().await?;
        Ok(true)
    }

    async fn load(&mut self) -> Result<(), LogError> {
        self.applied = self.store.log_id(Key::Applied)?;
        self.membership = self.store.membership()?;
        let tables = Tables::new(self.store.clone());
        let applied = self.applied.map(|applied| LogIndex(applied.index));
        let restored = self.machine().restore(&tables, applied).await;
        restored.map_err(|error| match error.damaged {
            true => LogError::Damaged(error.to_string()),
            false => LogError::Restore(error.to_string()),
        })?;
        if let Some(applied) = applied {
            self.announce(applied).await;
        }
        Ok(())
    }

    fn machine(&mut self) -> &mut dyn StateMachine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    async fn announce(&mut self, applied: LogIndex) {
        self.machine().publish(applied).await;
        self.announce.send_replace(applied);
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    async fn apply_chunk(&mut self, chunk: Vec<EntryResponder<Types>>) -> Result<(), LogError> {
        let started = Instant::now();
        let mut entries = Vec::with_capacity(chunk.len());
        let mut waiting = Vec::with_capacity(chunk.len());
        let mut last = None;
        for (entry, responder) in chunk {
            // Tables that were replaced may be ahead of what openraft knows to be applied. Whoever proposed it
            // here proposes it again, and is told what came of it.
            if Some(entry.log_id) <= self.applied {
                continue;
            }
            last = Some(entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Normal(payload) => {
                    entries.push(Committed { index: LogIndex(entry.log_id.index), payload: payload.0 });
                    true
                }
                EntryPayload::Membership(members) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), members);
                    false
                }
                EntryPayload::Blank => false,
            };
            waiting.push((responder, reply));
        }
        let Some(last) = last else { return Ok(()) };
        let expected = entries.len();
        let mut tables = TableBatch::default();
        let replies =
            if expected == 0 { Vec::new() } else { self.machine().apply(entries, &mut tables).await };
        if replies.len() != expected {
            let found = replies.len();
            return Err(LogError::Fatal(format!(
                "the state machine gave {found} replies to {expected} entries"
            )));
        }
        self.write(&tables, last)?;
        self.applied = Some(last);
        self.announce(LogIndex(last.index)).await;
        release(waiting, replies);
        metrics::apply(started.elapsed());
        metrics::apply_lag(self.log.committed().map_or(0, |to| to.index.saturating_sub(last.index)));
        Ok(())
    }

    fn write(&self, tables: &TableBatch, applied: LogId) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        tables.add_to(&self.store, &mut batch)?;
        self.store.put_meta(&mut batch, Key::Applied, &codec::log_id(&applied).encode_to_vec())?;
        if *self.membership.log_id() > self.applied {
            let members = codec::stored_membership(&self.membership).encode_to_vec();
            self.store.put_meta(&mut batch, Key::Membership, &members)?;
        }
        self.store.write_tables(batch)
    }
}

/// Hands each reply to whoever proposed it here.
fn release(waiting: Vec<(Option<ApplyResponder<Types>>, bool)>, replies: Vec<Bytes>) {
    let mut replies = replies.into_iter();
    for (responder, has_reply) in waiting {
        let reply = if has_reply { replies.next().unwrap_or_default() } else { Bytes::new() };
        if let Some(responder) = responder {
            responder.send(reply);
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    balsa_rt::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(LogError::Fatal(format!("work on the disk: {error}"))))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
            self.apply_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { store: self.store.clone(), meta: self.meta() }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let begun = Instant::now();
        let store = self.store.clone();
        blocking(move || snapshot::install(&store, data)).await?;
        self.load().await?;
        SnapshotWork::Install.done(begun);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.store.meta(Key::Snapshot)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta: self.meta(), snapshot: SnapshotData::Tables(self.store.clone()) }))
    }
}

/// Lets the tables stand in for the entries that they reflect.
///
/// Nothing is copied: the tables *are* the snapshot. They only have to be durable before the entries
/// are purged; bytes move when another server needs them.
pub(crate) struct SnapshotBuilder {
    store: Arc<Store>,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let begun = Instant::now();
        let mut batch = WriteBatch::default();
        self.store.put_meta(&mut batch, Key::Snapshot, b"")?;
        self.store.write_tables(batch)?;
        let store = self.store.clone();
        blocking(move || store.flush_tables()).await?;
        SnapshotWork::Build.done(begun);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Tables(self.store.clone()) })
    }
}
