//! Whether a node will do for a pod, as the scheduler, the controllers and the node's own agent judge it alike.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, PodSpec, Taint, Toleration};

use crate::kinds::node::tolerates;
use crate::kinds::pod::Requests;
use crate::node_selector;

/// What is said of a node that the pod does not select.
pub const UNSELECTED: &str = "node(s) didn't match Pod's node affinity/selector";
/// What is said of a node where a port that the pod wants is taken.
pub const NO_FREE_PORTS: &str = "node(s) didn't have free ports for the requested pod ports";

/// How many pods a node takes that does not say.
const DEFAULT_PODS: i64 = 110;

/// What a node has, and what is taken of it.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// How many pods are there, and how many may be.
    pub pods: (i64, i64),
    /// What there is for pods.
    pub capacity: &'a Requests,
    /// What pods have of it.
    pub used: &'a Requests,
}

/// A resource that there is too little of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Its name; `pods` when there are too many of them.
    pub resource: String,
    /// How much is asked for.
    pub requested: i64,
    /// How much others have.
    pub used: i64,
    /// How much there is.
    pub capacity: i64,
}

/// The number of pods that a node takes, taken out of the amounts that it announces.
pub fn max_pods(allocatable: &mut Requests) -> i64 {
    allocatable.other.remove("pods").unwrap_or(DEFAULT_PODS)
}

/// What there is too little of for another pod.
pub fn shortages(asked: &Requests, room: Room<'_>) -> Vec<Shortage> {
    let mut found = Vec::new();
    let mut check = |resource: &str, requested: i64, capacity: i64, used: i64| {
        if requested != 0 && requested > capacity.saturating_sub(used) {
            found.push(Shortage { resource: resource.to_owned(), requested, used, capacity });
        }
    };
    let (used, has) = (room.used, room.capacity);
    check("pods", 1, room.pods.1, room.pods.0);
    check("cpu", asked.cpu_milli, has.cpu_milli, used.cpu_milli);
    check("memory", asked.memory, has.memory, used.memory);
    check("ephemeral-storage", asked.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &asked.other {
        let of = |list: &BTreeMap<String, i64>| list.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&has.other), of(&used.other));
    }
    found
}

/// The node affinity that must hold, if a pod has one.
pub fn required_nodes(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether a `nodeSelector` and a required affinity mean a node of that name and with these labels.
pub fn is_selected(
    selector: Option<&BTreeMap<String, String>>,
    required: Option<&NodeSelector>,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| node_selector::matches(required, name, labels))
}

/// The taints of these effects that nothing tolerates.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &'a [Toleration],
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let strict = taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    strict.filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_pod_needs_room_for_everything_that_it_asks_for() {
        let amounts = |cpu_milli, memory, gpus| Requests {
            cpu_milli,
            memory,
            other: [("example.com/gpu".to_owned(), gpus)].into(),
            ..Requests::default()
        };
        let (capacity, used) = (amounts(2000, 100, 1), amounts(500, 90, 1));
        let short = |asked: &Requests, pods| {
            let found = shortages(asked, Room { pods: (pods, 3), capacity: &capacity, used: &used });
            let told = |s: Shortage| format!("{} {} {} {}", s.resource, s.requested, s.used, s.capacity);
            found.into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(short(&amounts(1500, 10, 0), 2), [""; 0]);
        assert_eq!(short(&amounts(1501, 10, 0), 3), ["pods 1 3 3", "cpu 1501 500 2000"]);
        assert_eq!(short(&amounts(0, 11, 1), 0), ["memory 11 90 100", "example.com/gpu 1 1 1"]);
        // Also where too much is taken already: who asks for nothing takes none of it.
        let over = amounts(9000, 900, 9);
        assert_eq!(
            shortages(&Requests::default(), Room { pods: (0, 1), capacity: &capacity, used: &over }),
            []
        );
    }

    #[test]
    fn selectors_and_affinity_must_both_mean_the_node() {
        let labels: BTreeMap<_, _> = [("disk".to_owned(), "ssd".to_owned())].into();
        let wanted: BTreeMap<_, _> = [("disk".to_owned(), "hdd".to_owned())].into();
        let named: NodeSelector = from_value(json!({"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}))
        .unwrap();
        assert!(is_selected(None, None, "b", &labels));
        assert!(is_selected(Some(&labels), Some(&named), "a", &labels));
        assert!(!is_selected(Some(&labels), Some(&named), "b", &labels));
        assert!(!is_selected(Some(&wanted), None, "a", &labels));
    }

    #[test]
    fn taints_are_asked_for_by_effect() {
        let taints: Vec<Taint> = from_value(json!([
            {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}, {"key": "c", "effect": "NoExecute"}]))
        .unwrap();
        let tolerations: Vec<Toleration> = from_value(json!([{"key": "b", "operator": "Exists"}])).unwrap();
        let keys = |effects: &[&str]| {
            untolerated(&taints, &tolerations, effects).map(|taint| taint.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&["NoExecute"]), ["c"]);
        assert_eq!(keys(&["NoSchedule", "NoExecute"]), ["a", "c"]);
    }
}
