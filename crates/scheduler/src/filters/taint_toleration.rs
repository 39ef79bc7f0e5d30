//! Taints keep pods away that do not tolerate them.

use balsa_model::kinds::node::tolerates;

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to the first taint that the pod does not tolerate.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let strict =
        node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let mut hated =
        strict.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    if let Some(taint) = hated.next() {
        reasons.push(Reason::Taint(taint.key.clone(), taint.value.clone().unwrap_or_default()));
    }
}
