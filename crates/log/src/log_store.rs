//! openraft's log storage: recent entries in memory, all entries in RocksDB, writes through the
//! [`Writer`].
//!
//! Invariants, all under one lock:
//! - `recent` is the end of the log without a hole, and holds at least what RocksDB does not have yet;
//! - what is before `recent` is in RocksDB; what RocksDB still has at or after `next`, or at or
//!   before `purged`, is about to be deleted and is not read.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::store::{Key, Store};
use crate::types::{Entry, EntryPayload, LogId, Types, Vote};
use crate::writer::{Committed, Write, Writer};

/// Bytes of one piece when entries are replicated: well below what a message may have.
const PIECE_BYTES: usize = 2 << 20;
/// Entries of one piece when they are applied.
const PIECE_ENTRIES: u64 = 1024;

/// Storage, and reader of it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    writer: Writer,
    cache_bytes: usize,
    state: Mutex<State>,
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    sequence: u64,
}

struct Recent {
    entry: Entry,
    bytes: usize,
    sequence: u64,
}

impl State {
    /// Index after the last entry.
    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Index from which on entries are in memory.
    fn first_recent(&self) -> u64 {
        self.recent.front().map_or_else(|| self.next(), |recent| recent.entry.log_id.index)
    }

    fn push(&mut self, entry: Entry) -> Result<(), io::Error> {
        let index = entry.log_id.index;
        if self.last.is_some() && index != self.next() {
            let message = format!("entry {index} does not follow {}", self.next());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let bytes = match &entry.payload {
            EntryPayload::Normal(payload) => payload.0.len() + size_of::<Entry>(),
            EntryPayload::Blank | EntryPayload::Membership(_) => size_of::<Entry>(),
        };
        self.last = Some(entry.log_id);
        self.recent_bytes += bytes;
        self.recent.push_back(Recent { entry, bytes, sequence: self.sequence });
        Ok(())
    }

    fn evict(&mut self, written: u64, limit: usize) {
        while self.recent_bytes > limit
            && self.recent.front().is_some_and(|oldest| oldest.sequence <= written)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.recent.pop_front() {
            self.recent_bytes -= oldest.bytes;
        }
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let from = last.map_or(0, |last| last.index + 1);
        while self.recent.back().is_some_and(|newest| newest.entry.log_id.index >= from) {
            if let Some(newest) = self.recent.pop_back() {
                self.recent_bytes -= newest.bytes;
            }
        }
        // Beyond the end there is nothing to cut.
        self.last = self.last.min(last).max(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        while self.recent.front().is_some_and(|oldest| oldest.entry.log_id.index <= upto.index) {
            self.drop_oldest();
        }
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }
}

impl LogStore {
    /// Reads where the log stands and starts its writer.
    pub(crate) fn open(store: Arc<Store>, cache_bytes: usize) -> Result<Self, LogError> {
        let purged = store.log_id(Key::Purged)?;
        let state = State {
            vote: store.vote()?,
            committed: store.log_id(Key::Committed)?,
            purged,
            last: store.last_entry()?.max(purged),
            recent: VecDeque::new(),
            recent_bytes: 0,
            sequence: 0,
        };
        let writer = Writer::start(store.clone()).map_err(|error| LogError::Storage {
            path: store.path().to_owned(),
            detail: format!("starting the writer: {error}"),
        })?;
        Ok(Self { shared: Arc::new(Shared { store, writer, cache_bytes, state: Mutex::new(state) }) })
    }

    /// Makes everything written so far durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        self.shared.writer.send(Write::Sync { done })?;
        wait(waiter).await
    }

    /// Lets tables that another server gave stand in for the entries up to `applied`, if these are not here.
    /// What is here instead is of a leader that was deposed, and was never committed.
    pub(crate) async fn restart_at(&self, applied: Option<LogId>) -> io::Result<()> {
        let Some(applied) = applied else { return Ok(()) };
        let entry = self.read((applied.index, applied.index + 1), usize::MAX)?;
        let has_it = entry.first().is_some_and(|entry| entry.log_id == applied);
        let purged = self.purged();
        if has_it || purged >= Some(applied) {
            return Ok(());
        }
        let mut log = self.clone();
        log.truncate_after(purged).await?;
        log.purge(applied).await?;
        self.sync().await
    }

    /// Up to here entries are committed, as far as this server was told.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.state().committed
    }

