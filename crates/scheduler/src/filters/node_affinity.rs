//! `nodeSelector` and the required node affinity.

use balsa_model::node_selector;

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to nodes that the pod does not select.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = pod.required_nodes.as_ref();
    if !selected || required.is_some_and(|s| !node_selector::matches(s, &node.name, &node.labels)) {
        reasons.push(Reason::Unfit("node(s) didn't match Pod's node affinity/selector"));
    }
}
