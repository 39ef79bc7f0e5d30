//! The control plane is gone: pods run on and are restarted, also by an agent that starts meanwhile; what
//! happened in between is made up for when it is back. On simulated containers.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use balsa_runtime::{ContainerId, ListFilter, Runtime, SimulatedRuntime, labels};
use common::{World, first};
use serde_json::json;

/// The running container of a pod, and which try it is.
async fn running(world: &World, pod: &str) -> Option<(ContainerId, u32)> {
    let filter = ListFilter::label(labels::POD_NAME, pod).and(labels::KIND, labels::KIND_CONTAINER);
    for found in world.runtime.list(&filter).await.unwrap() {
        let state = world.runtime.inspect(&found.id).await.unwrap();
        if state.status.is_alive() {
            return Some((found.id, state.labels[labels::ATTEMPT].parse().unwrap()));
        }
    }
    None
}

async fn restarted(world: &World, pod: &str, attempt: u32) {
    let again = async {
        while running(world, pod).await.is_none_or(|(_, found)| found < attempt) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), again).await;
    assert!(waited.is_ok(), "{pod} is not restarted for the {attempt}. time");
}

#[tokio::test]
async fn a_node_goes_on_without_its_control_plane_and_catches_up() {
    let runtime = Arc::new(SimulatedRuntime::new());
    let mut world = World::new(runtime.clone());
    world.start().await;
    let one = json!({"containers": [{"name": "c", "image": "web:1"}]});
    world.pod("web", one.clone()).await;
    world.pod("old", one.clone()).await;
    let before = first(&world.ready("web").await);
    world.ready("old").await;

    world.line.cut();
    let (id, attempt) = running(&world, "web").await.unwrap();
    assert_eq!(attempt, 0);
    runtime.kill(&id, "SIGKILL").await.unwrap();
    restarted(&world, "web", 1).await;
    // The wishes of this time are not heard yet.
    world.delete("old").await;
    world.pod("new", one).await;

    // The agent's own restart does not need a server either.
    world.stop().await;
    assert!(running(&world, "web").await.is_some() && running(&world, "old").await.is_some());
    world.start().await;
    let (id, _) = running(&world, "web").await.unwrap();
    runtime.kill(&id, "SIGKILL").await.unwrap();
    restarted(&world, "web", 2).await;
    assert!(running(&world, "old").await.is_some(), "nobody has told the node to end it");
    assert!(running(&world, "new").await.is_none());

    world.line.mend();
    let after = world.until("web", "its restarts told", |status| first(status).restart_count == 2).await;
    assert_ne!(first(&after).container_id, before.container_id);
    world.gone("old").await;
    world.ready("new").await;
    assert!(running(&world, "old").await.is_none());
}
