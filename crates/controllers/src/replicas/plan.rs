//! How many pods to create, which to delete, and what the status says. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_model::Key;
use balsa_model::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::Counts;
use crate::owner::key_of;
use crate::pods;

/// The annotation by which people say which pods to delete first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// There are as many as there should be.
    Keep,
    /// So many are missing.
    Create(usize),
    /// These are too many: keys and UIDs.
    Delete(Vec<(Key, String)>),
}

/// Compares what is active with what is wanted.
pub(crate) fn plan(active: &[Arc<Pod>], wanted: usize, now: Timestamp) -> Plan {
    if active.len() < wanted {
        return Plan::Create(wanted - active.len());
    }
    let surplus = active.len() - wanted;
    if surplus == 0 {
        return Plan::Keep;
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in active {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let mut order: Vec<&Arc<Pod>> = active.iter().collect();
    order.sort_by_cached_key(|pod| rank(pod, on_node.get(pods::node_name(pod)).copied().unwrap_or(0), now));
    let victims = order.into_iter().take(surplus);
    Plan::Delete(
        victims.map(|pod| (key_of(&pod.metadata), pod.metadata.uid.clone().unwrap_or_default())).collect(),
    )
}

/// How dear a pod is: the lowest goes first. Unassigned before assigned, pending before unknown before
/// running, not ready before ready, cheap before costly, crowded nodes before empty ones, shortly
/// ready before long ready, often restarted before seldom, young before old.
fn rank(pod: &Pod, beside: usize, now: Timestamp) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    let cost: i32 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let ready_for = pods::ready_since(pod).map_or(0, |since| age_class(since, now));
    let restarts = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let restarts = restarts.map(|status| status.restart_count).max().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or(now);
    (
        !pods::node_name(pod).is_empty(),
        phase,
        pods::is_ready(pod),
        cost,
        Reverse(beside),
        ready_for,
        Reverse(restarts),
        (age_class(created, now), Reverse(created), pod.metadata.name.clone()),
    )
}

/// Ages are compared by their order of magnitude, so that among pods of about one age the choice does
/// not always fall on the same node's.
fn age_class(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
    u64::BITS - seconds.leading_zeros()
}

/// The status that these pods make.
pub(crate) fn count(
    active: &[Arc<Pod>],
    template: Option<&PodTemplateSpec>,
    min_ready: i32,
    now: Timestamp,
) -> Counts {
    let labels =
        template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let template = LabelSelector::from_map(&labels);
    let number = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    Counts {
        replicas: number(&|_| true),
        fully_labeled: number(&|pod| template.matches(pod.metadata.labels.as_ref())),
        ready: number(&pods::is_ready),
        available: number(&|pod| pods::until_available(pod, min_ready, now) == Some(Duration::ZERO)),
        ..Counts::default()
    }
}

/// When the next ready pod becomes available.
pub(crate) fn next_available(active: &[Arc<Pod>], min_ready: i32, now: Timestamp) -> Option<Duration> {
    let waits = active.iter().filter_map(|pod| pods::until_available(pod, min_ready, now));
    waits.filter(|wait| !wait.is_zero()).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2025-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, node: &str, phase: &str, ready: bool, cost: &str, created: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": created,
                         "annotations": {DELETION_COST: cost}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": created}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn victims_are_the_least_useful_pods() {
        let old = "2025-01-01T00:00:00Z";
        let active = [
            pod("old", "a", "Running", true, "", old),
            pod("young", "b", "Running", true, "", "2025-01-01T00:59:00Z"),
            pod("costly", "c", "Running", true, "10", "2025-01-01T00:59:59Z"),
            pod("broken", "d", "Running", false, "", old),
            pod("starting", "e", "Pending", false, "", old),
            pod("waiting", "", "Pending", false, "100", old),
        ];
        let Plan::Delete(victims) = plan(&active, 0, now()) else { panic!("there are too many") };
        let names: Vec<&str> = victims.iter().map(|(_, uid)| uid.as_str()).collect();
        assert_eq!(names, ["waiting", "starting", "broken", "young", "old", "costly"]);
        let Plan::Delete(victims) = plan(&active, 5, now()) else { panic!("there is one too many") };
        assert_eq!(victims, [(Key::new("n", "waiting"), "waiting".to_owned())]);
        assert_eq!(plan(&active, 6, now()), Plan::Keep);
        assert_eq!(plan(&active, 8, now()), Plan::Create(2));
    }

    #[test]
    fn crowded_nodes_give_first() {
        let at = "2025-01-01T00:00:00Z";
        let active = [
            pod("a", "lonely", "Running", true, "", at),
            pod("b", "crowded", "Running", true, "", at),
            pod("c", "crowded", "Running", true, "", at),
        ];
        let Plan::Delete(victims) = plan(&active, 2, now()) else { panic!("there is one too many") };
        assert_eq!(victims[0].1, "b");
    }

    #[test]
    fn available_after_min_ready_seconds() {
        let young = [pod("a", "x", "Running", true, "", "2025-01-01T00:59:50Z")];
        let counts = count(&young, None, 30, now());
        assert_eq!((counts.replicas, counts.ready, counts.available), (1, 1, 0));
        assert_eq!(next_available(&young, 30, now()), Some(Duration::from_secs(20)));
        assert_eq!(count(&young, None, 10, now()).available, 1);
    }
}
