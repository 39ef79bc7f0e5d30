//! Prefers nodes without taints that ask to be avoided.

use balsa_model::fits;

use crate::needs::Needs;
use crate::view::NodeView;

/// How many taints each node has that ask to be avoided and that the pod does not tolerate.
pub(super) fn count(pod: &Needs, nodes: &[&NodeView]) -> Vec<i64> {
    let one = |node: &&NodeView| {
        let hated = fits::untolerated(&node.taints, &pod.tolerations, &["PreferNoSchedule"]);
        i64::try_from(hated.count()).unwrap_or(i64::MAX)
    };
    nodes.iter().map(one).collect()
}
