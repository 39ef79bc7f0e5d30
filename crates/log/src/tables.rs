//! The tables of the state machine: what it may read, and what it wants written.
//!
//! Only the log writes them, along with the index that they then reflect; everybody may read.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DBPinnableSlice, IteratorMode, ReadOptions, WriteBatch};

use crate::error::LogError;
use crate::store::{Family, Store};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// The newest state of every object.
    Objects,
    /// What happened to them.
    History,
}

impl Table {
    pub(crate) const ALL: [Self; 2] = [Self::Objects, Self::History];

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Objects => Family::Objects,
            Self::History => Family::History,
        }
    }
}

/// One change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableWrite {
    /// Sets a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Table, Vec<u8>),
    /// Removes the keys from the first up to before the second.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// Changes that are written together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBatch {
    writes: Vec<TableWrite>,
}

impl TableBatch {
    /// Sets `key`.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.writes.push(TableWrite::Put(table, key, value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.writes.push(TableWrite::Delete(table, key));
    }

    /// Removes the keys from `from` up to before `to`. Dear for readers; meant for rare, large ranges.
    pub fn delete_range(&mut self, table: Table, from: Vec<u8>, to: Vec<u8>) {
        self.writes.push(TableWrite::DeleteRange(table, from, to));
    }

    /// What was asked for so far.
    pub fn writes(&self) -> &[TableWrite] {
        &self.writes
    }

    pub(crate) fn add_to(&self, store: &Store, batch: &mut WriteBatch) -> Result<(), LogError> {
        for write in &self.writes {
            match write {
                TableWrite::Put(table, key, value) => batch.put_cf(store.family(table.family())?, key, value),
                TableWrite::Delete(table, key) => batch.delete_cf(store.family(table.family())?, key),
                TableWrite::DeleteRange(table, from, to) => {
                    batch.delete_range_cf(store.family(table.family())?, from, to);
                }
            }
        }
        Ok(())
    }
}

/// Read access to the tables. Reading blocks on the disk; large scans belong on a blocking thread.
#[derive(Clone)]
pub struct Tables {
    store: Arc<Store>,
}

impl Tables {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When the disk cannot be read or what it holds is damaged.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, LogError> {
        let value: Option<DBPinnableSlice<'_>> = self
            .store
            .db()
            .get_pinned_cf(self.store.family(table.family())?, key)
            .map_err(|error| self.store.error(&error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Visits the keys from `from` up to before `to` (empty: to the end), as of one moment, in order
    /// or from the back, until `visit` breaks.
    ///
    /// # Errors
    /// When the disk cannot be read or what it holds is damaged.
    pub fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if !to.is_empty() {
            options.set_iterate_upper_bound(to);
        }
        let family = self.store.family(table.family())?;
        let mode = if reverse { IteratorMode::End } else { IteratorMode::Start };
        for item in self.store.db().iterator_cf_opt(family, options, mode) {
            let (key, value) = item.map_err(|error| self.store.error(&error))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of a table, in memory and on disk, as RocksDB estimates them.
    pub fn size(&self, table: Table) -> u64 {
        self.store.size(table.family())
    }
}
