//! kill -9 of everything in the middle of a rollout: the containers go on running, and after a restart
//! the rollout completes, and no container of a healthy pod was started again for it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use balsa_testkit::{Cluster, Container, Options, containers, images, wait_until};

const NAMESPACE: &str = "adoption";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_rollout_survives_the_death_of_server_and_agent() {
    let (first, second) = (images::busybox("1"), images::busybox("2"));
    let mut cluster = Cluster::start(Options::nodes(1));
    let node = cluster.node_names().remove(0);
    let running = || -> BTreeSet<Container> {
        containers(&node, NAMESPACE).into_iter().filter(|container| container.running).collect()
    };
    cluster.apply(&include_str!("adoption/apps.yaml").replace("IMAGE", &first));
    rolled_out(&cluster, "moving");
    rolled_out(&cluster, "resting");

    let image = format!("app={second}");
    cluster.kubectl(["-n", NAMESPACE, "set", "image", "deployment/moving", &image]).ok();
    wait_until("the rollout is halfway", PATIENCE, || halfway(&cluster));
    let healthy = ready_pods(&cluster);
    let before: BTreeSet<_> = running().into_iter().filter(|one| healthy.contains(&one.pod)).collect();
    assert!(before.iter().any(|container| container.pod.starts_with("resting")), "{before:?}");
    cluster.kill9();
    assert!(before.is_subset(&running()), "containers died with balsa: {before:?}");

    cluster.restart();
    rolled_out(&cluster, "moving");
    rolled_out(&cluster, "resting");
    let replaced = |one: &Container| {
        let pod = format!("pod/{}", one.pod);
        cluster.kubectl(["-n", NAMESPACE, "get", &pod]).code != 0
    };
    let after = running();
    for container in &before {
        let kept = after.contains(container) || (container.pod.starts_with("moving") && replaced(container));
        assert!(kept, "{container:?} was started again; there are {after:?}");
    }
    assert!(
        before.iter().any(|one| one.pod.starts_with("moving") && after.contains(one)),
        "{before:?} {after:?}"
    );
    nothing_was_restarted(&cluster, &second);

    cluster.kubectl(["delete", "namespace", NAMESPACE, "--timeout=180s"]).ok();
    cluster.down();
}

/// Some pods are new and ready, some are not yet replaced.
fn halfway(cluster: &Cluster) -> Result<(), String> {
    let status = "{.status.updatedReplicas} {.status.replicas} {.status.readyReplicas}";
    let status = cluster.value(NAMESPACE, "deployment/moving", status)?;
    let revisions =
        cluster.value(NAMESPACE, "replicasets", "{.items[?(@.status.readyReplicas>0)].metadata.name}")?;
    let moving = revisions.split(' ').filter(|name| name.starts_with("moving")).count();
    if moving == 2 { Ok(()) } else { Err(format!("{status}; with ready pods: {revisions}")) }
}

fn ready_pods(cluster: &Cluster) -> BTreeSet<String> {
    let path = "{range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name} {end}";
    let names = cluster.value(NAMESPACE, "pods", path).unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

fn nothing_was_restarted(cluster: &Cluster, image: &str) {
    let path = "{.items[*].status.containerStatuses[*].restartCount}";
    let counts = cluster.value(NAMESPACE, "pods", path).unwrap();
    assert!(counts.split(' ').all(|count| count == "0"), "restart counts: {counts}");
    let path = "{.items[?(@.metadata.labels.app==\"moving\")].spec.containers[0].image}";
    let images = cluster.value(NAMESPACE, "pods", path).unwrap();
    assert!(images.split(' ').all(|one| one == image), "images after the rollout: {images}");
}

#[track_caller]
fn rolled_out(cluster: &Cluster, name: &str) {
    let deployment = format!("deployment/{name}");
    cluster.kubectl(["-n", NAMESPACE, "rollout", "status", &deployment, "--timeout=180s"]).ok();
    // Old pods may still be ending.
    wait_until("only the wanted pods are left", PATIENCE, || {
        let label = format!("app={name}");
        let pods = cluster.kubectl(["-n", NAMESPACE, "get", "pods", "-l", &label, "-o", "name"]).result()?;
        let wanted = cluster.value(NAMESPACE, &deployment, "{.spec.replicas}")?;
        if pods.lines().count().to_string() == wanted { Ok(()) } else { Err(pods) }
    });
}
