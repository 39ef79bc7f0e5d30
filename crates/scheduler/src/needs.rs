//! A pod as the planner sees it: what it needs of a node, worked out once a version of the pod.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use balsa_model::Key;
use balsa_model::claims::claims_of;
use balsa_model::kinds::pod::{self, HostPort, Requests};
use balsa_model::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NodeSelector, Pod, PodAffinityTerm, PodSpec, PreferredSchedulingTerm, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What the planner assumes for scoring of a pod that asks for nothing: a tenth of a processor and
/// 200 MiB, so that such pods spread out too.
const ASSUMED_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 * 1024 * 1024;

/// Other pods that a pod wants near it, or far away.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    selector: LabelSelector,
    namespaces: Vec<String>,
    /// Namespaces by their labels, beside those named.
    namespace_selector: Option<LabelSelector>,
    /// The label of nodes that says what "near" means.
    pub(crate) topology_key: String,
}

impl Neighbours {
    fn of(term: &PodAffinityTerm, meta: &ObjectMeta) -> Self {
        let select = |s| LabelSelector::from_meta(s).unwrap_or_else(|_| LabelSelector::nothing());
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(meta.namespace.clone());
        }
        Self {
            selector: term.label_selector.as_ref().map_or_else(LabelSelector::nothing, select),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(select),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether it means that pod. `labels_of` tells the labels of a namespace.
    pub(crate) fn selects<'a>(
        &self,
        pod: &Needs,
        labels_of: impl Fn(&str) -> Option<&'a BTreeMap<String, String>>,
    ) -> bool {
        let namespace = &*pod.key.namespace;
        let in_reach = self.namespaces.iter().any(|name| name == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels_of(namespace)));
        in_reach && self.selector.matches(Some(&pod.labels))
    }
}

/// How evenly pods are to be spread.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) selector: LabelSelector,
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    /// Whether a node that breaks it is out of question, or just worse.
    pub(crate) hard: bool,
}

impl Spread {
    fn of(constraint: &TopologySpreadConstraint) -> Self {
        let select = |s| LabelSelector::from_meta(s).unwrap_or_else(|_| LabelSelector::nothing());
        Self {
            selector: constraint.label_selector.as_ref().map_or_else(LabelSelector::nothing, select),
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew.max(1)),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            hard: constraint.when_unsatisfiable != "ScheduleAnyway",
        }
    }
}

/// A pod as the planner sees it.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Which pod.
    pub key: Key,
    /// Its UID.
    pub uid: String,
    /// The higher, the earlier it is placed.
    pub priority: i32,
    /// Whether others of lower priority may have to make way for it.
    pub(crate) preempts: bool,
    /// Whether it is on its way out.
    pub(crate) leaving: bool,
    /// When it started.
    pub(crate) started: Option<Timestamp>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Who made it, or what it is like: pods with the same mark are spread.
    pub(crate) group: u64,
    /// The node that it names, or is on.
    pub(crate) node: String,
    pub(crate) requests: Requests,
    /// What scoring counts: the requests, or what is assumed where there are none.
    pub(crate) weight: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) required_nodes: Option<NodeSelector>,
    pub(crate) preferred_nodes: Vec<PreferredSchedulingTerm>,
    pub(crate) near: Vec<Neighbours>,
    pub(crate) far: Vec<Neighbours>,
    /// Weights above zero pull, below push.
    pub(crate) preferred: Vec<(i64, Neighbours)>,
    pub(crate) spread: Vec<Spread>,
    pub(crate) claims: Vec<String>,
    pub(crate) images: Vec<String>,
}

impl Needs {
    /// Works out what `pod` needs.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let requests = pod::held_requests(pod);
        let assumed = |asked: i64, otherwise: i64| if asked > 0 { asked } else { otherwise };
        let mut needs = Self {
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            priority: pod::priority(pod),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            leaving: pod::is_deleting(pod),
            started: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            labels: meta.labels.clone().unwrap_or_default(),
            group: group_of(meta),
            node: spec.node_name.clone().unwrap_or_default(),
            weight: (assumed(requests.cpu_milli, ASSUMED_CPU), assumed(requests.memory, ASSUMED_MEMORY)),
            requests,
            ports: pod::host_ports(pod),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            spread: spec.topology_spread_constraints.iter().flatten().map(Spread::of).collect(),
            claims: claims_of(pod).collect(),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            ..Self::default()
        };
        needs.take_affinity(spec, meta);
        needs
    }

    fn take_affinity(&mut self, spec: &PodSpec, meta: &ObjectMeta) {
        let Some(affinity) = &spec.affinity else { return };
        if let Some(nodes) = &affinity.node_affinity {
            self.required_nodes.clone_from(&nodes.required_during_scheduling_ignored_during_execution);
            self.preferred_nodes =
                nodes.preferred_during_scheduling_ignored_during_execution.clone().unwrap_or_default();
        }
        if let Some(near) = &affinity.pod_affinity {
            let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.near = required.map(|term| Neighbours::of(term, meta)).collect();
            for term in near.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                self.preferred.push((i64::from(term.weight), Neighbours::of(&term.pod_affinity_term, meta)));
            }
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.far = required.map(|term| Neighbours::of(term, meta)).collect();
            for term in far.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                self.preferred.push((-i64::from(term.weight), Neighbours::of(&term.pod_affinity_term, meta)));
            }
        }
    }
}

fn group_of(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    meta.namespace.hash(&mut hasher);
    match meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid.hash(&mut hasher),
        None => meta.labels.hash(&mut hasher),
    }
    hasher.finish()
}
