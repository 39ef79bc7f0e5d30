//! Round trip, damage, and a crash in the middle of an installation.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{LogId, Term};

fn filled(dir: &Path, node: u64) -> Store {
    let store = Store::open(dir, node, None).unwrap();
    let mut batch = WriteBatch::default();
    for number in 0..500u32 {
        let family = store.family(Family::Objects).unwrap();
        batch.put_cf(family, number.to_be_bytes(), vec![number as u8; 300]);
    }
    batch.put_cf(store.family(Family::History).unwrap(), b"h", b"istory");
    let applied = codec::log_id(&LogId::new(Term::new(2), 77)).encode_to_vec();
    store.put_meta(&mut batch, Key::Applied, &applied).unwrap();
    store.write_tables(batch).unwrap();
    store
}

fn contents(store: &Store) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut stream = Vec::new();
    write(store, &mut stream).unwrap();
    read(stream.as_slice(), |table, key, value| {
        all.push((table, key, value));
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn installing_replaces_everything() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Arc::new(filled(from.path(), 1));
    let target = Store::open(to.path(), 2, None).unwrap();
    let mut batch = WriteBatch::default();
    batch.put_cf(target.family(Family::Objects).unwrap(), [0xff; 70], b"old");
    target.write_tables(batch).unwrap();
    install(&target, SnapshotData::Tables(source.clone())).unwrap();
    assert_eq!(contents(&target), contents(&source));
    assert_eq!(target.log_id(Key::Applied).unwrap(), Some(LogId::new(Term::new(2), 77)));
    assert_eq!(std::fs::read_dir(target.snapshots()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn every_damage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = Vec::new();
    write(&filled(dir.path(), 1), &mut stream).unwrap();
    let nothing = |_: Table, _: Vec<u8>, _: Vec<u8>| Ok(());
    assert_eq!(read(stream.as_slice(), nothing).unwrap().last_log_id.unwrap().index, 77);
    for cut in (0..stream.len()).step_by(997).chain([stream.len() - 1]) {
        assert!(read(&stream[..cut], nothing).is_err(), "cut at {cut}");
    }
    for position in (0..stream.len()).step_by(499).chain([stream.len() - 1]) {
        let mut damaged = stream.clone();
        damaged[position] ^= 0x40;
        assert!(read(damaged.as_slice(), nothing).is_err(), "flipped at {position}");
    }
}

#[test]
fn a_damaged_file_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = filled(to.path(), 2);
    let before = contents(&target);
    let (spooled, file) = SnapshotFile::create(&target.snapshots()).unwrap();
    let mut stream = Vec::new();
    write(&filled(from.path(), 1), &mut stream).unwrap();
    (&file).write_all(&stream[..stream.len() / 2]).unwrap();
    assert!(matches!(spooled.finish(&file), Err(SnapshotError::Truncated)));
    assert_eq!(contents(&target), before);
    assert_eq!(std::fs::read_dir(target.snapshots()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_installation_is_finished_at_the_next_start() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = filled(from.path(), 1);
    let target = Store::open(to.path(), 2, None).unwrap();
    let (file, _) = spool(&source, &target.snapshots()).unwrap();
    let path = file.keep();
    let mut batch = WriteBatch::default();
    let name = path.file_name().unwrap().as_encoded_bytes();
    target.put_meta(&mut batch, Key::Installing, name).unwrap();
    target.write(batch).unwrap();
    target.sync().unwrap();
    // Half of the old is gone, half of the new is there.
    let mut batch = WriteBatch::default();
    batch.put_cf(target.family(Family::Objects).unwrap(), b"half", b"way");
    target.write_tables(batch).unwrap();
    target.flush_tables().unwrap();
    drop(target);
    let target = Store::open(to.path(), 2, None).unwrap();
    resume_install(&target).unwrap();
    assert_eq!(contents(&target), contents(&source));
    assert!(target.meta(Key::Installing).unwrap().is_none());
}

#[test]
fn an_interrupted_installation_without_its_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1, None).unwrap();
    let mut batch = WriteBatch::default();
    store.put_meta(&mut batch, Key::Installing, b"gone.snapshot").unwrap();
    store.write(batch).unwrap();
    let error = resume_install(&store).unwrap_err();
    assert!(error.to_string().contains("gone.snapshot"), "{error}");
}
