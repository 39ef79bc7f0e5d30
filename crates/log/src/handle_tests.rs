//! What only the inside can provoke: a disk that fails.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::FailingDisk;
use crate::error::StateMachineError;
use crate::machine::Committed;
use crate::tables::TableBatch;

struct Echo;

#[async_trait::async_trait]
impl StateMachine for Echo {
    async fn restore(&mut self, _: &Tables, _: Option<LogIndex>) -> Result<(), StateMachineError> {
        Ok(())
    }

    async fn apply(&mut self, entries: Vec<Committed>, _: &mut TableBatch) -> Vec<Bytes> {
        entries.into_iter().map(|entry| entry.payload).collect()
    }

    async fn publish(&mut self, _: LogIndex) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_leadership_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let mut config = LogConfig::new(dir.path(), 1, "localhost:0");
    config.faults = Some(disk.clone());
    let log = Log::open(config, Echo, TransportConfig::plain()).await.unwrap();
    log.initialize().await.unwrap();
    let mut leadership = log.leadership();
    leadership.wait_for(|now| now.is_leader).await.unwrap();
    log.propose(Bytes::from_static(b"before")).await.unwrap();

    disk.fail(true);
    assert_eq!(log.propose(Bytes::from_static(b"during")).await, Err(ProposeError::Unknown));
    leadership.wait_for(|now| !now.is_leader).await.unwrap();
    disk.fail(false);
    let after = log.propose(Bytes::from_static(b"after")).await;
    assert!(matches!(after, Err(ProposeError::Fatal(_))), "{after:?}");
    assert!(matches!(log.read_index().await, Err(ReadError::Fatal(_) | ReadError::Unavailable)));
    let fatal = log.stopped().await.unwrap();
    assert!(fatal.contains("injected"), "{fatal}");
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_address_is_written_into_the_members_list() {
    let dir = tempfile::tempdir().unwrap();
    let log =
        Log::open(LogConfig::new(dir.path(), 1, "old:1"), Echo, TransportConfig::plain()).await.unwrap();
    log.initialize().await.unwrap();
    log.leadership().wait_for(|now| now.is_leader).await.unwrap();
    log.shutdown().await.unwrap();
    assert_eq!(log.stopped().await, None);
    drop(log);
    let config = LogConfig::new(dir.path(), 1, "new:1");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let log = loop {
        match Log::open(config.clone(), Echo, TransportConfig::plain()).await {
            Ok(log) => break log,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    while log.status().members.first().map(|member| member.address.as_str()) != Some("new:1") {
        assert!(std::time::Instant::now() < deadline, "{:?}", log.status());
        tokio::task::yield_now().await;
    }
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_nobody_asked_for_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig::new(dir.path(), 1, "localhost:0"), Echo, TransportConfig::plain())
        .await
        .unwrap();
    // Behind the back of the handle, as a panic of its task would end it.
    log.shared.raft.shutdown().await.unwrap();
    assert!(log.stopped().await.unwrap().contains("by itself"));
    log.shutdown().await.unwrap();
}
