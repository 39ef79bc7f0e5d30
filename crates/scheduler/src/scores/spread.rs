//! Prefers nodes, and domains of soft spread constraints, that have few pods like this one.

use crate::board::Board;
use crate::filters::count_domains;
use crate::needs::Needs;
use crate::view::NodeView;

/// How many pods like this one each node and its domains have.
pub(super) fn count(pod: &Needs, nodes: &[&NodeView], board: &Board<'_>) -> Vec<i64> {
    let mut counts: Vec<i64> =
        nodes.iter().map(|node| node.groups.get(&pod.group).copied().map_or(0, i64::from)).collect();
    for spread in pod.spread.iter().filter(|spread| !spread.hard) {
        let domains = count_domains(spread, pod, board);
        let most = domains.values().max().copied().unwrap_or(0);
        for (count, node) in counts.iter_mut().zip(nodes) {
            let value = node.labels.get(&spread.topology_key);
            // A node outside of every domain is as bad as the fullest one.
            *count += value.and_then(|value| domains.get(value)).copied().unwrap_or(most);
        }
    }
    counts
}
