//! Damaged files: a byte that flipped is found and named; what a crash has torn off at the end is no damage.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use balsa_testkit::LoneServer;

use crate::{all_there, write};

/// The files of the database that end like this, the largest first.
fn files(data: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(data.join("log/db"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(ending))
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn flip(path: &Path, place: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A data directory in which every table has a file on disk, and the names of the objects in it.
fn filled(data: &Path) -> Vec<String> {
    let names: Vec<String> = (0..40).map(|n| format!("stored-{n}")).collect();
    let server = LoneServer::start(data, &[]);
    for name in &names {
        write(&server, name, 20_000).unwrap();
    }
    server.stop();
    // What the write-ahead log held is in tables after the next start.
    LoneServer::start(data, &[]).stop();
    names
}

#[test]
fn a_flipped_byte_in_a_table_is_found_and_named() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let names = filled(&data);
    let tables = files(&data, ".sst");
    assert!(tables.len() >= 3, "{tables:?}");
    let mut found = 0;
    for table in tables {
        // The start before may have made one of it and others.
        let Ok(metadata) = table.metadata() else { continue };
        // Rows stand first; what a small table has in its middle may be no more than a note about them.
        let length = metadata.len();
        let place = if length > 64 << 10 { length / 2 } else { 20 };
        flip(&table, place);
        let mut server = LoneServer::spawn(&data, &[], &[]);
        let status = server.ends();
        let said = server.said();
        assert!(!status.success(), "{}", table.display());
        assert!(said.contains(&name(&table)), "{} is named: {said}", table.display());
        flip(&table, place);
        found += 1;
    }
    assert!(found > 0, "no table was left to be damaged");
    // Nothing was changed.
    all_there(&LoneServer::start(&data, &[]), &names);
}

#[test]
fn a_flipped_byte_in_the_write_ahead_log_is_found_and_named() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = LoneServer::start(&data, &[]);
    let names: Vec<String> = (0..40).map(|n| format!("logged-{n}")).collect();
    for name in &names {
        write(&server, name, 20_000).unwrap();
    }
    server.kill9();
    let log = files(&data, ".log").swap_remove(0);
    let length = log.metadata().unwrap().len();
    // In the middle, and in what was written last.
    for place in [length / 2, length - 2000] {
        flip(&log, place);
        let mut server = LoneServer::spawn(&data, &[], &[]);
        let status = server.ends();
        let said = server.said();
        assert!(!status.success(), "{place} of {length}");
        assert!(said.contains(&name(&log)), "{} is named: {said}", log.display());
        flip(&log, place);
    }
    all_there(&LoneServer::start(&data, &[]), &names);
}

#[test]
fn a_torn_end_of_the_write_ahead_log_is_no_damage() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = LoneServer::start(&data, &[]);
    let names: Vec<String> = (0..20).map(|n| format!("logged-{n}")).collect();
    for name in &names {
        write(&server, name, 5000).unwrap();
    }
    server.kill9();
    // The beginning of a record whose rest never reached the disk.
    let log = files(&data, ".log").swap_remove(0);
    let bytes = std::fs::read(&log).unwrap();
    let record = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    let torn = &bytes[..7 + record / 2];
    std::fs::File::options().append(true).open(&log).unwrap().write_all(torn).unwrap();
    let server = LoneServer::start(&data, &[]);
    all_there(&server, &names);
    write(&server, "after", 100).unwrap();
    server.kill9();
    all_there(&LoneServer::start(&data, &[]), &["after".to_owned()]);
}
