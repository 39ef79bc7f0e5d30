//! Taints keep pods away that do not tolerate them.

use balsa_model::fits;

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to the first taint that the pod does not tolerate.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let strict = ["NoSchedule", "NoExecute"];
    if let Some(taint) = fits::untolerated(&node.taints, &pod.tolerations, &strict).next() {
        reasons.push(Reason::Taint(taint.key.clone(), taint.value.clone().unwrap_or_default()));
    }
}
