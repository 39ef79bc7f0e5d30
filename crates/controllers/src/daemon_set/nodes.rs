//! Which nodes a daemon runs on, and the pod that it gets there. Pure.

use balsa_model::fits;
use balsa_model::kinds::node::taints;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::pod_control::pod_of;
use crate::pods;
use crate::revisions::HASH_LABEL;

/// The label that counts templates for clients from before there were revisions.
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
const NAME_FIELD: &str = "metadata.name";

/// What a daemon endures beside what its template says: it is what keeps nodes well.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a daemon belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// It is to run there.
    Yes,
    /// It would not be put there now, but may stay.
    MayStay,
    /// It may not be there.
    No,
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let host = (spec.host_network == Some(true)).then_some(ON_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(host) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Judges a node by what the template asks for.
pub(super) fn belongs(set: &DaemonSet, node: &Node) -> Belongs {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return Belongs::No;
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let named = spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name);
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selector = spec.node_selector.as_ref();
    if !named || !fits::is_selected(selector, fits::required_nodes(spec), name, &labels) {
        return Belongs::No;
    }
    let tolerations = tolerations(spec);
    let hated = |effect: &str| fits::untolerated(taints(node), &tolerations, &[effect]).next().is_some();
    match (hated("NoExecute"), hated("NoSchedule")) {
        (true, _) => Belongs::No,
        (false, true) => Belongs::MayStay,
        (false, false) => Belongs::Yes,
    }
}

/// The pod of a node.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_of(set, &template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION_ANNOTATION)) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let nodes = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    // The node alone: whether it fits the template was judged before.
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NAME_FIELD.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod
}

/// The node that a pod is on, or is tied to; empty for pods of somebody else's making.
pub(super) fn node_of(pod: &Pod) -> &str {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return bound;
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields =
        terms.iter().flat_map(|s| &s.node_selector_terms).flat_map(|t| t.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    names.find_map(|field| field.values.as_ref()?.first()).map_or("", String::as_str)
}
