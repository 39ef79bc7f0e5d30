//! Which pods a node takes, on simulated containers: those that name it themselves have to fit, those that
//! are here stay.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use balsa_model::Key;
use balsa_model::strategy::Part;
use balsa_runtime::{Runtime, SimulatedRuntime};
use common::{World, condition, first};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

async fn world(cpu: &str) -> World {
    let mut world = World::new(Arc::new(SimulatedRuntime::new()));
    world.config.capacity.insert("cpu".to_owned(), cpu.to_owned());
    world.start().await;
    told(&world, cpu).await;
    world
}

/// Waits until the Node object tells so many processors.
async fn told(world: &World, cpu: &str) {
    let key = Key::new("", world.config.node_name.as_str());
    let says = |node: Node| node.status?.allocatable?.get("cpu").map(|amount| amount.0 == cpu);
    let told = async {
        while world.client.api::<Node>().find(&key).await.unwrap().and_then(says) != Some(true) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), told).await.unwrap();
}

fn wants(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]})
}

async fn refused(world: &World, name: &str) -> (String, String) {
    let status = world.until(name, "refused", |status| status.phase.as_deref() == Some("Failed")).await;
    (status.reason.unwrap(), status.message.unwrap())
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused_until_there_is_room() {
    let world = world("2").await;
    world.pod("first", wants("1500m")).await;
    world.ready("first").await;
    world.pod("second", wants("1")).await;
    let why = "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
    assert_eq!(refused(&world, "second").await, ("OutOfcpu".to_owned(), format!("Pod was rejected: {why}")));
    let events = world.events().await;
    assert!(events.contains(&("OutOfcpu".to_owned(), why.to_owned())), "{events:?}");
    assert_eq!(world.containers().await, 2, "it has never begun");
    world.delete("first").await;
    world.gone("first").await;
    world.pod("third", wants("1")).await;
    world.ready("third").await;
}

#[tokio::test]
async fn agents_that_are_processes_of_their_own_share_the_ports_of_the_machine() {
    let runtime: Arc<dyn Runtime> = Arc::new(SimulatedRuntime::new());
    let (mut here, mut there) = (World::new(runtime.clone()), World::new(runtime));
    here.start().await;
    there.start().await;
    let at = |port: i32| json!({"containers": [{"name": "c", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": port}]}]});
    here.pod("web", at(80)).await;
    here.ready("web").await;
    there.pod("late", at(80)).await;
    let node = &here.config.node_name;
    let why = format!(
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: \
         TCP port 80 is that of pod default/web on node {node} of this machine"
    );
    assert_eq!(refused(&there, "late").await, ("NodePorts".to_owned(), why));
    there.pod("beside", at(81)).await;
    there.ready("beside").await;
    here.delete("web").await;
    here.gone("web").await;
    there.pod("after", at(80)).await;
    there.ready("after").await;
}

#[tokio::test]
async fn a_label_of_a_moment_ago_counts() {
    let world = world("2").await;
    let selects =
        json!({"containers": [{"name": "c", "image": "web:1"}], "nodeSelector": {"planet": "moon"}});
    world.pod("before", selects.clone()).await;
    assert_eq!(refused(&world, "before").await.0, "NodeAffinity");
    let label = |node: &mut Node| {
        node.metadata.labels.get_or_insert_default().insert("planet".to_owned(), "moon".to_owned());
        true
    };
    let key = Key::new("", world.config.node_name.as_str());
    world.client.api::<Node>().modify(&key, Part::Main, label).await.unwrap();
    world.pod("after", selects).await;
    world.ready("after").await;
}

#[tokio::test]
async fn who_runs_is_not_judged_again_when_the_agent_starts_again() {
    let mut world = world("2").await;
    world.pod("told", wants("1500m")).await;
    let before = first(&world.ready("told").await).container_id;
    world.pod("untold", wants("400m")).await;
    world.ready("untold").await;
    world.stop().await;
    // The server never heard that it had begun.
    let key = Key::new("default", "untold");
    let forget = |pod: &mut Pod| {
        pod.status = None;
        true
    };
    world.client.api::<Pod>().modify(&key, Part::Status, forget).await.unwrap();
    world.config.capacity.insert("cpu".to_owned(), "1".to_owned());
    world.start().await;
    told(&world, "1").await;
    world.pod("late", wants("10m")).await;
    let (_, why) = refused(&world, "late").await;
    assert!(why.ends_with("requested: 10, used: 1900, capacity: 1000"), "{why}");
    for name in ["told", "untold"] {
        let status = world.ready(name).await;
        assert_eq!(
            (condition(&status, "Ready").as_str(), status.phase.as_deref()),
            ("True", Some("Running"))
        );
    }
    assert_eq!(first(&world.ready("told").await).container_id, before);
}
