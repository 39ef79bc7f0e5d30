//! Pods that name their node themselves: the node looks whether they fit, and says why they do not.

use serde_json::{Value, json};

use crate::{Node, pod, text};

const SCRIPT: &str = "exec sleep 86400";

pub(crate) fn acts(node: &Node) {
    let name = &node.cluster.node_names()[0];
    let capacity = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
    let cpus: u32 = text(&capacity["status"]["allocatable"]["cpu"]).parse().unwrap();
    let unfit = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    let large = json!({"nodeName": name, "resources": {"requests": {"cpu": "99000"}}});
    let elsewhere = json!({"nodeName": name, "nodeSelector": {"balsa.test/planet": "moon"}});
    for (pod_name, more) in [("too-large", &large), ("elsewhere", &elsewhere)] {
        node.apply(&pod(pod_name, "IMAGE", SCRIPT, more));
    }
    let short = "Node didn't have enough resource: cpu, requested: 99000000, used: ";
    for (pod_name, reason, why) in [("too-large", "OutOfcpu", short), ("elsewhere", "NodeAffinity", unfit)] {
        let refused = node.pod(pod_name, "is refused", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(refused["status"]["reason"], reason);
        let message = text(&refused["status"]["message"]);
        assert!(message.starts_with(&format!("Pod was rejected: {why}")), "{message}");
        if reason == "OutOfcpu" {
            assert!(message.ends_with(&format!(", capacity: {}", cpus * 1000)), "{message}");
        }
        node.event(pod_name, &format!("{reason}: {why}"));
        assert!(node.containers(pod_name).is_empty(), "it has never begun");
        let shown = node.cluster.balsa(["get", "pod", pod_name, "-n", crate::NAMESPACE]).ok();
        assert!(shown.contains(reason), "{shown}");
        node.delete("pods", pod_name);
    }
    // It comes right after the label: word of that may be later than of the pod.
    label(node, name, &json!("moon"));
    node.apply(&pod("at-home", "IMAGE", SCRIPT, &elsewhere));
    node.ready("at-home");
    node.delete("pods", "at-home");
    label(node, name, &json!(null));
}

fn label(node: &Node, name: &str, value: &Value) {
    let patch = json!({"metadata": {"labels": {"balsa.test/planet": value}}});
    let answer =
        node.cluster.patch(&format!("/api/v1/nodes/{name}"), "application/merge-patch+json", &patch).unwrap();
    assert_eq!(answer.code, 200, "{}", answer.body);
}
