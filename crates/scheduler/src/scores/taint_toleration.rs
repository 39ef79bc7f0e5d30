//! Prefers nodes without taints that ask to be avoided.

use balsa_model::kinds::node::tolerates;

use crate::needs::Needs;
use crate::view::NodeView;

/// How many taints each node has that ask to be avoided and that the pod does not tolerate.
pub(super) fn count(pod: &Needs, nodes: &[&NodeView]) -> Vec<i64> {
    let one = |node: &&NodeView| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let hated =
            soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
        i64::try_from(hated.count()).unwrap_or(i64::MAX)
    };
    nodes.iter().map(one).collect()
}
