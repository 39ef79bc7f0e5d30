//! kill -9 of a writing server, again and again: what it acknowledged is there every time.
//!
//! The server is this test program itself, started anew with an environment variable set.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use balsa_log::{Bytes, LogConfig, TransportConfig};
use balsa_rt::TaskKind;

use crate::world::{Applied, open};

const DIRECTORY: &str = "BALSA_LOG_TEST_DIRECTORY";
const KILLS: usize = 8;
const CLIENTS: usize = 8;

fn config(dir: &Path) -> LogConfig {
    // Compacted often, so that some kills hit a compaction.
    LogConfig { snapshot_after: 60, keep_entries: 10, ..LogConfig::new(dir, 1, "localhost:0") }
}

/// The server that is killed; without the variable it is a test that has nothing to do.
#[test]
fn the_server_that_is_killed() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = open(&config(Path::new(&dir)), &Applied::default(), &TransportConfig::plain()).await;
        log.initialize().await.unwrap();
        log.leadership().wait_for(|now| now.is_leader).await.unwrap();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let log = log.clone();
                balsa_rt::spawn(TaskKind::Test, async move {
                    loop {
                        let payload = Bytes::from(balsa_rt::new_uid());
                        let (index, reply) = log.propose(payload).await.unwrap();
                        let line = format!("acknowledged {} {}\n", index.0, str::from_utf8(&reply).unwrap());
                        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            let () = client.await.unwrap().unwrap();
        }
    });
}

/// Runs the server until it acknowledged `count` proposals, and kills it in the middle of others.
fn run_and_kill(dir: &Path, count: usize) -> BTreeMap<u64, String> {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["kill::the_server_that_is_killed", "--exact", "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut killed = false;
    for line in BufReader::new(server.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // The last line may be cut off, and the harness has lines of its own.
        let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
        let Some((index, payload)) = rest.split_once(' ').filter(|(_, payload)| payload.len() == 36) else {
            continue;
        };
        acknowledged.insert(index.parse().unwrap(), payload.to_owned());
        if acknowledged.len() >= count && !killed {
            server.kill().unwrap();
            killed = true;
        }
    }
    server.wait().unwrap();
    assert!(killed, "the server ended by itself");
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for kill in 0..KILLS {
        let path = dir.path().to_owned();
        let count = 20 + kill * 7;
        acknowledged.extend(balsa_rt::spawn_blocking(move || run_and_kill(&path, count)).await.unwrap());
        let applied = Applied::default();
        let log = open(&config(dir.path()), &applied, &TransportConfig::plain()).await;
        log.leadership().wait_for(|now| now.is_leader).await.unwrap();
        log.read_index().await.unwrap();
        for (index, payload) in &acknowledged {
            let found = applied.lock().unwrap().get(index).cloned();
            assert_eq!(found.as_deref(), Some(payload.as_bytes()), "index {index} after kill {kill}");
        }
        log.shutdown().await.unwrap();
    }
}
