//! Three servers, clients that propose through any of them, and a seeded sequence of faults.
//!
//! Checked: what was acknowledged is in every server's state at the index that was told; all servers
//! applied the same payloads at the same indexes; no payload twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use balsa_log::{Bytes, Log, LogConfig};
use balsa_rt::TaskKind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::world::{World, eventually};

const FAULTS: usize = 8;
const CLIENTS: u64 = 4;

/// What clients were told.
#[derive(Clone, Default)]
struct Told {
    acknowledged: Arc<Mutex<BTreeMap<u64, Bytes>>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Through whom a client may propose at the moment.
    logs: Arc<Mutex<Vec<Log>>>,
}

impl Told {
    async fn client(self, client: u64, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        for number in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let log = self.logs.lock().unwrap().choose(&mut random).cloned();
            let payload = Bytes::from(format!("{client}/{number}"));
            let proposed = match log {
                Some(log) => log.propose(payload.clone()).await,
                None => Err(balsa_log::ProposeError::Shutdown),
            };
            match proposed {
                Ok((index, reply)) => {
                    assert_eq!(reply, payload, "the reply is of another proposal");
                    let before = self.acknowledged.lock().unwrap().insert(index.0, payload);
                    assert_eq!(before, None, "two proposals were given one index");
                    self.count.fetch_add(1, Ordering::Relaxed);
                }
                // Unknown outcomes may appear or not; the next payload is another one anyway.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Until some more proposals went through, or no quorum could answer for a while.
    async fn progress(&self) {
        let (before, deadline) =
            (self.count.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(2));
        while self.count.load(Ordering::Relaxed) < before + 25 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn simulate(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::start(3, |config: &mut LogConfig| {
        config.heartbeat = Duration::from_millis(40);
        config.election = (Duration::from_millis(200), Duration::from_millis(350));
        config.propose_timeout = Duration::from_millis(1500);
        // Compacted often, so that who was away needs a snapshot.
        (config.snapshot_after, config.keep_entries, config.cache_bytes) = (40, 5, 2048);
    })
    .await;
    let told = Told::default();
    offer(&told, &world);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| balsa_rt::spawn(TaskKind::Test, told.clone().client(client, seed ^ client)))
        .collect();
    for _ in 0..FAULTS {
        fault(&mut world, &mut random, &told).await;
        told.progress().await;
        world.net.heal();
    }
    told.stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert_eq!(client.await.unwrap(), Some(()), "a client failed, seed {seed}");
    }
    settle_and_check(&world, &told, seed).await;
    told.logs.lock().unwrap().clear();
    world.stop().await;
}

async fn fault(world: &mut World, random: &mut StdRng, told: &Told) {
    let ids = world.ids();
    let victim = match world.leader() {
        Some(leader) if random.random_bool(0.5) => leader,
        _ => *ids.choose(random).unwrap(),
    };
    match random.random_range(0..4) {
        0 => world.net.isolate(victim, &ids),
        1 => {
            let other = *ids.choose(random).unwrap();
            world.net.cut(victim, other);
        }
        _ => {
            told.logs.lock().unwrap().retain(|log| log.status().node_id != victim);
            world.crash(victim).await;
            told.progress().await;
            world.net.heal();
            world.boot(victim).await;
            offer(told, world);
        }
    }
}

fn offer(told: &Told, world: &World) {
    *told.logs.lock().unwrap() = world.nodes.iter().filter_map(|node| node.log().cloned()).collect();
}

async fn settle_and_check(world: &World, told: &Told, seed: u64) {
    for node in &world.nodes {
        let log = node.log().unwrap().clone();
        eventually("every server reads again", || {
            let log = log.clone();
            async move { log.read_index().await.is_ok() }
        })
        .await;
    }
    let acknowledged = told.acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 100, "seed {seed}: hardly anything was acknowledged");
    let reference = world.nodes[0].payloads();
    for node in &world.nodes {
        let payloads = node.payloads();
        for (index, payload) in &acknowledged {
            assert_eq!(payloads.get(index), Some(payload), "seed {seed}: lost on server {}", node.id);
        }
        // Late entries of unknown outcome may have reached one server and not yet another.
        for (index, payload) in &payloads {
            if let Some(other) = reference.get(index) {
                assert_eq!(other, payload, "seed {seed}: servers disagree at {index}");
            }
        }
        let mut seen = std::collections::HashSet::new();
        assert!(payloads.values().all(|payload| seen.insert(payload.clone())), "seed {seed}: applied twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_seed_1() {
    simulate(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_seed_2() {
    simulate(2).await;
}
