//! kill -9 in the middle of a rollout, of the server, of the agent, and of both: the containers go on
//! running, and after a restart the rollout completes, no container of a healthy pod was started again for
//! it, and no acknowledged object is missing. And an agent that is asked to stop and comes back, and
//! one that never does: its pods run elsewhere.
#![allow(clippy::unwrap_used)]

mod asked;
mod gone;
mod ledger;

use std::collections::BTreeSet;
use std::time::Duration;

use balsa_testkit::{Cluster, Container, Options, containers, docker, get, images, wait_until};
use http::Method;
use serde_json::{Value, json};

use ledger::Ledger;

const NAMESPACE: &str = "adoption";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/adoption/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/adoption/replicasets";
const PODS: &str = "/api/v1/namespaces/adoption/pods";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_rollout_survives_the_death_of_all_in_one_process() {
    let (first, second) = (images::busybox("1"), images::busybox("2"));
    let mut cluster = Cluster::start(Options::nodes(1));
    apply(&cluster, &first);
    a_rollout_survives(&mut cluster, &second, Cluster::kill9);
    put_away(cluster);
}

#[test]
fn a_rollout_survives_the_death_of_server_and_agent_each_and_both() {
    let (first, second) = (images::busybox("1"), images::busybox("2"));
    let mut cluster = Cluster::start(Options::apart(1));
    apply(&cluster, &first);
    a_rollout_survives(&mut cluster, &second, Cluster::kill9_server);
    a_rollout_survives(&mut cluster, &first, Cluster::kill9_agents);
    a_rollout_survives(&mut cluster, &second, Cluster::kill9);
    what_dies_is_restarted_without_a_server(&mut cluster);
    put_away(cluster);
}

fn apply(cluster: &Cluster, image: &str) {
    cluster.apply(&include_str!("apps.yaml").replace("IMAGE", image));
    rolled_out(cluster, "moving");
    rolled_out(cluster, "resting");
}

fn a_rollout_survives(cluster: &mut Cluster, image: &str, kill: fn(&mut Cluster)) {
    let ledger = Ledger::start(cluster.rest());
    let before = halfway(cluster, image);
    ledger.grows();
    kill(cluster);
    assert!(before.is_subset(&running(cluster)), "containers died with balsa: {before:?}");
    cluster.restart();
    rolled_out(cluster, "moving");
    rolled_out(cluster, "resting");
    only_replaced_ones_are_gone(cluster, &before);
    nothing_was_restarted(cluster, image);
    ledger.grows();
    ledger.stop().is_kept(cluster);
}

/// Starts a rollout and waits until some pods are new and ready, and some are not yet replaced; the
/// containers that belong to ready pods.
fn halfway(cluster: &Cluster, image: &str) -> BTreeSet<Container> {
    let containers = json!([{"name": "app", "image": image}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let path = format!("{DEPLOYMENTS}/moving");
    let patched = cluster.patch(&path, "application/strategic-merge-patch+json", &patch).unwrap();
    assert_eq!(patched.code, 200, "{}", patched.body);
    wait_until("the rollout is halfway", PATIENCE, || {
        let sets = items(cluster, SETS)?;
        let ready = |set: &&Value| set["status"]["readyReplicas"].as_i64() > Some(0);
        let ready = sets.iter().filter(|set| name(set).starts_with("moving")).filter(ready).count();
        if ready == 2 { Ok(()) } else { Err(format!("{ready} ReplicaSets have ready pods")) }
    });
    let pods = items(cluster, PODS).unwrap();
    let healthy = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let healthy: BTreeSet<_> = pods.iter().filter(healthy).map(name).collect();
    let before: BTreeSet<_> =
        running(cluster).into_iter().filter(|one| healthy.contains(one.pod.as_str())).collect();
    for deployment in ["moving", "resting"] {
        assert!(before.iter().any(|container| container.pod.starts_with(deployment)), "{before:?}");
    }
    before
}

fn only_replaced_ones_are_gone(cluster: &Cluster, before: &BTreeSet<Container>) {
    let after = running(cluster);
    let pods = items(cluster, PODS).unwrap();
    let replaced =
        |one: &Container| one.pod.starts_with("moving") && pods.iter().all(|pod| name(pod) != one.pod);
    for container in before {
        let kept = after.contains(container) || replaced(container);
        assert!(kept, "{container:?} was started again; there are {after:?}");
    }
    let moved = before.iter().any(|one| one.pod.starts_with("moving") && after.contains(one));
    assert!(moved, "none of the new pods of before is among {after:?}");
}

fn nothing_was_restarted(cluster: &Cluster, image: &str) {
    for pod in items(cluster, PODS).unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
        if name(&pod).starts_with("moving") {
            assert_eq!(pod["spec"]["containers"][0]["image"], image, "{pod}");
        }
    }
}

/// The agent needs no server for what it knows already.
fn what_dies_is_restarted_without_a_server(cluster: &mut Cluster) {
    let of_resting = |one: &Container| one.pod.starts_with("resting") && one.name == "app";
    let victim = running(cluster).into_iter().find(of_resting).unwrap();
    let agent = cluster.agent("e2e-1").unwrap();
    assert_eq!(get(agent, "/readyz").unwrap(), "ok");
    cluster.kill9_server();
    docker(["kill", &victim.id]).ok();
    wait_until("the agent starts the container again by itself", PATIENCE, || {
        let all = containers(&cluster.node_name(), NAMESPACE);
        let again = |one: &Container| one.pod == victim.pod && one.name == "app" && one.running;
        if all.iter().any(again) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    wait_until("the agent says that it can be given no work", PATIENCE, || match get(agent, "/readyz") {
        Err(head) if head.contains("500") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(get(agent, "/healthz").unwrap(), "ok", "for that it need not be started anew");
    cluster.restart();
    wait_until("the agent can be given work", PATIENCE, || get(agent, "/readyz"));
    wait_until("the server is told", PATIENCE, || {
        let pod = cluster.read(&format!("{PODS}/{}", victim.pod))?;
        if pod["status"]["containerStatuses"][0]["restartCount"] == 1 { Ok(()) } else { Err(pod.to_string()) }
    });
}

fn put_away(cluster: Cluster) {
    cluster.balsa(["delete", "namespace", NAMESPACE, "--timeout=180s"]).ok();
    cluster.down();
}

fn running(cluster: &Cluster) -> BTreeSet<Container> {
    let of_namespace = containers(&cluster.node_name(), NAMESPACE);
    of_namespace.into_iter().filter(|container| container.running).collect()
}

fn items(cluster: &Cluster, path: &str) -> Result<Vec<Value>, String> {
    let list = cluster.request(Method::GET, path, &Value::Null)?.body;
    list["items"].as_array().cloned().ok_or_else(|| list.to_string())
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

#[track_caller]
fn rolled_out(cluster: &Cluster, deployment: &str) {
    wait_until(&format!("{deployment} is rolled out"), PATIENCE, || {
        let object = cluster.read(&format!("{DEPLOYMENTS}/{deployment}"))?;
        let (wanted, status) = (&object["spec"]["replicas"], &object["status"]);
        let seen = status["observedGeneration"] == object["metadata"]["generation"];
        let counts = ["replicas", "updatedReplicas", "availableReplicas"];
        // Old pods may still be ending.
        let pods = items(cluster, &format!("{PODS}?labelSelector=app%3D{deployment}"))?;
        let done = seen && counts.iter().all(|count| &status[count] == wanted) && *wanted == pods.len();
        if done { Ok(()) } else { Err(format!("{status} with {} pods", pods.len())) }
    });
}
