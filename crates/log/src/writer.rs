//! The one thread that writes the log: it drains its queue, writes one batch, syncs the write-ahead
//! log once, and then completes everybody who waited.
//!
//! Whatever arrives during a sync goes into the next batch, so the more proposers there are, the
//! more entries share a sync. The first failure is final: a disk that failed a sync may have dropped
//! the pages, so trying again could report as durable what is not. Everything after it fails too.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use balsa_rt::TaskKind;
use openraft::storage::IOFlushed;
use prost::Message as _;
use rocksdb::WriteBatch;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::codec;
use crate::error::LogError;
use crate::metrics;
use crate::store::{Family, Key, Store};
use crate::types::{Entry, LogId, Types, Vote};

/// Bytes after which a batch is closed, so that one sync does not keep the first waiters too long.
const BATCH_BYTES: usize = 8 << 20;

pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// Something to write, in the order of the queue.
pub(crate) enum Write {
    /// `sequence` is published as written when the entries can be read from RocksDB.
    Append {
        entries: Vec<Entry>,
        sequence: u64,
        done: IOFlushed<Types>,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Entries from here on go.
    Truncate {
        from: u64,
    },
    /// Entries up to here go.
    Purge {
        upto: LogId,
    },
    /// Nothing: makes what was written before durable.
    Sync {
        done: Done,
    },
}

/// Up to where entries are committed. Not waited for: it lets a restarted server apply at once what its tables lack,
/// and an election finds it out anyway.
pub(crate) struct Committed {
    pub(crate) log_id: Option<LogId>,
    /// Of the last append before: the log on disk must not end before what is said to be committed.
    pub(crate) sequence: u64,
}

/// Hands writes to the thread. Dropping it waits for what is queued and for the thread to let go of the
/// database: RocksDB must not be closed by a thread that outlives `main`, and whoever opens the
/// directory again must find it free.
pub(crate) struct Writer {
    /// `None` only while being dropped.
    queue: Option<UnboundedSender<Write>>,
    written: Arc<AtomicU64>,
    committed: Arc<Mutex<Option<Committed>>>,
    /// `None` in a simulation, where a task takes its place.
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread; in a simulation a task, so that all that happens is in one order.
    pub(crate) fn start(store: Arc<Store>) -> io::Result<Self> {
        // No bound of its own: openraft has few appends under way at a time, and proposals are bounded where
        // they enter (`Log::enter`).
        let (queue, inbox) = unbounded_channel();
        let (written, committed) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let worker = Worker {
            store,
            inbox,
            written: written.clone(),
            committed: Arc::clone(&committed),
            last_sequence: 0,
            failed: None,
        };
        if balsa_rt::is_simulated() {
            balsa_rt::spawn(TaskKind::Raft, worker.run_simulated());
            return Ok(Self { queue: Some(queue), written, committed, thread: None });
        }
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || worker.run())?;
        Ok(Self { queue: Some(queue), written, committed, thread: Some(thread) })
    }

    pub(crate) fn send(&self, write: Write) -> io::Result<()> {
        let sent = self.queue.as_ref().map(|queue| queue.send(write));
        sent.and_then(Result::ok).ok_or_else(|| io::Error::other("the log writer has ended"))
    }

    /// What is to be written along with whatever comes next; the thread is not woken for it.
    pub(crate) fn put_committed(&self, committed: Committed) {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed);
    }

    /// Appends with a sequence up to this one can be read from RocksDB.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        // A completed waiter may have been the last owner of the log; a thread cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the log writer had panicked");
        }
    }
}

/// Who waits for the batch.
enum Waiter {
    Append(IOFlushed<Types>),
    Other(Done),
}

/// What one sync will cover.
#[derive(Default)]
struct Batch {
    batch: WriteBatch,
    waiters: Vec<Waiter>,
    entries: usize,
    sequence: Option<u64>,
    purged: Option<u64>,
    sync: bool,
}

struct Worker {
    store: Arc<Store>,
    inbox: UnboundedReceiver<Write>,
    written: Arc<AtomicU64>,
    committed: Arc<Mutex<Option<Committed>>>,
    /// Of the last append that is in a batch.
    last_sequence: u64,
    failed: Option<LogError>,
}

