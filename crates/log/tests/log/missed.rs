//! A leader that is gone, with nobody left who could be elected in its place.

use std::time::Duration;

use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_led_is_missed_when_it_says_nothing_more() {
    let mut world = World::start(3, |config| {
        config.heartbeat = Duration::from_millis(20);
        config.election = (Duration::from_millis(200), Duration::from_millis(400));
    })
    .await;
    let last = world.node(3).log().unwrap().clone();
    last.leadership().wait_for(|now| now.leader == Some(1)).await.unwrap();
    last.read_index().await.unwrap();
    assert!(world.node(1).log().unwrap().is_led() && last.is_led());
    world.crash(2).await;
    world.crash(1).await;
    eventually("it is missed", || std::future::ready(!last.is_led())).await;
    world.boot(1).await;
    world.net.heal();
    eventually("somebody leads again", || std::future::ready(last.is_led())).await;
    world.stop().await;
}
