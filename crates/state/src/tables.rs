//! The two tables that the log keeps for us, as this crate sees them: reads, and writes as values.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | objects | resource `\0` namespace `\0` name | `StoredObject` |
//! | objects | `\0revision` | the last revision handed out, big-endian |
//! | objects | `\0digest` | the digest of the objects, and the revision that it belongs to, big-endian |
//! | objects | `\0reply` number | `StoredReply`, numbered in log order |
//! | history | resource `\0` namespace `\0` name `\0` revision | `StoredChange` |
//! | history | `\0r` revision | what was changed: see [`crate::history`] |
//! | history | `\0floor` | the revision up to which history was trimmed |
//! | history | `\0bytes` | bytes of its keys and values, these two aside |
//!
//! Numbers in keys are 8 bytes big-endian. No resource name is empty and no name holds a zero byte (the
//! fold refuses those), so that keys of different sorts never meet.

use std::ops::ControlFlow;

use balsa_log::Table;
use balsa_model::kind::KindRef;
use balsa_model::{Key, Revision};
use bytes::Bytes;

/// One write, made in one batch with the index of the entry that caused it.
pub(crate) use balsa_log::TableWrite as Write;

/// The tables cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("reading the tables: {0}")]
pub struct TableError(pub(crate) String);

/// Called with each key and value of a scan; `Break` ends it.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reads of the tables. Each scan sees one state.
pub(crate) trait Tables: Send + Sync + 'static {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError>;

    /// Visits the keys from `from` up to but not including `to`, in order.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), TableError>;

    /// The value of the last key from `from` up to but not including `to`.
    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Bytes>, TableError>;
}

pub(crate) const REVISION: &[u8] = b"\0revision";
pub(crate) const DIGEST: &[u8] = b"\0digest";
pub(crate) const HISTORY_FLOOR: &[u8] = b"\0floor";
pub(crate) const HISTORY_BYTES: &[u8] = b"\0bytes";
const REPLY: &[u8] = b"\0reply";
const POINTER: &[u8] = b"\0r";
/// After all keys of objects: resource names are ASCII.
pub(crate) const END: &[u8] = &[0xff];
/// Before all keys of objects, after all others.
pub(crate) const OBJECTS: &[u8] = &[1];

fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 8);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn reply_key(number: u64) -> Vec<u8> {
    numbered(REPLY, number)
}

pub(crate) fn pointer_key(revision: Revision) -> Vec<u8> {
    numbered(POINTER, revision.0)
}

/// The number at the end of a key.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk::<8>()?))
}

/// The number that is a whole value.
pub(crate) fn read_number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

pub(crate) fn object_key(kind: KindRef, key: &Key) -> Vec<u8> {
    let resource = kind.descriptor().resource();
    let mut out = Vec::with_capacity(resource.len() + key.namespace.len() + key.name.len() + 11);
    out.extend_from_slice(resource.as_bytes());
    out.push(0);
    out.extend_from_slice(key.namespace.as_bytes());
    out.push(0);
    out.extend_from_slice(key.name.as_bytes());
    out
}

/// The key of one version, from the key of its object.
pub(crate) fn change_key(object_key: &[u8], revision: Revision) -> Vec<u8> {
    let mut key = Vec::with_capacity(object_key.len() + 9);
    key.extend_from_slice(object_key);
    key.push(0);
    key.extend_from_slice(&revision.0.to_be_bytes());
    key
}

/// How far tables reach that are read row by row, out of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// The oldest revision whose state the history still tells.
    pub oldest: u64,
    /// The last one.
    pub newest: u64,
    /// How many changes the history holds.
    pub changes: u64,
}

impl Revisions {
    /// Takes a row into account.
    pub fn see(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let place = match (table, key) {
            (Table::Objects, REVISION) => &mut self.newest,
            (Table::History, HISTORY_FLOOR) => &mut self.oldest,
            (Table::History, key) if key.starts_with(POINTER) => return self.changes += 1,
            _ => return,
        };
        *place = read_number(value).unwrap_or(0);
    }
}

/// The resource in the key of an object.
pub(crate) fn resource_of(object_key: &[u8]) -> Option<&str> {
    std::str::from_utf8(object_key.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
pub(crate) mod memory {
    //! Tables in memory, for tests.
    #![allow(clippy::unwrap_used)]

    use std::collections::{BTreeMap, HashMap};
    use std::sync::{Arc, Mutex};

    use super::*;

    type Rows = BTreeMap<Vec<u8>, Bytes>;

    #[derive(Clone, Default)]
    pub(crate) struct MemoryTables(Arc<Mutex<HashMap<Table, Rows>>>);

    impl MemoryTables {
        pub(crate) fn write(&self, writes: Vec<Write>) {
            let mut tables = self.0.lock().unwrap();
            for write in writes {
                match write {
                    Write::Put(table, key, value) => {
                        tables.entry(table).or_default().insert(key, value.into());
                    }
                    Write::Delete(table, key) => {
                        tables.entry(table).or_default().remove(&key);
                    }
                    Write::DeleteRange(table, from, to) => {
                        tables.entry(table).or_default().retain(|key, _| *key < from || *key >= to);
                    }
                }
            }
        }

        pub(crate) fn replace_with(&self, other: &Self) {
            let tables = other.0.lock().unwrap().clone();
            *self.0.lock().unwrap() = tables;
        }

        pub(crate) fn rows(&self, table: Table) -> Rows {
            self.0.lock().unwrap().get(&table).cloned().unwrap_or_default()
        }
    }

    impl Tables for MemoryTables {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError> {
            Ok(self.rows(table).get(key).cloned())
        }

        fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), TableError> {
            for (key, value) in self.rows(table).range(from.to_vec()..to.to_vec()) {
                if visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Bytes>, TableError> {
            Ok(self.rows(table).range(from.to_vec()..to.to_vec()).next_back().map(|(_, value)| value.clone()))
        }
    }
}
