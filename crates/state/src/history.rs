//! The history: every version of every object, back to a floor; and the changes of a kind since a
//! revision, for watches that come back.
//!
//! A version is kept under its object's key; a pointer under its revision says which object it was, so
//! that the changes since a revision are found without reading all objects. Invariants: of every change
//! after the floor there is a version and a pointer; and for every such change the version before it
//! is kept too (trimming a pointer drops the version *before* it), so that a watch knows what an object
//! was, and so that the state of any object at any revision after the floor can be told.

use std::ops::ControlFlow;
use std::sync::Arc;

use balsa_log::Table;
use balsa_model::kind::KindRef;
use balsa_model::{Change, Key, Object, Operation, Revision};
use bytes::Bytes;
use prost::Message as _;

use crate::codec::{decode_operation, encode_operation, pb};
use crate::event::SharedChange;
use crate::indexed::{FieldValues, field_values};
use crate::tables::{
    END, HISTORY_BYTES, HISTORY_FLOOR, TableError, Tables, Write, change_key, number_of, object_key,
    pointer_key, read_number, resource_of,
};

/// One version of an object, as the history keeps it.
#[derive(Clone, Debug)]
pub struct PastVersion {
    /// The revision of the change that made it.
    pub revision: Revision,
    /// What the change did.
    pub operation: Operation,
    /// The revision of the version before.
    pub previous: Option<Revision>,
    /// The object after the change; of a removal, its last version under the removal's revision.
    pub object: Arc<Object>,
    /// Who asked.
    pub user: Arc<str>,
    /// When it was proposed, in milliseconds since 1970 by the proposer's clock.
    pub proposed_at_ms: i64,
}

/// Why the history cannot answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HistoryError {
    /// It does not reach back that far.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that it can answer for.
        oldest: Revision,
    },
    /// The tables cannot be read, or hold what does not decode.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// How much the history holds, or gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) changes: usize,
    /// Of keys and values.
    pub(crate) bytes: u64,
}

impl Extent {
    fn row(key: &[u8], value: &[u8]) -> u64 {
        (key.len() + value.len()) as u64
    }
}

impl std::ops::AddAssign for Extent {
    fn add_assign(&mut self, more: Self) {
        self.changes += more.changes;
        self.bytes += more.bytes;
    }
}

impl std::ops::SubAssign for Extent {
    fn sub_assign(&mut self, less: Self) {
        self.changes = self.changes.saturating_sub(less.changes);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// The writes that a change adds to the history, and how much that is.
pub(crate) fn record(change: &SharedChange, writes: &mut Vec<Write>) -> Extent {
    let Change { revision, kind, key, old, new, user } = &change.change;
    let Some(kept) = change.kept() else { return Extent::default() };
    let operation = match (old, new) {
        (_, None) => Operation::Remove,
        (None, Some(_)) => Operation::Create,
        (Some(_), Some(_)) => Operation::Replace,
    };
    let previous = old.as_ref().map_or(0, |old| old.revision().0);
    let stored = pb::StoredChange {
        revision: revision.0,
        operation: encode_operation(operation).into(),
        previous,
        object: kept.bytes().clone(),
        user: user.as_ref().to_owned(),
        proposed_at_ms: change.proposed_at_ms,
    };
    let object_key = object_key(*kind, key);
    let version = (change_key(&object_key, *revision), stored.encode_to_vec());
    let pointer = Pointer { previous: Revision(previous), is_removal: new.is_none(), object_key };
    let pointer = (pointer_key(*revision), pointer.encode());
    let bytes = Extent::row(&version.0, &version.1) + Extent::row(&pointer.0, &pointer.1);
    writes.extend([version, pointer].map(|(key, value)| Write::Put(Table::History, key, value)));
    Extent { changes: 1, bytes }
}

/// What stands under a revision: the object that it changed.
struct Pointer {
    previous: Revision,
    is_removal: bool,
    object_key: Vec<u8>,
}

impl Pointer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.object_key.len());
        out.extend_from_slice(&self.previous.0.to_be_bytes());
        out.push(self.is_removal.into());
        out.extend_from_slice(&self.object_key);
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (previous, rest) = value.split_first_chunk::<8>()?;
        let (is_removal, object_key) = rest.split_first()?;
        Some(Self {
            previous: Revision(u64::from_be_bytes(*previous)),
            is_removal: *is_removal != 0,
            object_key: object_key.to_vec(),
        })
    }
}

