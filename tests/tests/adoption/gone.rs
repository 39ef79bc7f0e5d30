//! A node whose agent dies and never comes back: the cluster notices, its pods are given up, and what runs
//! elsewhere takes their place.

use std::collections::BTreeSet;

use balsa_testkit::{Cluster, Options, images, wait_until};
use serde_json::{Value, json};

use crate::PATIENCE;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// The shortest that a server takes.
const GRACE: &[&str] = &["--node-monitor-grace-period", "20s"];

#[test]
fn pods_of_a_node_that_dies_for_good_are_replaced() {
    let image = images::busybox("1");
    let mut cluster = Cluster::start(Options::apart(2).with(GRACE));
    cluster.apply(&include_str!("gone.yaml").replace("IMAGE", &image));
    for (object, field) in [("deploy/moving-on", "readyReplicas"), ("daemonset/everywhere", "numberReady")] {
        let until = format!("--for=jsonpath={{.status.{field}}}=2");
        cluster.balsa(["wait", object, &until, "--timeout=120s"]).ok();
    }
    let there = pods(&cluster, "moving-on", "e2e-2");
    assert_eq!((there.len(), pods(&cluster, "moving-on", "e2e-1").len()), (1, 1), "one on each node");
    let lost = name(&there[0]).to_owned();

    cluster.kill9_agent("e2e-2");
    the_node_counts_as_dead(&cluster);
    its_pod_is_given_up(&cluster, &lost);
    another_takes_its_place(&cluster, &lost);
    a_daemon_stays_with_its_node(&cluster);
    with_the_node_go_its_pods(&cluster);
    cluster.down();
}

fn pods(cluster: &Cluster, app: &str, node: &str) -> Vec<Value> {
    let path = format!("{PODS}?labelSelector=app%3D{app}&fieldSelector=spec.nodeName%3D{node}");
    cluster.read(&path).unwrap()["items"].as_array().unwrap().clone()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn the_node_counts_as_dead(cluster: &Cluster) {
    let node = wait_until("the node is not ready", PATIENCE, || {
        let node = cluster.read("/api/v1/nodes/e2e-2")?;
        let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| taints.len() == 2);
        let ready = condition(&node, "Ready").clone();
        if ready["status"] == "Unknown" && tainted { Ok(node) } else { Err(ready.to_string()) }
    });
    let ready = condition(&node, "Ready");
    assert_eq!(
        (&ready["reason"], &ready["message"]),
        (&json!("NodeStatusUnknown"), &json!("Kubelet stopped posting node status."))
    );
    let taints = node["spec"]["taints"].as_array().unwrap().iter();
    assert!(taints.clone().all(|taint| taint["key"] == "node.kubernetes.io/unreachable"), "{node}");
    let effects: BTreeSet<&str> = taints.map(|taint| taint["effect"].as_str().unwrap()).collect();
    assert_eq!(effects, BTreeSet::from(["NoExecute", "NoSchedule"]));
    let row = cluster.balsa(["get", "node", "e2e-2", "--no-headers"]).ok();
    assert_eq!(row.split_whitespace().nth(1), Some("NotReady"), "{row}");
    let events = cluster.balsa(["get", "events", "-A"]).ok();
    assert!(events.contains("Node e2e-2 status is now: NodeNotReady"), "{events}");
}

/// Nobody is there to end it: it is marked, and out of its Service.
fn its_pod_is_given_up(cluster: &Cluster, lost: &str) {
    let pod = wait_until("the pod is evicted", PATIENCE, || {
        let pod = cluster.read(&format!("{PODS}/{lost}"))?;
        let marked = pod["metadata"]["deletionTimestamp"].is_string();
        if marked { Ok(pod) } else { Err(pod["metadata"].to_string()) }
    });
    let disrupted = condition(&pod, "DisruptionTarget");
    assert_eq!(
        (&disrupted["status"], &disrupted["reason"]),
        (&json!("True"), &json!("DeletionByTaintManager"))
    );
    assert_eq!(condition(&pod, "Ready")["status"], "False");
    let row = cluster.balsa(["get", "pod", lost, "--no-headers"]).ok();
    assert_eq!(row.split_whitespace().nth(2), Some("Terminating"), "{row}");
}

fn another_takes_its_place(cluster: &Cluster, lost: &str) {
    let both = wait_until("both replicas run on the node that lives", PATIENCE, || {
        let there = pods(cluster, "moving-on", "e2e-1");
        let ready = there.iter().filter(|pod| condition(pod, "Ready")["status"] == "True").count();
        if ready == 2 { Ok(there) } else { Err(format!("{ready} of {}", there.len())) }
    });
    let asked: BTreeSet<&str> = both.iter().map(name).collect();
    assert!(!asked.contains(lost));
    // Often enough that one that is dead would be asked, too.
    let script =
        "for i in $(busybox seq 12); do timeout 5 wget -q -O - http://moving-on/ || echo refused; done";
    wait_until("the service asks those that live", PATIENCE, || {
        let said = cluster.balsa(["exec", name(&both[0]), "--", "sh", "-c", script]).result()?;
        let answered: BTreeSet<&str> = said.lines().collect();
        if answered == asked { Ok(()) } else { Err(format!("{answered:?}")) }
    });
}

/// It bears with the taint, as it would have nowhere else to go.
fn a_daemon_stays_with_its_node(cluster: &Cluster) {
    let there = pods(cluster, "everywhere", "e2e-2");
    assert_eq!(there.len(), 1);
    assert!(there[0]["metadata"]["deletionTimestamp"].is_null(), "{}", there[0]);
    assert_eq!(condition(&there[0], "Ready")["status"], "False", "nobody can say how it is");
}

fn with_the_node_go_its_pods(cluster: &Cluster) {
    cluster.balsa(["delete", "node", "e2e-2"]).ok();
    wait_until("no pod is left of the node", PATIENCE, || {
        let left: Vec<Value> =
            ["moving-on", "everywhere"].iter().flat_map(|app| pods(cluster, app, "e2e-2")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.iter().map(name).collect::<Vec<_>>().join(" ")) }
    });
    let row = cluster.balsa(["get", "deploy", "moving-on", "--no-headers"]).ok();
    assert_eq!(row.split_whitespace().nth(1), Some("2/2"), "{row}");
}
