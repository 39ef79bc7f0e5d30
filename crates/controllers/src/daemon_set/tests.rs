//! Tables for the plan of a DaemonSet.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::nodes::{Belongs, belongs, node_of, pod_for};
use super::plan::{Plan, View, plan};

fn set(rolling: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "n", "uid": "d", "annotations":
            {"deprecated.daemonset.template.generation": "3"}},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": rolling,
                 "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [],
                    "nodeSelector": {"kind": "x"}}}}}))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"kind": "x"}}, "spec": {}});
    node.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(node).unwrap())
}

/// `a:old:ready`: a pod of that template on node `a`.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let one = |(place, word): (usize, &str)| {
        let parts: Vec<&str> = word.split(':').collect();
        let phase = if parts[2] == "failed" { "Failed" } else { "Running" };
        let ready = if parts[2] == "ready" { "True" } else { "False" };
        let mut pod = pod_for(&set(json!({})), parts[0], parts[1]);
        pod.metadata.name = Some(word.to_owned());
        pod.metadata.uid = Some(word.to_owned());
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            Timestamp::from_second(i64::try_from(place).unwrap()).unwrap(),
        ));
        pod.status = Some(
            serde_json::from_value(
                json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}),
            )
            .unwrap(),
        );
        Arc::new(pod)
    };
    text.split_whitespace().enumerate().map(one).collect()
}

fn run(set: &DaemonSet, nodes: &[Arc<Node>], there: &str) -> Plan {
    let now = Timestamp::from_second(1000).unwrap();
    plan(&View { set, hash: "new", nodes, pods: &pods(there), doomed: &HashSet::new(), now })
}

fn steps(plan: &Plan) -> Vec<String> {
    let created = plan.create.iter().map(|node| format!("+{node}"));
    created.chain(plan.delete.iter().map(|(_, uid)| format!("-{uid}"))).collect()
}

#[test]
fn nodes_that_want_a_daemon_get_one() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "effect": effect}]}});
    let nodes = [
        node("a", json!({})),
        node("b", taint("NoSchedule")),
        node("c", taint("NoExecute")),
        node("d", json!({"metadata": {"name": "d"}})),
        node(
            "e",
            json!({"spec": {"unschedulable": true, "taints":
            [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
        ),
    ];
    let set = set(rolling(json!(0), json!(1)));
    let judged: Vec<Belongs> = nodes.iter().map(|node| belongs(&set, node)).collect();
    assert_eq!(judged, [Belongs::Yes, Belongs::MayStay, Belongs::No, Belongs::No, Belongs::Yes]);
    assert_eq!(steps(&run(&set, &nodes, "")), ["+a", "+e"]);
    let plan = run(&set, &nodes, "b:new:ready c:new:ready d:new:ready e:new:ready");
    assert_eq!(steps(&plan), ["+a", "-c:new:ready", "-d:new:ready"]);
    let status = plan.status;
    assert_eq!((status.desired_number_scheduled, status.number_misscheduled, status.number_ready), (2, 3, 1));
}

#[test]
fn pods_name_their_node() {
    let pod = pod_for(&set(json!({})), "a", "h");
    assert_eq!(node_of(&pod), "a");
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(
        (labels["controller-revision-hash"].as_str(), labels["pod-template-generation"].as_str()),
        ("h", "3")
    );
    assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
}

#[test]
fn ended_surplus_and_lost_pods_go() {
    let nodes = [node("a", json!({}))];
    let set = set(rolling(json!(0), json!(1)));
    assert_eq!(steps(&run(&set, &nodes, "a:new:failed")), ["-a:new:failed"]);
    assert_eq!(steps(&run(&set, &nodes, "a:new:ready a:new:starting")), ["-a:new:starting"]);
    assert_eq!(steps(&run(&set, &nodes, "a:new:ready gone:new:starting")), ["-gone:new:starting"]);
}

#[test]
fn updates() {
    let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
    for (strategy, there, expected) in [
        (rolling(json!(0), json!(1)), "a:old:ready b:old:ready c:old:ready", &["-a:old:ready"][..]),
        (rolling(json!(0), json!(2)), "a:new:starting b:old:ready c:old:ready", &["-b:old:ready"]),
        (rolling(json!(0), json!(1)), "a:new:starting b:old:ready c:old:ready", &[]),
        (rolling(json!(0), json!(1)), "a:new:starting b:old:starting c:old:ready", &["-b:old:starting"]),
        (
            rolling(json!(0), json!("34%")),
            "a:old:ready b:old:ready c:old:ready",
            &["-a:old:ready", "-b:old:ready"],
        ),
        (json!({"type": "OnDelete"}), "a:old:ready b:old:ready c:old:ready", &[]),
        (rolling(json!(1), json!(0)), "a:old:ready b:old:ready c:old:ready", &["+a"]),
        (rolling(json!(1), json!(0)), "a:old:ready a:new:starting b:old:ready c:old:ready", &[]),
        (rolling(json!(1), json!(0)), "a:old:ready a:new:ready b:old:ready c:old:ready", &["-a:old:ready"]),
        (rolling(json!(1), json!(0)), "a:new:ready b:old:ready c:old:ready", &["+b"]),
    ] {
        assert_eq!(steps(&run(&set(strategy.clone()), &nodes, there)), expected, "{strategy} {there}");
    }
    let status =
        run(&set(json!({"type": "OnDelete"})), &nodes, "a:new:ready b:old:ready c:old:starting").status;
    assert_eq!(
        (status.updated_number_scheduled, status.number_available, status.number_unavailable),
        (Some(1), Some(2), Some(1))
    );
}
