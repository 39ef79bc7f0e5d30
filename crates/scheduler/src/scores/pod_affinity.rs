//! Prefers nodes near the pods that the pod likes and far from those that it does not.

use std::collections::HashMap;

use crate::board::Board;
use crate::needs::Needs;
use crate::view::NodeView;

/// The weights of the preferences that each node meets, once for each pod that meets them.
pub(super) fn count(pod: &Needs, nodes: &[&NodeView], board: &Board<'_>) -> Vec<i64> {
    if pod.preferred.is_empty() {
        return Vec::new();
    }
    let mut sums: HashMap<(&str, &str), i64> = HashMap::new();
    for (weight, term) in &pod.preferred {
        for node in &board.nodes {
            let Some(value) = node.labels.get(&term.topology_key) else { continue };
            let meant =
                node.pods.iter().filter(|other| term.selects(other, |ns| board.view.namespace_labels(ns)));
            let count = i64::try_from(meant.count()).unwrap_or(i64::MAX);
            *sums.entry((&term.topology_key, value)).or_default() += weight.saturating_mul(count);
        }
    }
    let mut keys: Vec<&str> = pod.preferred.iter().map(|(_, term)| term.topology_key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    let one = |node: &&NodeView| {
        let values = keys.iter().filter_map(|key| Some((*key, node.labels.get(*key)?.as_str())));
        values.filter_map(|place| sums.get(&place)).sum()
    };
    nodes.iter().map(one).collect()
}
