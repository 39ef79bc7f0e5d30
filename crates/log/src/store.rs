//! The RocksDB database of one server: four column families and what their keys mean.
//!
//! | family    | key                        | value                                          |
//! | --------- | -------------------------- | ---------------------------------------------- |
//! | `log`     | index, big endian          | `Entry`                                        |
//! | `meta`    | a name (see [`Key`])       | a message of `proto/balsa/raft/v1`, or a number |
//! | `objects` | the state machine's        | the state machine's                            |
//! | `history` | the state machine's        | the state machine's                            |
//!
//! What the log says of itself is in RocksDB's write-ahead log as soon as it is written, and durable with the
//! next [`Store::sync`]. The state machine's tables and the index that they reflect are not: after a crash their
//! entries are applied again, so writing them twice would be for nothing. They are durable with the next
//! flush, which takes all families as of one moment (`atomic_flush`), and with [`Store::flush_tables`], which
//! comes before entries are purged. Recovery forgives a torn record at the very end of the write-ahead log
//! (nobody was told that it is durable) and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Direction, ErrorKind, FlushOptions, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch,
    WriteOptions,
};

use crate::codec::{self, CodecError, FORMAT, pb};
use crate::config::DiskFaults;
use crate::error::LogError;
use crate::types::{Entry, LogId, NodeId, StoredMembership, Vote};

/// Inside the data directory: RocksDB's own, and received snapshots.
const DATABASE: &str = "db";
/// How the names of RocksDB's files of data end.
const DATABASE_FILES: &str = ".sst";
const SNAPSHOTS: &str = "snapshots";

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Log,
    Meta,
    Objects,
    History,
}

impl Family {
    const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::Objects, Self::History];

    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Objects => "objects",
            Self::History => "history",
        }
    }

    fn options(self, cache: &Cache) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        let mut options = Options::default();
        options.set_block_based_table_factory(&blocks);
        let (buffer, compression) = match self {
            // Entries live a short time and are mostly read from memory: not worth compressing.
            Self::Log => (16 << 20, DBCompressionType::None),
            Self::Meta => (1 << 20, DBCompressionType::None),
            Self::Objects => (8 << 20, DBCompressionType::Lz4),
            Self::History => (8 << 20, DBCompressionType::Lz4),
        };
        options.set_write_buffer_size(buffer);
        // What is seldom written should not take a whole megabyte for it.
        options.set_arena_block_size(64 << 10);
        options.set_compression_type(compression);
        if matches!(self, Self::Objects | Self::History) {
            // What is asked is answered from memory; these are read when a server starts. Many files that are not
            // merged yet cost no reader, and merging (of all families) took 7 % of a write's processor time.
            options.set_level_zero_file_num_compaction_trigger(12);
        }
        options
    }
}

/// Names in the `meta` family.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    /// Format of this database.
    Format,
    /// Whose database it is.
    Node,
    Vote,
    Committed,
    /// Entries up to here are gone.
    Purged,
    /// What the tables reflect.
    Applied,
    /// The members as of `Applied`.
    Membership,
    /// Present once the tables may stand in for purged entries.
    Snapshot,
    /// The snapshot file that is replacing the tables.
    Installing,
}

impl Key {
    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Format => b"format",
            Self::Node => b"node",
            Self::Vote => b"vote",
            Self::Committed => b"committed",
            Self::Purged => b"purged",
            Self::Applied => b"applied",
            Self::Membership => b"membership",
            Self::Snapshot => b"snapshot",
            Self::Installing => b"installing",
        }
    }
}

/// The open database.
pub(crate) struct Store {
    db: DB,
    path: PathBuf,
    faults: Option<Arc<dyn DiskFaults>>,
}

