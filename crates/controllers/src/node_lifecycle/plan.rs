//! The conditions of a silent node, and the taints that follow from conditions. Pure.

use balsa_model::kinds::node;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// On nodes whose Ready condition is False.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// On nodes whose Ready condition is Unknown.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that a silent node can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new pods away, the status that does, and the taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The node with its conditions Unknown; `None` when they are already.
pub(super) fn silent(node: &Node, now: Timestamp) -> Option<Node> {
    let mut changed = node.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut any = false;
    for type_ in VOUCHED {
        let at = conditions.iter().position(|condition| condition.type_ == type_);
        let before = at.map(|at| &conditions[at]);
        if before.is_some_and(|condition| condition.status == "Unknown") {
            continue;
        }
        any = true;
        let (reason, message) = match before {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let condition = NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: before.and_then(|condition| condition.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match at {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    any.then_some(changed)
}

/// The taints that the node should have: those that somebody else has set, and those that follow from
/// its conditions and from `spec.unschedulable`.
pub(super) fn taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let status = |type_: &str| node::condition(node, type_).map_or("", |condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status("Ready") {
        "True" | "" => {}
        "Unknown" => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    for (condition, key) in PRESSURES {
        if status(condition) == "True" {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node::is_unschedulable(node) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, pressure)| *pressure == key)
    };
    // A node that has said nothing yet keeps the taint that it was registered with.
    let unknown_yet = status("Ready").is_empty();
    let keep = |taint: &&Taint| {
        !ours(&taint.key)
            || (unknown_yet && taint.key == NOT_READY)
            || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
    };
    let mut result: Vec<Taint> = node::taints(node).iter().filter(keep).cloned().collect();
    for (key, effect) in wanted {
        if !result.iter().any(|taint| taint.key == key && taint.effect == effect) {
            result.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    result
}

/// Makes a pod not ready; whether it was.
pub(super) fn not_ready(pod: &mut Pod, now: &Time) -> bool {
    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
    let ready = conditions.and_then(|all| all.iter_mut().find(|c| c.type_ == "Ready" && c.status == "True"));
    let Some(ready) = ready else { return false };
    ready.status = "False".to_owned();
    ready.last_transition_time = Some(now.clone());
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn node(ready: &str, extra: &[(&str, &str)]) -> Node {
        let taints: Vec<_> =
            extra.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]},
        }))
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        for (ready, has, expected) in [
            ("True", &[][..], &[][..]),
            ("True", &[(UNREACHABLE, "NoExecute"), ("own", "NoSchedule")], &[("own", "NoSchedule")]),
            ("False", &[], &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
            (
                "Unknown",
                &[(NOT_READY, "NoSchedule"), ("own", "NoExecute")],
                &[("own", "NoExecute"), (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
            ),
        ] {
            let result = taints(&node(ready, has), Timestamp::UNIX_EPOCH);
            let result: Vec<_> = result.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
            assert_eq!(result, expected, "{ready} {has:?}");
        }
    }

    #[test]
    fn silence_is_noted_once() {
        let silent_node = silent(&node("True", &[]), Timestamp::UNIX_EPOCH).unwrap();
        let ready = node::condition(&silent_node, "Ready").unwrap();
        assert_eq!(ready.message.as_deref(), Some("Kubelet stopped posting node status."));
        let memory = node::condition(&silent_node, "MemoryPressure").unwrap();
        assert_eq!(memory.reason.as_deref(), Some("NodeStatusNeverUpdated"));
        assert_eq!(silent(&silent_node, Timestamp::MAX), None);
    }
}
