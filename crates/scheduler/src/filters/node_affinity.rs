//! `nodeSelector` and the required node affinity.

use balsa_model::fits;

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to nodes that the pod does not select.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let required = pod.required_nodes.as_ref();
    if !fits::is_selected(Some(&pod.node_selector), required, &node.name, &node.labels) {
        reasons.push(Reason::Unfit(fits::UNSELECTED));
    }
}
