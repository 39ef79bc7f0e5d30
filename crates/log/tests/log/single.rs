//! One server alone.

use balsa_log::{Bytes, LogConfig, LogError, ProposeError, Role, Table, TransportConfig};
use balsa_rt::TaskKind;

use crate::world::{Applied, World, eventually, open};

fn config(dir: &tempfile::TempDir) -> LogConfig {
    LogConfig::new(dir.path(), 1, "localhost:0")
}

async fn leading(config: &LogConfig, applied: &Applied) -> balsa_log::Log {
    let log = open(config, applied, &TransportConfig::plain()).await;
    log.initialize().await.unwrap();
    log.leadership().wait_for(|now| now.is_leader).await.unwrap();
    log
}

fn payload(number: usize) -> Bytes {
    Bytes::from(format!("payload {number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_propose_at_once_is_applied_answered_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let applied = Applied::default();
    let log = leading(&config(&dir), &applied).await;
    log.initialize().await.unwrap();
    let clients: Vec<_> = (0..500)
        .map(|number| {
            let log = log.clone();
            balsa_rt::spawn(TaskKind::Test, async move { log.propose(payload(number)).await })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        let (index, reply) = client.await.unwrap().unwrap().unwrap();
        assert_eq!(reply, payload(number));
        acknowledged.push((index, reply));
    }
    assert!(log.read_index().await.unwrap() >= acknowledged.iter().map(|(index, _)| *index).max().unwrap());
    let key = acknowledged[0].0.0.to_be_bytes();
    assert_eq!(log.tables().get(Table::Objects, &key).unwrap(), Some(acknowledged[0].1.clone()));
    log.shutdown().await.unwrap();
    assert_eq!(log.propose(payload(0)).await, Err(ProposeError::Shutdown));
    drop(log);

    let again = Applied::default();
    let log = leading(&config(&dir), &again).await;
    log.read_index().await.unwrap();
    assert_eq!(*again.lock().unwrap(), *applied.lock().unwrap());
    let status = log.status();
    assert_eq!((status.role, status.leader, status.members.len()), (Role::Leader, Some(1), 1));
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leaders_work_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let log = leading(&config(&dir), &Applied::default()).await;
    let term = log.leadership().borrow().term;
    log.propose_as_leader(term, payload(1)).await.unwrap();
    for other in [term - 1, term + 1] {
        let refused = log.propose_as_leader(other, payload(2)).await;
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    }
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_before_it_is_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let applied = Applied::default();
    let config = LogConfig { max_payload: 100, max_pending: 0, ..config(&dir) };
    let log = leading(&config, &applied).await;
    let large = log.propose(Bytes::from(vec![0; 101])).await;
    assert_eq!(large, Err(ProposeError::TooLarge { size: 101, limit: 100 }));
    assert_eq!(log.propose(payload(1)).await, Err(ProposeError::Overloaded));
    assert!(applied.lock().unwrap().is_empty());
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_compacted_and_nothing_is_lost_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let applied = Applied::default();
    let config = LogConfig { snapshot_after: 50, keep_entries: 10, cache_bytes: 4096, ..config(&dir) };
    let log = leading(&config, &applied).await;
    for number in 0..300 {
        log.propose(payload(number)).await.unwrap();
    }
    eventually("entries are purged", || async { log.status().purged.is_some() }).await;
    log.shutdown().await.unwrap();
    drop(log);
    let again = Applied::default();
    let log = leading(&config, &again).await;
    log.read_index().await.unwrap();
    assert_eq!(again.lock().unwrap().len(), 300);
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_servers_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = leading(&config(&dir), &Applied::default()).await;
    log.shutdown().await.unwrap();
    drop(log);
    let other = LogConfig { node_id: 2, ..config(&dir) };
    eventually("the directory is let go", || async {
        let machine = crate::world::Ledger(Applied::default());
        let opened = balsa_log::Log::open(other.clone(), machine, TransportConfig::plain()).await;
        matches!(opened, Err(LogError::WrongNode { found: 1, expected: 2, .. }))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = leading(&config(&dir), &Applied::default()).await;
    for number in 0..200 {
        log.propose(payload(number)).await.unwrap();
    }
    log.shutdown().await.unwrap();
    drop(log);
    let lock_is_free = || async {
        let machine = crate::world::Ledger(Applied::default());
        let wrong = LogConfig { node_id: 9, ..config(&dir) };
        let opened = balsa_log::Log::open(wrong, machine, TransportConfig::plain()).await;
        matches!(opened, Err(LogError::WrongNode { .. }))
    };
    eventually("the directory is let go", lock_is_free).await;
    // Opening once turned the write-ahead log into tables: damage one of each kind of file.
    let mut damaged = 0;
    for file in std::fs::read_dir(dir.path().join("db")).unwrap().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            for byte in bytes.iter_mut().take(64) {
                *byte ^= 0xff;
            }
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let machine = crate::world::Ledger(Applied::default());
    let Err(error) = balsa_log::Log::open(config(&dir), machine, TransportConfig::plain()).await else {
        panic!("damage was not noticed");
    };
    assert!(error.to_string().contains(".sst"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_too_long_is_brought_up_by_a_snapshot() {
    let mut world = World::start(3, |config| {
        (config.snapshot_after, config.keep_entries) = (50, 5);
    })
    .await;
    world.crash(3).await;
    let leader = world.node(1).log().unwrap().clone();
    leader.leadership().wait_for(|now| now.is_leader).await.unwrap();
    for number in 0..200 {
        leader.propose(payload(number)).await.unwrap();
    }
    eventually("entries are purged", || async { leader.status().purged.is_some() }).await;
    world.net.heal();
    world.boot(3).await;
    let expected = world.nodes[0].payloads();
    assert_eq!(expected.len(), 200);
    eventually("3 has caught up", || async { world.nodes[2].payloads() == expected }).await;
    let status = world.nodes[2].log().unwrap().status();
    assert!(status.purged.is_some(), "its log begins where the snapshot ends: {status:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut world = World::start(3, |_| {}).await;
    let leader = world.node(1).log().unwrap().clone();
    leader.propose(payload(1)).await.unwrap();
    leader.transfer_leader(2).await.unwrap();
    eventually("2 leads", || async { world.leader() == Some(2) }).await;
    // A follower forwards, and reads what was committed through it.
    let (index, _) = leader.propose(payload(2)).await.unwrap();
    assert!(leader.read_index().await.unwrap() >= index);
    assert!(world.nodes[0].payloads().contains_key(&index.0));
    assert!(matches!(leader.remove_member(3).await, Err(LogError::NotLeader { leader: Some(2) })));
    world.node(2).log().unwrap().remove_member(3).await.unwrap();
    let members = world.node(2).log().unwrap().status().members;
    assert_eq!(members.iter().map(|member| member.node_id).collect::<Vec<_>>(), [1, 2]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { max_log_bytes: 8 << 20, ..config(&dir) };
    let log = leading(&config, &Applied::default()).await;
    for number in 0..256 {
        log.propose(Bytes::from(vec![number as u8; 256 << 10])).await.unwrap();
    }
    eventually("most entries are gone", || {
        let status = log.status();
        // Of 64 MiB; the last 64 entries, half as many again, and what is not rewritten yet may stay.
        async move { status.purged.is_some_and(|purged| purged.0 > 100) && status.log_bytes < 48 << 20 }
    })
    .await;
    log.propose(payload(1)).await.unwrap();
    log.shutdown().await.unwrap();
}
