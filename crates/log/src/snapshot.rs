//! Snapshots: the tables as one stream of bytes, and back.
//!
//! ```text
//! magic "BALSASNP" · version u32 · header length u32 · header (SnapshotHeader)
//! then for each record:  table u8 · key length u32 · value length u32 · key · value
//! then the end:          0 u8 · number of records u64 · SHA-256 of everything before
//! ```
//!
//! Numbers are big endian. The sender writes the stream straight from a RocksDB snapshot; the
//! receiver spools it to a file, checks all of it, and only then replaces its tables. Replacing is
//! several batches; a mark in `meta` makes a restart begin it again from the file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use rocksdb::{IteratorMode, WriteBatch};
use sha2::{Digest as _, Sha256};

use crate::codec;
use crate::error::LogError;
use crate::store::{Family, Key, Store};
use crate::tables::Table;
use crate::types::{Membership, NodeId, Place, SnapshotMeta, StoredMembership};

const MAGIC: &[u8; 8] = b"BALSASNP";
const VERSION: u32 = 1;
const END: u8 = 0;
/// Bytes written to the tables at once while a snapshot is installed.
const BATCH_BYTES: usize = 4 << 20;
/// No key, value or header is longer; a length beyond it is damage, not a reason to allocate.
const MAX_FIELD: u32 = 256 << 20;

