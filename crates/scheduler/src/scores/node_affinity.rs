//! Prefers nodes that the pod prefers.

use balsa_model::node_selector::matches_term;

use crate::needs::Needs;
use crate::view::NodeView;

/// The weights of the preferences that each node meets.
pub(super) fn count(pod: &Needs, nodes: &[&NodeView]) -> Vec<i64> {
    if pod.preferred_nodes.is_empty() {
        return Vec::new();
    }
    let one = |node: &&NodeView| {
        let met =
            pod.preferred_nodes.iter().filter(|p| matches_term(&p.preference, &node.name, &node.labels));
        met.map(|preference| i64::from(preference.weight)).sum()
    };
    nodes.iter().map(one).collect()
}
