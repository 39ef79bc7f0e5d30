//! Nodes that are cordoned take only pods that tolerate it.

use balsa_model::kinds::node::tolerates;
use k8s_openapi::api::core::v1::Taint;

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to a node that is cordoned.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    if !node.unschedulable {
        return;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if !pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint)) {
        reasons.push(Reason::Unfit("node(s) were unschedulable"));
    }
}