impl Store {
    /// Opens or makes the database of `node_id` in `path`, on a disk with `faults` if there are any.
    pub(crate) fn open(
        path: &Path,
        node_id: NodeId,
        faults: Option<Arc<dyn DiskFaults>>,
    ) -> Result<Self, LogError> {
        create_private_dir(path)?;
        create_private_dir(&path.join(SNAPSHOTS))?;
        let cache = Cache::new_lru_cache(8 << 20);
        let families = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family.options(&cache)))
            .into_iter()
            .chain([ColumnFamilyDescriptor::new("default", Options::default())]);
        let database = path.join(DATABASE);
        let db = database_options()
            .and_then(|options| DB::open_cf_descriptors(&options, &database, families))
            .map_err(|error| opening_failed(path, &database, &error))?;
        let store = Self { db, path: path.to_owned(), faults };
        store.check_owner(node_id)?;
        Ok(store)
    }

    fn check_owner(&self, node_id: NodeId) -> Result<(), LogError> {
        let Some(format) = self.number(Key::Format)? else {
            let mut batch = WriteBatch::default();
            self.put_meta(&mut batch, Key::Format, &u64::from(FORMAT).to_be_bytes())?;
            self.put_meta(&mut batch, Key::Node, &node_id.to_be_bytes())?;
            self.write(batch)?;
            return self.sync();
        };
        if format > u64::from(FORMAT) {
            return Err(LogError::Newer { what: format!("the database in {}", self.path.display()) });
        }
        match self.node_id()? {
            found if found == node_id => Ok(()),
            found => Err(LogError::WrongNode { path: self.path.clone(), found, expected: node_id }),
        }
    }

    /// The data directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where snapshots from other servers wait to be installed.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn family(&self, family: Family) -> Result<&ColumnFamily, LogError> {
        self.db
            .cf_handle(family.name())
            .ok_or_else(|| self.corrupt(format!("column family {} is missing", family.name())))
    }

    /// Writes `batch`: visible at once, durable with the next [`Self::sync`]. Not for tables.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), LogError> {
        self.db.write(batch).map_err(|error| self.error(&error))
    }

    /// Writes tables and the index that they reflect: visible at once, durable with the next
    /// [`Self::flush_tables`], and after a crash there as a whole or not at all.
    pub(crate) fn write_tables(&self, batch: WriteBatch) -> Result<(), LogError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| self.error(&error))
    }

    /// Makes the tables durable, and all that was written before.
    pub(crate) fn flush_tables(&self) -> Result<(), LogError> {
        let families = Family::ALL.into_iter().map(|family| self.family(family));
        let families = families.collect::<Result<Vec<_>, _>>()?;
        self.durably(|| self.db.flush_cfs_opt(&families, &FlushOptions::default()))
    }

    /// Makes what was written so far durable, tables aside.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.durably(|| self.db.flush_wal(true))
    }

    fn durably(&self, sync: impl FnOnce() -> Result<(), rocksdb::Error>) -> Result<(), LogError> {
        let sync = || sync().map_err(|error| self.error(&error));
        let Some(faults) = &self.faults else { return sync() };
        faults
            .sync()
            .map_err(|error| LogError::Storage { path: self.path.clone(), detail: error.to_string() })?;
        sync()?;
        faults.synced();
        Ok(())
    }

    /// Reads everything, so that damage is found before it is needed. Ends early once `stop` says so.
    pub(crate) fn verify(&self, stop: impl Fn() -> bool) -> Result<(), LogError> {
        for family in Family::ALL {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            // It would drive everything else out.
            options.fill_cache(false);
            let mut rows = self.db.raw_iterator_cf_opt(self.family(family)?, options);
            rows.seek_to_first();
            while rows.valid() && !stop() {
                rows.next();
            }
            rows.status().map_err(|error| self.error(&error))?;
        }
        Ok(())
    }

    /// What is wrong with the disk, where that is simulated.
    pub(crate) fn faults(&self) -> Option<&dyn DiskFaults> {
        self.faults.as_deref()
    }

    pub(crate) fn error(&self, error: &rocksdb::Error) -> LogError {
        storage_error(&self.path, error)
    }

    pub(crate) fn corrupt(&self, detail: impl Into<String>) -> LogError {
        LogError::Corrupt { path: self.path.clone(), detail: detail.into() }
    }

    pub(crate) fn undecodable(&self, what: &str, error: &CodecError) -> LogError {
        match error {
            CodecError::Newer { .. } | CodecError::UnknownPayload => {
                LogError::Newer { what: format!("{what} in {}", self.path.display()) }
            }
            _ => self.corrupt(format!("{what}: {error}")),
        }
    }

    pub(crate) fn meta(&self, key: Key) -> Result<Option<Vec<u8>>, LogError> {
        self.db.get_cf(self.family(Family::Meta)?, key.bytes()).map_err(|error| self.error(&error))
    }

    pub(crate) fn put_meta(&self, batch: &mut WriteBatch, key: Key, value: &[u8]) -> Result<(), LogError> {
        batch.put_cf(self.family(Family::Meta)?, key.bytes(), value);
        Ok(())
    }

    pub(crate) fn delete_meta(&self, batch: &mut WriteBatch, key: Key) -> Result<(), LogError> {
        batch.delete_cf(self.family(Family::Meta)?, key.bytes());
        Ok(())
    }

    fn number(&self, key: Key) -> Result<Option<u64>, LogError> {
        let Some(bytes) = self.meta(key)? else { return Ok(None) };
        let bytes: [u8; 8] =
            bytes.try_into().map_err(|_| self.corrupt(format!("{key:?} is not a number")))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Whose database it is.
    pub(crate) fn node_id(&self) -> Result<NodeId, LogError> {
        self.number(Key::Node)?.ok_or_else(|| self.corrupt("whose it is is not written in it"))
    }

    fn message<M: Message + Default>(&self, key: Key) -> Result<Option<M>, LogError> {
        let Some(bytes) = self.meta(key)? else { return Ok(None) };
        M::decode(bytes.as_slice())
            .map(Some)
            .map_err(|error| self.corrupt(format!("{key:?} does not decode: {error}")))
    }

    pub(crate) fn log_id(&self, key: Key) -> Result<Option<LogId>, LogError> {
        Ok(self.message::<pb::LogId>(key)?.as_ref().map(codec::read_log_id))
    }

    pub(crate) fn vote(&self) -> Result<Option<Vote>, LogError> {
        Ok(self.message::<pb::Vote>(Key::Vote)?.as_ref().map(codec::read_vote))
    }

    pub(crate) fn membership(&self) -> Result<StoredMembership, LogError> {
        let stored = self.message::<pb::StoredMembership>(Key::Membership)?;
        codec::read_stored_membership(stored.as_ref())
            .map_err(|error| self.undecodable("the membership", &error))
    }

    /// The last entry in the `log` family.
    pub(crate) fn last_entry(&self) -> Result<Option<LogId>, LogError> {
        let last = self.db.iterator_cf(self.family(Family::Log)?, IteratorMode::End).next();
        match last.transpose().map_err(|error| self.error(&error))? {
            None => Ok(None),
            Some((key, value)) => Ok(Some(self.decode(&key, value.into_vec())?.log_id)),
        }
    }

    /// Entries from `from` up to before `to`, as long as they fit into `max_bytes` (at least one).
    pub(crate) fn entries(
        &self,
        snapshot: &rocksdb::Snapshot<'_>,
        (from, to): (u64, u64),
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let start = from.to_be_bytes();
        let iterator =
            snapshot.iterator_cf(self.family(Family::Log)?, IteratorMode::From(&start, Direction::Forward));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for item in iterator {
            let (key, value) = item.map_err(|error| self.error(&error))?;
            bytes += value.len();
            if key.as_ref() >= to.to_be_bytes().as_slice() || (bytes > max_bytes && !entries.is_empty()) {
                break;
            }
            entries.push(self.decode(&key, value.into_vec())?);
        }
        Ok(entries)
    }

    pub(crate) fn decode(&self, key: &[u8], value: Vec<u8>) -> Result<Entry, LogError> {
        let named: [u8; 8] = key.try_into().map_err(|_| self.corrupt("a key of the log is not an index"))?;
        let index = u64::from_be_bytes(named);
        let entry = codec::decode_entry(Bytes::from(value))
            .map_err(|error| self.undecodable(&format!("entry {index}"), &error))?;
        if entry.log_id.index != index {
            return Err(self.corrupt(format!("entry {index} says that it is {}", entry.log_id.index)));
        }
        Ok(entry)
    }

    /// Rewrites the files of purged entries: those that hold others too are not dropped otherwise.
    pub(crate) fn compact_log(&self, purged: u64) -> Result<(), LogError> {
        let (first, last) = (0u64.to_be_bytes(), purged.to_be_bytes());
        self.db.compact_range_cf(self.family(Family::Log)?, Some(first), Some(last));
        Ok(())
    }

    /// Bytes of a family, in memory and on disk, as RocksDB estimates them.
    pub(crate) fn size(&self, family: Family) -> u64 {
        let property = |name: &str| -> u64 {
            self.family(family)
                .ok()
                .and_then(|handle| self.db.property_int_value_cf(handle, name).ok().flatten())
                .unwrap_or(0)
        };
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }
}

