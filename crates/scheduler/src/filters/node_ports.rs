//! Ports of the node itself go to one pod each. Nodes of one machine have one address, and one set of
//! ports between them.

use balsa_model::fits;
use balsa_model::kinds::pod::HostPort;

use crate::board::Board;
use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Where the ports are taken that a pod wants.
pub(super) struct Taken {
    /// Node and address of the machine.
    places: Vec<(String, String)>,
}

impl Taken {
    /// Looks at all nodes, if the pod wants any port.
    pub(super) fn of(pod: &Needs, board: &Board<'_>) -> Self {
        let taken = |node: &&std::sync::Arc<NodeView>| is_taken(&pod.ports, &node.ports);
        let nodes = board.nodes.iter().filter(|node| !pod.ports.is_empty() && !node.address.is_empty());
        let places = nodes.filter(taken).map(|node| (node.name.clone(), node.address.clone()));
        Self { places: places.collect() }
    }

    /// Objects to nodes where a port that the pod wants is taken, there or by a neighbour on the machine.
    pub(super) fn check(&self, pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
        let neighbour = |(name, address): &(String, String)| *name != node.name && *address == node.address;
        // The node itself is asked anew: it may be shown without some of its pods.
        if is_taken(&pod.ports, &node.ports) || self.places.iter().any(neighbour) {
            reasons.push(Reason::Occupied(fits::NO_FREE_PORTS));
        }
    }
}

fn is_taken(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    wanted.iter().any(|wanted| taken.iter().any(|taken| taken.collides(wanted)))
}