    /// Entries up to here are gone.
    fn purged(&self) -> Option<LogId> {
        self.state().purged
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, range: (u64, u64), max_bytes: usize) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let from = range.0.max(state.purged.map_or(0, |purged| purged.index + 1));
        let to = range.1.min(state.next());
        let first_recent = state.first_recent();
        if from >= to {
            return Ok(Vec::new());
        }
        if from >= first_recent {
            return Ok(copy_recent(&state, from, to, max_bytes));
        }
        // Both parts are of one moment: the snapshot is taken while the lock is held.
        let snapshot = self.shared.store.db().snapshot();
        let recent = copy_recent(&state, first_recent.max(from), to, max_bytes);
        drop(state);
        let on_disk = (from, to.min(first_recent));
        let mut entries = self.shared.store.entries(&snapshot, on_disk, max_bytes)?;
        // Nothing on disk means that the log begins in memory; less than asked for, that it was enough.
        if entries.last().is_none_or(|last| last.log_id.index + 1 == on_disk.1) {
            entries.extend(recent);
        }
        check_consecutive(&self.shared.store, &entries)?;
        Ok(entries)
    }
}

fn copy_recent(state: &State, from: u64, to: u64, max_bytes: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let skip = usize::try_from(from - state.first_recent()).unwrap_or(usize::MAX);
    let wanted = state.recent.iter().skip(skip).take_while(|recent| {
        let fits = bytes == 0 || bytes + recent.bytes <= max_bytes;
        bytes += recent.bytes;
        fits && recent.entry.log_id.index < to
    });
    wanted.map(|recent| recent.entry.clone()).collect()
}

fn check_consecutive(store: &Store, entries: &[Entry]) -> Result<(), LogError> {
    for pair in entries.windows(2) {
        if pair[0].log_id.index + 1 != pair[1].log_id.index {
            return Err(store.corrupt(format!(
                "entries between {} and {} are missing",
                pair[0].log_id.index, pair[1].log_id.index
            )));
        }
    }
    Ok(())
}