fn database_options() -> Result<Options, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Tables are not in the write-ahead log: objects, history and the index that they reflect are flushed as
    // one, or a crash could find them at different moments.
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(128 << 20);
    // Of all families together: a server that has long been idle has its write buffers full, too.
    options.set_db_write_buffer_size(24 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(3);
    // A store that is dropped is one that crashed: `Log::shutdown` flushes. The binding has no function for it.
    options.get_options_from_string("avoid_flush_during_shutdown=true")
}

fn storage_error(path: &Path, error: &rocksdb::Error) -> LogError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::Corruption => LogError::Corrupt { path, detail },
        _ => LogError::Storage { path, detail },
    }
}

/// RocksDB names damaged tables in its errors, and a damaged write-ahead log only in its diary.
fn opening_failed(path: &Path, database: &Path, error: &rocksdb::Error) -> LogError {
    match storage_error(path, error) {
        LogError::Corrupt { path, detail } if !detail.contains(DATABASE_FILES) => {
            let diary = std::fs::read_to_string(database.join("LOG")).unwrap_or_default();
            let told = diary.lines().rev().find_map(|line| line.split_once(": dropping "));
            let file = told.and_then(|(before, _)| before.split(' ').next_back());
            let detail = file.map_or(detail.clone(), |file| format!("{detail} in {file}"));
            LogError::Corrupt { path, detail }
        }
        other => other,
    }
}

/// What is in the log may be secret: nobody else reads the directory.
fn create_private_dir(path: &Path) -> Result<(), LogError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| LogError::Storage { path: path.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests;