/// The writes that trim the oldest changes of the history after `from` until `excess` is gone; the floor that
/// they leave, and how much they take away.
pub(crate) fn trim(
    tables: &dyn Tables,
    from: Revision,
    excess: Extent,
    writes: &mut Vec<Write>,
) -> Result<(Option<Revision>, Extent), TableError> {
    // Not from the beginning: what was trimmed before is passed over slowly.
    let (first, last) = (pointer_key(from), pointer_key(Revision(u64::MAX)));
    let (mut floor, mut gone, mut failed) = (None, Extent::default(), None);
    tables.scan(Table::History, &first, &last, &mut |key, value| {
        if gone.changes >= excess.changes && gone.bytes >= excess.bytes {
            return ControlFlow::Break(());
        }
        let (Some(revision), Some(pointer)) = (number_of(key), Pointer::decode(value)) else {
            failed = Some(damage(key));
            return ControlFlow::Break(());
        };
        floor = Some(Revision(revision));
        gone += Extent { changes: 1, bytes: Extent::row(key, value) };
        writes.push(Write::Delete(Table::History, key.to_vec()));
        let previous = (pointer.previous.0 != 0).then_some(pointer.previous);
        let last = pointer.is_removal.then_some(Revision(revision));
        for version in previous.into_iter().chain(last) {
            let key = change_key(&pointer.object_key, version);
            match tables.get(Table::History, &key) {
                Ok(value) => gone.bytes += value.map_or(0, |value| Extent::row(&key, &value)),
                Err(error) => failed = Some(error),
            }
            writes.push(Write::Delete(Table::History, key));
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(floor) = floor {
        writes.push(Write::Put(Table::History, HISTORY_FLOOR.to_vec(), floor.0.to_be_bytes().to_vec()));
    }
    failed.map_or(Ok((floor, gone)), Err)
}

/// The write that remembers how many bytes there are.
pub(crate) fn remember(extent: Extent) -> Write {
    Write::Put(Table::History, HISTORY_BYTES.to_vec(), extent.bytes.to_be_bytes().to_vec())
}

/// How much is kept, and the floor.
pub(crate) fn measure(tables: &dyn Tables) -> Result<(Extent, Revision), TableError> {
    let number = |key: &[u8]| -> Result<Option<u64>, TableError> {
        Ok(tables.get(Table::History, key)?.and_then(|value| read_number(&value)))
    };
    let floor = Revision(number(HISTORY_FLOOR)?.unwrap_or(0));
    let (first, last) = (pointer_key(floor), pointer_key(Revision(u64::MAX)));
    let mut changes = 0;
    tables.scan(Table::History, &first, &last, &mut |_, _| {
        changes += 1;
        ControlFlow::Continue(())
    })?;
    let bytes = match number(HISTORY_BYTES)? {
        Some(bytes) => bytes,
        // Written before anybody counted.
        None => {
            let mut bytes = 0;
            tables.scan(Table::History, &first, END, &mut |key, value| {
                bytes += Extent::row(key, value);
                ControlFlow::Continue(())
            })?;
            bytes
        }
    };
    Ok((Extent { changes, bytes }, floor))
}

/// The versions of one object that are kept, oldest first.
pub(crate) fn versions(
    tables: &dyn Tables,
    kind: KindRef,
    key: &Key,
) -> Result<Vec<PastVersion>, TableError> {
    let (first, last) = range_of(kind, key, Revision(u64::MAX - 1));
    let (mut found, mut damaged) = (Vec::new(), None);
    tables.scan(Table::History, &first, &last, &mut |key, value| match decode(kind, value) {
        Some(version) => {
            found.push(version);
            ControlFlow::Continue(())
        }
        None => {
            damaged = Some(damage(key));
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(found), Err)
}

/// The object as it was at a revision, if it was there.
pub(crate) fn at(
    tables: &dyn Tables,
    kind: KindRef,
    key: &Key,
    revision: Revision,
) -> Result<Option<Arc<Object>>, TableError> {
    let (first, last) = range_of(kind, key, revision);
    let Some(value) = tables.last(Table::History, &first, &last)? else { return Ok(None) };
    let version = decode(kind, &value).ok_or_else(|| damage(&first))?;
    Ok((version.operation != Operation::Remove).then_some(version.object))
}

/// The keys of an object's versions up to and including `to`.
fn range_of(kind: KindRef, key: &Key, to: Revision) -> (Vec<u8>, Vec<u8>) {
    let object_key = object_key(kind, key);
    let after = Revision(to.0.saturating_add(1));
    (change_key(&object_key, Revision(0)), change_key(&object_key, after))
}

/// The changes of a kind after `after`, up to and including `to`, in their order; `None` if they are more
/// than `limit`.
pub(crate) fn changes(
    tables: &dyn Tables,
    kind: KindRef,
    after: Revision,
    to: Revision,
    limit: usize,
) -> Result<Option<Vec<Arc<SharedChange>>>, TableError> {
    let next = |revision: Revision| pointer_key(Revision(revision.0.saturating_add(1)));
    let resource = kind.descriptor().resource();
    let (mut pointers, mut damaged) = (Vec::new(), None);
    tables.scan(Table::History, &next(after), &next(to), &mut |key, value| {
        let (Some(revision), Some(pointer)) = (number_of(key), Pointer::decode(value)) else {
            damaged = Some(damage(key));
            return ControlFlow::Break(());
        };
        if resource_of(&pointer.object_key) == Some(&resource) {
            pointers.push((Revision(revision), pointer));
        }
        if pointers.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(damaged) = damaged {
        return Err(damaged);
    }
    if pointers.len() > limit {
        return Ok(None);
    }
    let changes = pointers.into_iter().map(|(revision, pointer)| change(tables, kind, revision, &pointer));
    changes.collect::<Result<_, _>>().map(Some)
}

fn change(
    tables: &dyn Tables,
    kind: KindRef,
    revision: Revision,
    pointer: &Pointer,
) -> Result<Arc<SharedChange>, TableError> {
    let read = |revision: Revision| -> Result<PastVersion, TableError> {
        let key = change_key(&pointer.object_key, revision);
        let value = tables.get(Table::History, &key)?.ok_or_else(|| damage(&key))?;
        decode(kind, &value).ok_or_else(|| damage(&key))
    };
    let version = read(revision)?;
    let old = if pointer.previous.0 == 0 { None } else { Some(read(pointer.previous)?.object) };
    let (new, last) =
        if pointer.is_removal { (None, Some(version.object)) } else { (Some(version.object), None) };
    let fields = |object: &Option<Arc<Object>>| -> FieldValues {
        object.as_ref().map(|object| field_values(object)).unwrap_or_default()
    };
    let (fields, key) =
        ((fields(&old), fields(&new)), new.as_ref().or(last.as_ref()).map(|o| o.key().clone()));
    let key = key.unwrap_or_default();
    let change = Change { revision, kind, key, old, new, user: version.user };
    Ok(SharedChange::new(change, fields, last, version.proposed_at_ms))
}

fn decode(kind: KindRef, value: &[u8]) -> Option<PastVersion> {
    let stored = pb::StoredChange::decode(Bytes::copy_from_slice(value)).ok()?;
    let revision = Revision(stored.revision);
    Some(PastVersion {
        revision,
        operation: decode_operation(stored.operation)?,
        previous: (stored.previous != 0).then_some(Revision(stored.previous)),
        object: Arc::new(Object::stored(kind, stored.object, revision).ok()?),
        user: stored.user.into(),
        proposed_at_ms: stored.proposed_at_ms,
    })
}

fn damage(key: &[u8]) -> TableError {
    TableError(format!("the history under {} does not decode", key.escape_ascii()))
}
