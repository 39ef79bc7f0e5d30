//! What a crash leaves of the log, and of the tables.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::types::{EntryPayload, Term};

fn id(index: u64) -> LogId {
    LogId::new(Term::new(1), index)
}

fn log(store: &Store, index: u64) {
    let entry = codec::entry(&Entry { log_id: id(index), payload: EntryPayload::Blank }).encode_to_vec();
    let mut batch = WriteBatch::default();
    batch.put_cf(store.family(Family::Log).unwrap(), index.to_be_bytes(), entry);
    store.write(batch).unwrap();
}

fn apply(store: &Store, index: u64) {
    let mut batch = WriteBatch::default();
    batch.put_cf(store.family(Family::Objects).unwrap(), b"object", index.to_be_bytes());
    batch.put_cf(store.family(Family::History).unwrap(), index.to_be_bytes(), b"changed");
    store.put_meta(&mut batch, Key::Applied, &codec::log_id(&id(index)).encode_to_vec()).unwrap();
    store.write_tables(batch).unwrap();
}

/// The last entry, what is applied, the object, and the last change of the history.
fn seen(store: &Store) -> (u64, Option<u64>, Option<u64>, Option<u64>) {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let object = store.db.get_cf(store.family(Family::Objects).unwrap(), b"object").unwrap();
    let change = store.db.iterator_cf(store.family(Family::History).unwrap(), IteratorMode::End).next();
    (
        store.last_entry().unwrap().unwrap().index,
        store.log_id(Key::Applied).unwrap().map(|id| id.index),
        object.map(|bytes| number(&bytes)),
        change.map(|row| number(&row.unwrap().0)),
    )
}

#[test]
fn after_a_crash_entries_are_all_there_and_tables_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1, None).unwrap();
    log(&store, 0);
    apply(&store, 0);
    drop(store);
    let store = Store::open(dir.path(), 1, None).unwrap();
    assert_eq!(seen(&store), (0, None, None, None), "no table is in the write-ahead log");
    apply(&store, 0);
    log(&store, 1);
    store.flush_tables().unwrap();
    log(&store, 2);
    apply(&store, 2);
    assert_eq!(seen(&store), (2, Some(2), Some(2), Some(2)));
    drop(store);
    let store = Store::open(dir.path(), 1, None).unwrap();
    assert_eq!(seen(&store), (2, Some(0), Some(0), Some(0)), "as they were flushed");
}

#[test]
fn a_full_buffer_takes_all_tables_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1, None).unwrap();
    // More entries than the log's buffer holds, each applied at once, in tables that stay small.
    let payload = EntryPayload::Normal(crate::types::Payload(vec![7; 1 << 20].into()));
    for index in 0..40 {
        let entry = codec::entry(&Entry { log_id: id(index), payload: payload.clone() }).encode_to_vec();
        let mut batch = WriteBatch::default();
        batch.put_cf(store.family(Family::Log).unwrap(), index.to_be_bytes(), entry);
        store.write(batch).unwrap();
        apply(&store, index);
    }
    drop(store);
    let store = Store::open(dir.path(), 1, None).unwrap();
    let (last, applied, object, change) = seen(&store);
    assert_eq!(last, 39);
    assert!(applied > Some(0), "nothing was flushed");
    assert_eq!((object, change), (applied, applied));
}