/// A stream that is not a whole, undamaged snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("it is not a snapshot")]
    Magic,
    #[error("version {0} is newer than {VERSION}")]
    Newer(u32),
    #[error("it ends too early")]
    Truncated,
    #[error("its checksum does not match")]
    Checksum,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Store(#[from] LogError),
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

/// Where the records come from.
pub(crate) enum SnapshotData {
    /// The tables of this server, as they are when the stream begins.
    Tables(Arc<Store>),
    /// A whole stream, checked and synced.
    File(SnapshotFile),
}

/// A file that is removed when nobody installed it.
pub(crate) struct SnapshotFile {
    path: PathBuf,
}

impl SnapshotFile {
    /// An empty file in `dir` to spool to, and where it is.
    pub(crate) fn create(dir: &Path) -> io::Result<(Self, File)> {
        let path = dir.join(format!("{}.partial", balsa_rt::new_uid()));
        let file = File::create_new(&path)?;
        Ok((Self { path }, file))
    }

    /// Checks the whole file and gives it its final name; what the header says.
    pub(crate) fn finish(mut self, file: &File) -> Result<(Self, SnapshotMeta), SnapshotError> {
        file.sync_all()?;
        let meta = read(BufReader::new(File::open(&self.path)?), |_, _, _| Ok(()))?;
        let whole = self.path.with_extension("snapshot");
        std::fs::rename(&self.path, &whole)?;
        self.path = whole;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok((self, meta))
    }

    /// Sends it on as it is.
    pub(crate) fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        io::copy(&mut File::open(&self.path)?, out)?;
        out.flush()
    }

    /// Its name, to be found again; from now on it stays.
    fn keep(self) -> PathBuf {
        let path = self.path.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes everything that passes and remembers its digest.
struct Digesting<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

/// Writes the tables of `store`, as of now, to `out`.
pub(crate) fn write(store: &Store, out: impl Write) -> Result<SnapshotMeta, SnapshotError> {
    let snapshot = store.db().snapshot();
    let meta = meta_at(store, &snapshot)?;
    let mut out = Digesting { inner: out, digest: Sha256::new() };
    let header = codec::snapshot_header(&meta).encode_to_vec();
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_be_bytes())?;
    out.write_all(&length(&header)?)?;
    out.write_all(&header)?;
    let mut records = 0u64;
    for table in Table::ALL {
        for item in snapshot.iterator_cf(store.family(table.family())?, IteratorMode::Start) {
            let (key, value) = item.map_err(|error| store.error(&error))?;
            out.write_all(&[tag(table)])?;
            out.write_all(&length(&key)?)?;
            out.write_all(&length(&value)?)?;
            out.write_all(&key)?;
            out.write_all(&value)?;
            records += 1;
        }
    }
    out.write_all(&[END])?;
    out.write_all(&records.to_be_bytes())?;
    let Digesting { mut inner, digest } = out;
    inner.write_all(&digest.finalize())?;
    inner.flush()?;
    Ok(meta)
}

/// Reads a whole stream and shows every record to `visit`. What was shown counts only when this
/// returns without an error: the checksum comes last.
pub(crate) fn read(
    input: impl Read,
    mut visit: impl FnMut(Table, Vec<u8>, Vec<u8>) -> Result<(), SnapshotError>,
) -> Result<SnapshotMeta, SnapshotError> {
    let mut input = Digesting { inner: input, digest: Sha256::new() };
    if take::<8>(&mut input)? != *MAGIC {
        return Err(SnapshotError::Magic);
    }
    let version = u32::from_be_bytes(take(&mut input)?);
    if version > VERSION {
        return Err(SnapshotError::Newer(version));
    }
    let header_length = take(&mut input)?;
    let header = field(&mut input, header_length)?;
    let mut records = 0u64;
    loop {
        let table = match take::<1>(&mut input)?[0] {
            END => break,
            1 => Table::Objects,
            2 => Table::History,
            other => return Err(SnapshotError::Damaged(format!("there is no table {other}"))),
        };
        let (key_length, value_length) = (take(&mut input)?, take(&mut input)?);
        let key = field(&mut input, key_length)?;
        let value = field(&mut input, value_length)?;
        visit(table, key, value)?;
        records += 1;
    }
    let said = u64::from_be_bytes(take(&mut input)?);
    let Digesting { mut inner, digest } = input;
    if take::<32>(&mut inner)? != *digest.finalize() {
        return Err(SnapshotError::Checksum);
    }
    if said != records {
        return Err(SnapshotError::Damaged(format!("{records} records, not {said}")));
    }
    codec::read_snapshot_header(&header).map_err(|error| SnapshotError::Damaged(error.to_string()))
}

/// Replaces the tables of `store` by `data`.
pub(crate) fn install(store: &Store, data: SnapshotData) -> Result<(), LogError> {
    let (file, meta) = match data {
        SnapshotData::File(file) => {
            let meta = check(store, &file.path)?;
            (file, meta)
        }
        SnapshotData::Tables(source) => {
            spool(&source, &store.snapshots()).map_err(|error| unusable(store, error))?
        }
    };
    let path = file.keep();
    let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    let mut batch = WriteBatch::default();
    store.put_meta(&mut batch, Key::Installing, &name)?;
    store.write(batch)?;
    store.sync()?;
    replace(store, &path, &meta)
}

/// Finishes an installation that a crash interrupted, and removes what is left of others.
pub(crate) fn resume_install(store: &Store) -> Result<(), LogError> {
    let installing = store.meta(Key::Installing)?.map(|name| String::from_utf8_lossy(&name).into_owned());
    if let Some(name) = &installing {
        let path = store.snapshots().join(name);
        tracing::info!(file = %path.display(), "finishing the installation of a snapshot");
        let meta = check(store, &path)?;
        replace(store, &path, &meta)?;
    }
    let leftovers = std::fs::read_dir(store.snapshots()).map_err(|error| unusable(store, error.into()))?;
    for leftover in leftovers.flatten() {
        if let Err(error) = std::fs::remove_file(leftover.path()) {
            tracing::warn!(file = %leftover.path().display(), %error, "an unused snapshot stays");
        }
    }
    Ok(())
}

fn spool(source: &Store, dir: &Path) -> Result<(SnapshotFile, SnapshotMeta), SnapshotError> {
    let (spooled, file) = SnapshotFile::create(dir)?;
    write(source, BufWriter::new(&file))?;
    spooled.finish(&file)
}

fn check(store: &Store, path: &Path) -> Result<SnapshotMeta, LogError> {
    let opened = File::open(path).map_err(SnapshotError::Io);
    opened
        .and_then(|file| read(BufReader::new(file), |_, _, _| Ok(())))
        .map_err(|error| store.corrupt(format!("{}: {error}", path.display())))
}

fn replace(store: &Store, path: &Path, meta: &SnapshotMeta) -> Result<(), LogError> {
    for table in Table::ALL {
        clear(store, table)?;
    }
    let file = File::open(path).map_err(|error| unusable(store, error.into()))?;
    let mut batch = WriteBatch::default();
    let copied = read(BufReader::new(file), |table, key, value| {
        batch.put_cf(store.family(table.family())?, key, value);
        if batch.size_in_bytes() >= BATCH_BYTES {
            store.write_tables(std::mem::take(&mut batch))?;
        }
        Ok(())
    });
    copied.map_err(|error| unusable(store, error))?;
    if let Some(applied) = &meta.last_log_id {
        store.put_meta(&mut batch, Key::Applied, &codec::log_id(applied).encode_to_vec())?;
    }
    let members = codec::stored_membership(&meta.last_membership).encode_to_vec();
    store.put_meta(&mut batch, Key::Membership, &members)?;
    store.put_meta(&mut batch, Key::Snapshot, b"")?;
    store.delete_meta(&mut batch, Key::Installing)?;
    store.write_tables(batch)?;
    store.flush_tables()?;
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %error, "an installed snapshot stays until the next start");
    }
    Ok(())
}