impl Worker {
    fn run(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            if let Some(faults) = self.store.faults() {
                std::thread::sleep(faults.delay());
            }
            self.write(first);
        }
    }

    async fn run_simulated(mut self) {
        while let Some(first) = self.inbox.recv().await {
            if let Some(faults) = self.store.faults() {
                tokio::time::sleep(faults.delay()).await;
            }
            self.write(first);
        }
    }

    /// Writes `first` and what has queued up behind it, with one sync.
    fn write(&mut self, first: Write) {
        let mut batch = Batch::default();
        let mut outcome = self.collect(first, &mut batch);
        if outcome.is_ok() {
            outcome = self.commit(&mut batch);
        }
        if let Err(error) = outcome {
            tracing::error!(%error, "the log cannot be written; this server stops acknowledging");
            self.failed = Some(error);
        }
        self.complete(batch.waiters);
        if let (None, Some(upto)) = (&self.failed, batch.purged) {
            self.drop_files(upto);
        }
    }

    fn collect(&mut self, first: Write, batch: &mut Batch) -> Result<(), LogError> {
        let mut outcome = self.add(first, batch);
        while batch.batch.size_in_bytes() < BATCH_BYTES {
            let Ok(next) = self.inbox.try_recv() else { break };
            // Also after a failure: whoever waits must be told.
            outcome = self.add(next, batch).and(outcome);
        }
        outcome
    }

    fn add(&mut self, write: Write, batch: &mut Batch) -> Result<(), LogError> {
        match write {
            Write::Append { entries, sequence, done } => {
                batch.waiters.push(Waiter::Append(done));
                batch.sync = true;
                batch.sequence = Some(sequence);
                self.last_sequence = sequence;
                batch.entries += entries.len();
                let log = self.store.family(Family::Log)?;
                let mut bytes = Vec::new();
                for entry in &entries {
                    bytes.clear();
                    // Encoding into a vector cannot run out of room.
                    let _ = codec::entry(entry).encode(&mut bytes);
                    batch.batch.put_cf(log, entry.log_id.index.to_be_bytes(), &bytes);
                }
                Ok(())
            }
            Write::Vote { vote, done } => {
                batch.waiters.push(Waiter::Other(done));
                batch.sync = true;
                let vote = codec::vote(&vote).encode_to_vec();
                self.store.put_meta(&mut batch.batch, Key::Vote, &vote)
            }
            Write::Truncate { from } => {
                let log = self.store.family(Family::Log)?;
                batch.batch.delete_range_cf(log, from.to_be_bytes(), u64::MAX.to_be_bytes());
                Ok(())
            }
            Write::Purge { upto } => {
                batch.sync = true;
                batch.purged = Some(upto.index);
                let marker = codec::log_id(&upto).encode_to_vec();
                self.store.put_meta(&mut batch.batch, Key::Purged, &marker)?;
                let log = self.store.family(Family::Log)?;
                batch.batch.delete_range_cf(log, 0u64.to_be_bytes(), (upto.index + 1).to_be_bytes());
                Ok(())
            }
            Write::Sync { done } => {
                batch.waiters.push(Waiter::Other(done));
                batch.sync = true;
                Ok(())
            }
        }
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if batch.batch.is_empty() && !batch.sync {
            return Ok(());
        }
        match self.take_committed() {
            Some(Some(log_id)) => {
                let log_id = codec::log_id(&log_id).encode_to_vec();
                self.store.put_meta(&mut batch.batch, Key::Committed, &log_id)?;
            }
            Some(None) => self.store.delete_meta(&mut batch.batch, Key::Committed)?,
            None => {}
        }
        self.store.write(std::mem::take(&mut batch.batch))?;
        if let Some(sequence) = batch.sequence {
            self.written.store(sequence, Ordering::Release);
        }
        if batch.sync {
            let started = Instant::now();
            self.store.sync()?;
            metrics::fsync(started.elapsed());
            metrics::batch(batch.entries);
        }
        Ok(())
    }

    /// What was committed meanwhile, if all that it needs is written.
    fn take_committed(&self) -> Option<Option<LogId>> {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        committed
            .take_if(|committed| committed.sequence <= self.last_sequence)
            .map(|committed| committed.log_id)
    }

    fn complete(&self, waiters: Vec<Waiter>) {
        let outcome = || self.failed.clone().map_or(Ok(()), |error| Err(io::Error::from(error)));
        for waiter in waiters {
            match waiter {
                Waiter::Append(done) => done.io_completed(outcome()),
                Waiter::Other(done) => {
                    let _ = done.send(outcome());
                }
            }
        }
    }

    /// Gives back the space of purged entries at once. Only after a sync: that they are gone is durable then,
    /// and the tables that stand in for them have been since the snapshot was built.
    fn drop_files(&self, upto: u64) {
        let dropped = self.store.family(Family::Log).and_then(|log| {
            self.store
                .db()
                .delete_file_in_range_cf(log, 0u64.to_be_bytes(), upto.to_be_bytes())
                .map_err(|error| self.store.error(&error))
        });
        if let Err(error) = dropped {
            tracing::warn!(%error, "files of purged entries stay until compaction");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{EntryPayload, Term};

    #[test]
    fn what_is_said_to_be_committed_is_on_the_disk_no_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
        let (queue, inbox) = unbounded_channel();
        let committed = Arc::new(Mutex::new(None));
        let (written, slot) = (Arc::default(), Arc::clone(&committed));
        let mut worker =
            Worker { store: store.clone(), inbox, written, committed: slot, last_sequence: 0, failed: None };
        drop(queue);
        let id = |index| LogId::new(Term::new(1), index);
        let append = |index| {
            let entries = vec![Entry { log_id: id(index), payload: EntryPayload::Blank }];
            Write::Append { entries, sequence: index, done: IOFlushed::noop() }
        };
        // The second entry was taken, and is even known to be committed, while the first is being written.
        *committed.lock().unwrap() = Some(Committed { log_id: Some(id(2)), sequence: 2 });
        worker.write(append(1));
        assert_eq!(store.log_id(Key::Committed).unwrap(), None);
        worker.write(append(2));
        assert_eq!(store.log_id(Key::Committed).unwrap(), Some(id(2)));
        assert!(committed.lock().unwrap().is_none(), "it is written once");
    }
}
