//! The majority is lost for good: a survivor becomes a cluster of its own.

use std::time::{Duration, Instant};

use balsa_log::recovery::{stand_alone, survey};
use balsa_log::{Bytes, LogError};

use crate::world::{World, eventually};

/// Once the log that was open before has let go of the directory.
async fn offline<T>(work: impl Fn() -> Result<T, LogError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match work() {
            Ok(done) => return done,
            Err(error @ LogError::Storage { .. }) => assert!(Instant::now() < deadline, "{error}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// With its entries in the log, and with most of them only in the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_has_all_that_its_log_held() {
    for snapshot_after in [20_000, 10] {
        let mut world = World::start(3, |config| {
            config.snapshot_after = snapshot_after;
            config.keep_entries = 2;
        })
        .await;
        let leader = world.nodes[0].log().unwrap().clone();
        for n in 0..35 {
            leader.propose(Bytes::from(format!("payload {n}"))).await.unwrap();
        }
        let all = world.node(1).payloads();
        let follower = world.nodes[1].applied.clone();
        eventually("the follower has all", || {
            let count = follower.lock().unwrap().len();
            let all = all.len();
            async move { count == all }
        })
        .await;
        drop(leader);
        for id in world.ids() {
            world.crash(id).await;
        }
        world.net.heal();
        let directory = world.node(2).directory();
        let survivor = offline(|| survey(&directory, 2)).await;
        assert_eq!(survivor.members.iter().filter(|member| member.voter).count(), 3);
        offline(|| stand_alone(&directory, 2, "pipe-2:1", "alone")).await;
        let alone = offline(|| survey(&directory, 2)).await;
        assert_eq!((alone.members.len(), alone.term), (1, survivor.term + 1));
        assert_eq!(alone.last_index.0, survivor.last_index.0 + 1);

        world.boot(2).await;
        let log = world.nodes[1].log().unwrap().clone();
        log.leadership().wait_for(|now| now.is_leader).await.unwrap();
        assert_eq!(world.node(2).payloads(), all);
        log.propose(Bytes::from_static(b"on its own")).await.unwrap();
        assert_eq!(log.members().len(), 1);
        drop(log);
        // And so it is after another start.
        world.crash(2).await;
        world.net.heal();
        world.boot(2).await;
        let log = world.nodes[1].log().unwrap().clone();
        log.leadership().wait_for(|now| now.is_leader).await.unwrap();
        assert_eq!((log.members().len(), world.node(2).payloads().len()), (1, all.len() + 1));
        drop(log);
        world.stop().await;
    }
}

#[tokio::test]
async fn an_empty_log_has_nothing_to_go_on_with() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(survey(directory.path(), 1), Err(LogError::Config(_))));
}