/// Fills a new store from a snapshot that somebody kept. Members and votes of the cluster it came from
/// are forgotten: `node` alone is the cluster.
pub(crate) fn restore(
    store: &Store,
    path: &Path,
    node: NodeId,
    address: &str,
    name: &str,
) -> Result<(), LogError> {
    let meta = check(store, path)?;
    let members = std::collections::BTreeMap::from([(node, Place::new(address, name))]);
    let alone = Membership::new(vec![std::collections::BTreeSet::from([node])], members);
    let alone = alone.map_err(|error| LogError::Membership(error.to_string()))?;
    let membership = StoredMembership::new(meta.last_log_id, alone);
    let meta = SnapshotMeta { last_membership: membership, ..meta };
    // Into a file of the store's own: replacing removes it in the end.
    let (spooled, mut file) =
        SnapshotFile::create(&store.snapshots()).map_err(|e| unusable(store, e.into()))?;
    let copied = File::open(path).and_then(|mut source| io::copy(&mut source, &mut file));
    copied.map_err(|error| unusable(store, error.into()))?;
    let mut batch = WriteBatch::default();
    if let Some(last) = &meta.last_log_id {
        let last = codec::log_id(last);
        let vote = crate::codec::pb::Vote { term: last.term, node_id: node, committed: false };
        store.put_meta(&mut batch, Key::Vote, &vote.encode_to_vec())?;
        store.put_meta(&mut batch, Key::Committed, &last.encode_to_vec())?;
        store.put_meta(&mut batch, Key::Purged, &last.encode_to_vec())?;
    }
    store.write(batch)?;
    let path = spooled.keep();
    replace(store, &path, &meta)
}

fn clear(store: &Store, table: Table) -> Result<(), LogError> {
    let family = store.family(table.family())?;
    let Some(last) = store.db().iterator_cf(family, IteratorMode::End).next() else { return Ok(()) };
    let (last, _) = last.map_err(|error| store.error(&error))?;
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(family, [].as_slice(), last.as_ref());
    batch.delete_cf(family, last);
    store.write_tables(batch)
}

fn unusable(store: &Store, error: SnapshotError) -> LogError {
    match error {
        SnapshotError::Store(error) => error,
        SnapshotError::Io(error) => {
            LogError::Storage { path: store.path().to_owned(), detail: format!("a snapshot: {error}") }
        }
        other => store.corrupt(format!("a snapshot: {other}")),
    }
}

fn meta_at(store: &Store, snapshot: &rocksdb::Snapshot<'_>) -> Result<SnapshotMeta, SnapshotError> {
    use crate::codec::pb;
    let get = |key: Key| {
        snapshot.get_cf(store.family(Family::Meta)?, key.bytes()).map_err(|error| store.error(&error))
    };
    let damaged = |error: prost::DecodeError| SnapshotError::Damaged(error.to_string());
    let applied = get(Key::Applied)?.map(|bytes| pb::LogId::decode(&*bytes)).transpose().map_err(damaged)?;
    let members = get(Key::Membership)?
        .map(|bytes| pb::StoredMembership::decode(&*bytes))
        .transpose()
        .map_err(damaged)?;
    Ok(SnapshotMeta {
        last_log_id: applied.as_ref().map(codec::read_log_id),
        last_membership: codec::read_stored_membership(members.as_ref())
            .map_err(|error| SnapshotError::Damaged(error.to_string()))?,
    })
}

fn tag(table: Table) -> u8 {
    match table {
        Table::Objects => 1,
        Table::History => 2,
    }
}

fn length(bytes: &[u8]) -> Result<[u8; 4], SnapshotError> {
    u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length <= MAX_FIELD)
        .map(u32::to_be_bytes)
        .ok_or_else(|| SnapshotError::Damaged(format!("a field of {} bytes", bytes.len())))
}

fn take<const N: usize>(input: &mut impl Read) -> Result<[u8; N], SnapshotError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn field(input: &mut impl Read, length: [u8; 4]) -> Result<Vec<u8>, SnapshotError> {
    let length = u32::from_be_bytes(length);
    if length > MAX_FIELD {
        return Err(SnapshotError::Damaged(format!("a field of {length} bytes")));
    }
    // Grows with what is there, so that a damaged length does not allocate.
    let mut bytes = Vec::new();
    let read = input.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
    if read < length as usize { Err(SnapshotError::Truncated) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