async fn wait(waiter: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    waiter.await.unwrap_or_else(|_| Err(io::Error::other("the log writer has ended")))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(bounds(&range), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read((start, end), PIECE_BYTES)
    }

    /// In pieces, so that a long tail is not in memory at once when it is applied.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use futures::StreamExt as _;
        let (log, (from, to)) = (self.clone(), bounds(&range));
        let pieces = futures::stream::unfold(from, move |from| {
            let end = to.min(from.saturating_add(PIECE_ENTRIES));
            let piece = if from < to { log.read((from, end), usize::MAX) } else { Ok(Vec::new()) };
            async move {
                match piece {
                    Ok(entries) if entries.is_empty() => None,
                    // What was purged is passed over only at the beginning.
                    Ok(entries) => {
                        let next = entries.last().map_or(to, |last| last.log_id.index + 1);
                        Some((entries.into_iter().map(Ok).collect(), next))
                    }
                    Err(error) => Some((vec![Err(error)], to)),
                }
            }
        });
        Box::pin(pieces.flat_map(futures::stream::iter::<Vec<Result<Entry, io::Error>>>))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.state().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, waiter) = oneshot::channel();
        self.shared.writer.send(Write::Vote { vote: *vote, done })?;
        wait(waiter).await?;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.state();
        state.committed = committed;
        self.shared.writer.put_committed(Committed { log_id: committed, sequence: state.sequence });
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut state = self.state();
        state.sequence += 1;
        for entry in &entries {
            state.push(entry.clone())?;
        }
        let sequence = state.sequence;
        state.evict(self.shared.writer.written(), self.shared.cache_bytes);
        // Sent under the lock: the queue has the order in which memory was changed.
        self.shared.writer.send(Write::Append { entries, sequence, done })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.state();
        state.truncate(last);
        self.shared.writer.send(Write::Truncate { from: last.map_or(0, |last| last.index + 1) })
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut state = self.state();
        state.purge(upto);
        self.shared.writer.send(Write::Purge { upto })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use openraft::type_config::TypeConfigExt as _;

    use super::*;
    use crate::config::FailingDisk;
    use crate::types::{Payload, Term};

    fn entry(term: u64, index: u64) -> Entry {
        let payload = EntryPayload::Normal(Payload(vec![7; 1000].into()));
        Entry { log_id: LogId::new(Term::new(term), index), payload }
    }

    async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
        let (done, waiter) = Types::oneshot();
        log.append(entries, IOFlushed::signal(done)).await?;
        waiter.await.unwrap()
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[tokio::test]
    async fn reads_span_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
        let mut log = LogStore::open(store, 3000).unwrap();
        for index in 0..20 {
            append(&mut log, vec![entry(1, index)]).await.unwrap();
        }
        assert!(log.state().recent.len() < 5, "the cache is bounded");
        assert_eq!(indexes(&log.try_get_log_entries(3..).await.unwrap()), (3..20).collect::<Vec<_>>());
        log.truncate_after(Some(LogId::new(Term::new(1), 9))).await.unwrap();
        append(&mut log, vec![entry(2, 10)]).await.unwrap();
        log.purge(LogId::new(Term::new(1), 4)).await.unwrap();
        let entries = log.try_get_log_entries(0..100).await.unwrap();
        assert_eq!(indexes(&entries), (5..=10).collect::<Vec<_>>());
        assert_eq!(entries.last().unwrap().log_id.leader_id.term, 2);
        assert!(log.append(vec![entry(2, 12)], IOFlushed::noop()).await.is_err(), "no holes");
    }

    #[tokio::test]
    async fn replication_reads_are_bounded_and_never_empty() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
        let mut log = LogStore::open(store, 1 << 20).unwrap();
        append(&mut log, (0..10).map(|index| entry(1, index)).collect()).await.unwrap();
        assert_eq!(log.read((2, 8), 1).unwrap().len(), 1);
        assert_eq!(log.read((2, 8), 3500).unwrap().len(), 3);
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FailingDisk::default());
        let store = Arc::new(Store::open(dir.path(), 1, Some(disk.clone())).unwrap());
        let mut log = LogStore::open(store, 1 << 20).unwrap();
        append(&mut log, vec![entry(1, 0)]).await.unwrap();
        disk.fail(true);
        assert!(append(&mut log, vec![entry(1, 1)]).await.is_err());
        disk.fail(false);
        assert!(append(&mut log, vec![entry(1, 2)]).await.is_err(), "the first failure is final");
        assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
    }

    #[tokio::test]
    async fn a_restart_finds_everything() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
            let mut log = LogStore::open(store, 1 << 20).unwrap();
            append(&mut log, (0..10).map(|index| entry(1, index)).collect()).await.unwrap();
            log.save_committed(Some(LogId::new(Term::new(1), 7))).await.unwrap();
            log.purge(LogId::new(Term::new(1), 2)).await.unwrap();
            log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        }
        let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
        let mut log = LogStore::open(store, 1 << 20).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id.unwrap().index, 2);
        assert_eq!(state.last_log_id.unwrap().index, 9);
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(1, 1)));
        assert_eq!(log.read_committed().await.unwrap().unwrap().index, 7);
        assert_eq!(indexes(&log.try_get_log_entries(..).await.unwrap()), (3..10).collect::<Vec<_>>());
    }
}
