//! A pod that names its node goes there and nowhere else.

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to every node but the one that the pod names.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    if !pod.node.is_empty() && pod.node != node.name {
        reasons.push(Reason::Unfit("node(s) didn't match the requested node name"));
    }
}
