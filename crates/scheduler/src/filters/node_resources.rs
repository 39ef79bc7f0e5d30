//! A node gives what it has once.

use balsa_model::fits::{self, Room};

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to nodes that have too little left; names every resource that is short.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    let room = Room { pods: (count, node.max_pods), capacity: &node.allocatable, used: &node.requested };
    reasons.extend(fits::shortages(&pod.requests, room).into_iter().map(|short| match short.resource {
        pods if pods == "pods" => Reason::Occupied("Too many pods"),
        resource if short.requested > short.capacity => Reason::TooSmall(resource),
        resource => Reason::Insufficient(resource),
    }));
}
