//! The state over a real log: proposals, linearizable reads, and starting again.

use balsa_log::{Log, LogConfig, TransportConfig};
use balsa_rt::{Clock, TaskKind};

use super::*;
use crate::refusal::Refusal;
use crate::{Machine, Store};

async fn open(dir: &tempfile::TempDir) -> Store {
    let store = open_leaderless(dir).await;
    lead(&store).await;
    store
}

async fn lead(store: &Store) {
    store.log().initialize().await.unwrap();
    store.log().leadership().wait_for(|now| now.is_leader).await.unwrap();
}

async fn open_leaderless(dir: &tempfile::TempDir) -> Store {
    let machine = Machine::new(&[gadgets(), config_maps()], StateConfig::default());
    let state = machine.state();
    let config = LogConfig::new(dir.path(), 1, "localhost:0");
    let log = Log::open(config, machine, TransportConfig::plain()).await.unwrap();
    Store::new(log, state, Clock::system())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_is_read_watched_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let state = store.state().clone();
    let mut watch = state.watch(request(Filter::everything(), Start::Initial)).await.unwrap();
    let writers: Vec<_> = (0..50)
        .map(|i| {
            let store = store.clone();
            balsa_rt::spawn(TaskKind::Test, async move {
                let name = format!("g{}", i / 2);
                store.propose(vec![create(&name, "n1"), create_map(&format!("m{i}"))]).await
            })
        })
        .collect();
    let (mut created, mut refused) = (0, 0);
    for writer in writers {
        let verdicts = writer.await.unwrap().unwrap().unwrap();
        assert!(verdicts[1].is_ok());
        match verdicts[0] {
            Ok(_) => created += 1,
            Err(Refusal::AlreadyExists) => refused += 1,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!((created, refused), (25, 25), "each name was created once");
    store.read_barrier().await.unwrap();
    assert_eq!((state.view(gadgets()).len(), state.view(config_maps()).len()), (25, 50));
    assert_eq!(state.revision(), Revision(100));
    let mut replica = Replica::default();
    replica.follow(&mut watch, Revision(100)).await;
    let everything = list(&state, &Filter::everything());
    assert_eq!(replica.objects, everything);

    let term = store.log().leadership().borrow().term;
    assert_eq!(store.propose_as_leader(term, vec![remove("g0")]).await.unwrap(), [Ok(Revision(101))]);
    assert!(store.propose_as_leader(term + 1, vec![remove("g1")]).await.is_err());
    store.log().shutdown().await.unwrap();
    drop((store, state, watch));

    let store = open_again(&dir).await;
    store.read_barrier().await.unwrap();
    let state = store.state();
    assert_eq!((state.view(gadgets()).len(), state.revision()), (24, Revision(101)));
    let mut watch = state.watch(request(Filter::everything(), Start::After(replica.last))).await.unwrap();
    replica.follow(&mut watch, Revision(101)).await;
    assert_eq!(replica.objects, list(state, &Filter::everything()));
    let versions = state.history(gadgets(), &key("g0")).await.unwrap();
    assert_eq!(versions.len(), 2);
    store.log().shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_behind_waits_and_one_that_is_not_knows_what_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_leaderless(&dir).await;
    let waiting = store.reaches(Revision(3));
    tokio::pin!(waiting);
    let soon = Duration::from_millis(300);
    let early = tokio::time::timeout(soon, waiting.as_mut()).await;
    assert!(early.is_err(), "nobody leads: {early:?}");
    lead(&store).await;
    assert_eq!(waiting.await.ok(), Some(false), "now somebody can tell");
    store.propose(vec![create("a", "n1"), create("b", "n1"), create("c", "n1")]).await.unwrap();
    assert_eq!(store.reaches(Revision(3)).await.ok(), Some(true));
    let begun = tokio::time::Instant::now();
    assert_eq!(store.reaches(Revision(4)).await.ok(), Some(false));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    store.log().shutdown().await.unwrap();
}

/// The directory is let go when the last task of the old log has ended.
async fn open_again(dir: &tempfile::TempDir) -> Store {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let machine = Machine::new(&[gadgets(), config_maps()], StateConfig::default());
        let state = machine.state();
        let config = LogConfig::new(dir.path(), 1, "localhost:0");
        match Log::open(config, machine, TransportConfig::plain()).await {
            Ok(log) => return Store::new(log, state, Clock::system()),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
