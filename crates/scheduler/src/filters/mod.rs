//! Filters: which nodes are out of question for a pod. One file each, in the order in which they are
//! asked; the first that objects is the one that explains.

mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod pod_affinity;
mod taint_toleration;
mod topology_spread;
pub(crate) mod volume_binding;

pub(crate) use topology_spread::count as count_domains;

use crate::board::Board;
use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// What the filters have worked out about one pod before they look at nodes.
pub(crate) struct Prepared {
    volumes: volume_binding::Volumes,
    neighbours: pod_affinity::Neighbourhood,
    domains: topology_spread::Domains,
    ports: node_ports::Taken,
}

impl Prepared {
    /// Looks at the board once for the pod; the message says why no node can do.
    pub(crate) fn new(pod: &Needs, board: &Board<'_>) -> Result<Self, String> {
        Ok(Self {
            volumes: volume_binding::Volumes::of(pod, board.view)?,
            neighbours: pod_affinity::Neighbourhood::of(pod, board),
            domains: topology_spread::Domains::of(pod, board),
            ports: node_ports::Taken::of(pod, board),
        })
    }

    /// The claims of the pod that wait for it to have a node.
    pub(crate) fn waiting_claims(&self) -> Vec<balsa_model::Key> {
        self.volumes.waiting()
    }
}

/// Whether `node` will do for `pod`; why not goes to `reasons`.
pub(crate) fn check(pod: &Needs, node: &NodeView, prepared: &Prepared, reasons: &mut Vec<Reason>) -> bool {
    node_unschedulable::check(pod, node, reasons);
    if reasons.is_empty() {
        node_name::check(pod, node, reasons);
    }
    if reasons.is_empty() {
        taint_toleration::check(pod, node, reasons);
    }
    if reasons.is_empty() {
        node_affinity::check(pod, node, reasons);
    }
    if reasons.is_empty() {
        prepared.ports.check(pod, node, reasons);
    }
    if reasons.is_empty() {
        node_resources::check(pod, node, reasons);
    }
    if reasons.is_empty() {
        prepared.volumes.check(node, reasons);
    }
    if reasons.is_empty() {
        prepared.domains.check(pod, node, reasons);
    }
    if reasons.is_empty() {
        prepared.neighbours.check(pod, node, reasons);
    }
    reasons.is_empty()
}
