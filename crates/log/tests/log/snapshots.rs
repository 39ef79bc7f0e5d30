//! A server that was away for longer than the log reaches, behind a connection that breaks again and again.

use balsa_log::Bytes;

use crate::world::{World, eventually};

const PAYLOAD: usize = 256 << 10;
const PAYLOADS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_its_connection_broke() {
    let mut world = World::start(3, |config| {
        config.snapshot_after = 20;
        config.keep_entries = 0;
    })
    .await;
    let behind = world.nodes[2].log().unwrap().status().last_index;
    world.crash(3).await;
    let leader = world.nodes[0].log().unwrap().clone();
    for n in 0..PAYLOADS {
        leader.propose(Bytes::from(vec![n as u8; PAYLOAD])).await.unwrap();
    }
    eventually("the log begins after what the late server has", || {
        let is_gone = leader.status().purged > behind;
        async move { is_gone }
    })
    .await;
    let all = world.node(1).payloads();
    // Three pieces and a bit get through each time, and the snapshot has fifteen.
    world.net.make_fragile(7 << 19);
    world.net.heal();
    world.boot(3).await;
    let late = world.node(3).applied.clone();
    eventually("the late server has all", || {
        let has_all = *late.lock().unwrap() == all;
        async move { has_all }
    })
    .await;
    let (broken, carried) = world.net.broken();
    assert!(broken >= 3, "the connection broke {broken} times");
    // One that was opened before all was written is followed by another.
    assert!(carried < 3 * PAYLOADS * PAYLOAD, "{carried} bytes for two snapshots: one began anew");
    drop(leader);
    world.stop().await;
}
