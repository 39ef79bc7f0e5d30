//! A disk that fails a sync: what was written may or may not be there, and nobody is told that it is.

use std::path::PathBuf;
use std::process::Command;

use balsa_testkit::{LoneServer, root};

use crate::{all_there, write};

/// Builds the library that stands between the server and the kernel.
fn library(home: &tempfile::TempDir) -> PathBuf {
    let library = home.path().join("failing_sync.so");
    let source = root().join("tests/tests/disk_faults/failing_sync.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success(), "a C compiler is needed");
    library
}

#[test]
fn a_failed_sync_ends_the_server_and_acknowledges_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let fail = home.path().join("fail");
    let library = library(&home);
    let environment = [("LD_PRELOAD", library.as_path()), ("FAIL_SYNC", fail.as_path())];
    let mut server = LoneServer::spawn(&data, &[], &environment);
    server.is_ready();
    let acknowledged: Vec<String> = (0..5).map(|n| format!("kept-{n}")).collect();
    for name in &acknowledged {
        write(&server, name, 1000).unwrap();
    }
    std::fs::write(&fail, "").unwrap();
    let refused = write(&server, "unknown", 1000).unwrap_err();
    println!("the write that met the failure: {refused}");
    assert!(!server.ends().success());
    assert!(server.said().contains("Input/output error"), "{}", server.said());

    let server = LoneServer::start(&data, &[]);
    all_there(&server, &acknowledged);
    write(&server, "again", 1000).unwrap();
    server.stop();
}
