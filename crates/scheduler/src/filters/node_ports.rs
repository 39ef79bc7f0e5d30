//! Ports of the node itself go to one pod each.

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to nodes where a port that the pod wants is taken.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    if pod.ports.iter().any(|wanted| node.ports.iter().any(|taken| taken.collides(wanted))) {
        reasons.push(Reason::Occupied("node(s) didn't have free ports for the requested pod ports"));
    }
}
