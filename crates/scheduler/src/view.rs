//! The cluster as the planner sees it: nodes with what is taken of them, volumes, namespaces.
//!
//! Kept change by change, so that a plan costs what it plans and not what is there. Nodes are shared
//! with the plans made from them; placing a pod copies the one node that it goes to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use balsa_model::Key;
use balsa_model::fits;
use balsa_model::kinds::node;
use balsa_model::kinds::pod::{HostPort, Requests};
use balsa_model::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Taint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::needs::Needs;

/// A node, and what is on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Requests,
    pub(crate) max_pods: i64,
    /// Bytes of each image that is there.
    pub(crate) images: HashMap<String, i64>,
    pub(crate) pods: Vec<Arc<Needs>>,
    pub(crate) requested: Requests,
    pub(crate) weight: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// Its machine's address, if others can reach that: nodes of one machine have the same.
    pub(crate) address: String,
    /// Pods by group.
    pub(crate) groups: HashMap<u64, u32>,
}

impl NodeView {
    fn of(node: &Node) -> Self {
        let mut allocatable = node::allocatable(node);
        let max_pods = fits::max_pods(&mut allocatable);
        let mut images = HashMap::new();
        for image in node.status.iter().flat_map(|status| status.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node::taints(node).to_vec(),
            unschedulable: node::is_unschedulable(node),
            allocatable,
            max_pods,
            images,
            address: address(node),
            ..Self::default()
        }
    }

    /// Puts a pod on it.
    pub(crate) fn add(&mut self, pod: Arc<Needs>) {
        self.requested.add(&pod.requests);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.ports.extend(pod.ports.iter().cloned());
        *self.groups.entry(pod.group).or_default() += 1;
        self.pods.push(pod);
    }

    /// The node without its pods.
    pub(crate) fn emptied(&self) -> Self {
        let mut node = self.clone();
        node.pods.clear();
        (node.requested, node.weight) = (Requests::default(), (0, 0));
        node.ports.clear();
        node.groups.clear();
        node
    }

    fn remove(&mut self, uid: &str) {
        let pods = std::mem::take(&mut self.pods);
        (self.requested, self.weight) = (Requests::default(), (0, 0));
        self.ports.clear();
        self.groups.clear();
        for pod in pods.into_iter().filter(|pod| pod.uid != uid) {
            self.add(pod);
        }
    }
}

fn address(node: &Node) -> String {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut inner = addresses.filter(|address| address.type_ == "InternalIP").map(|address| &address.address);
    let reachable =
        |text: &&String| text.parse::<std::net::IpAddr>().is_ok_and(|address| !address.is_loopback());
    inner.find(reachable).cloned().unwrap_or_default()
}

/// How many of the pods that it means may go just now.
#[derive(Clone)]
pub(crate) struct Budget {
    pub(crate) selector: LabelSelector,
    pub(crate) allowed: i32,
}

/// The cluster as the planner sees it.
#[derive(Clone, Default)]
pub struct ClusterView {
    pub(crate) nodes: Vec<Arc<NodeView>>,
    places: HashMap<String, usize>,
    /// The node of each pod that has one, by UID.
    homes: HashMap<String, String>,
    /// Pods on nodes that nobody has heard of yet.
    strays: HashMap<String, Vec<Arc<Needs>>>,
    /// How many pods keep others away from them; while there are none, nobody looks.
    pub(crate) repelling: usize,
    pub(crate) namespaces: HashMap<String, BTreeMap<String, String>>,
    pub(crate) volumes: HashMap<String, PersistentVolume>,
    pub(crate) claims: HashMap<Key, PersistentVolumeClaim>,
    pub(crate) classes: HashMap<String, StorageClass>,
    pub(crate) budgets: BTreeMap<Key, Budget>,
    /// Pods for which others make way, by UID.
    nominated: HashMap<String, Nomination>,
}

/// A pod for which others make way.
#[derive(Clone)]
struct Nomination {
    node: String,
    pod: Arc<Needs>,
    /// The UIDs of those who do.
    victims: Vec<String>,
}

impl ClusterView {
    /// A node is there, or has changed.
    pub fn set_node(&mut self, node: &Node) {
        let mut view = NodeView::of(node);
        match self.places.get(&view.name) {
            Some(place) => {
                for pod in &self.nodes[*place].pods {
                    view.add(pod.clone());
                }
                self.nodes[*place] = Arc::new(view);
            }
            None => {
                for pod in self.strays.remove(&view.name).unwrap_or_default() {
                    view.add(pod);
                }
                self.places.insert(view.name.clone(), self.nodes.len());
                self.nodes.push(Arc::new(view));
            }
        }
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(place) = self.places.remove(name) else { return };
        let gone = self.nodes.swap_remove(place);
        if let Some(moved) = self.nodes.get(place) {
            self.places.insert(moved.name.clone(), place);
        }
        if !gone.pods.is_empty() {
            self.strays.insert(name.to_owned(), gone.pods.clone());
        }
    }

    /// A pod is on `node`, or is going to be.
    pub fn place_pod(&mut self, pod: Arc<Needs>, node: &str) {
        self.remove_pod(&pod.uid);
        self.homes.insert(pod.uid.clone(), node.to_owned());
        self.repelling += usize::from(!pod.far.is_empty());
        match self.places.get(node) {
            Some(place) => Arc::make_mut(&mut self.nodes[*place]).add(pod),
            None => self.strays.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// A pod is on no node any more.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(home) = self.homes.remove(uid) else { return false };
        let pods = match self.places.get(&home) {
            Some(place) => &self.nodes[*place].pods,
            None => self.strays.get(&home).map_or(&[][..], Vec::as_slice),
        };
        let repels = pods.iter().any(|pod| pod.uid == uid && !pod.far.is_empty());
        self.repelling -= usize::from(repels);
        match self.places.get(&home) {
            Some(place) => Arc::make_mut(&mut self.nodes[*place]).remove(uid),
            None => {
                if let Some(strays) = self.strays.get_mut(&home) {
                    strays.retain(|pod| pod.uid != uid);
                }
            }
        }
        true
    }

    /// Whether a pod has a node, bound or about to be.
    pub fn has_pod(&self, uid: &str) -> bool {
        self.homes.contains_key(uid)
    }

    /// The labels of a namespace; `None`: it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// A volume; `None`: it is gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<PersistentVolume>) {
        match volume {
            Some(volume) => self.volumes.insert(name.to_owned(), volume),
            None => self.volumes.remove(name),
        };
    }

    /// A claim; `None`: it is gone.
    pub fn set_claim(&mut self, key: &Key, claim: Option<PersistentVolumeClaim>) {
        match claim {
            Some(claim) => self.claims.insert(key.clone(), claim),
            None => self.claims.remove(key),
        };
    }

    /// A storage class; `None`: it is gone.
    pub fn set_class(&mut self, name: &str, class: Option<StorageClass>) {
        match class {
            Some(class) => self.classes.insert(name.to_owned(), class),
            None => self.classes.remove(name),
        };
    }

    /// A disruption budget; `None`: it is gone.
    pub fn set_budget(&mut self, key: &Key, budget: Option<&PodDisruptionBudget>) {
        let Some(budget) = budget else {
            self.budgets.remove(key);
            return;
        };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.and_then(|selector| LabelSelector::from_meta(selector).ok());
        let allowed = budget.status.as_ref().map_or(0, |status| status.disruptions_allowed);
        let selector = selector.unwrap_or_else(LabelSelector::nothing);
        self.budgets.insert(key.clone(), Budget { selector, allowed });
    }

    /// Others make way for a pod on that node; nobody of less weight shall take the place. Who they are is known from
    /// before where it is only said again.
    pub fn nominate(&mut self, pod: Arc<Needs>, node: &str, victims: &[Arc<Needs>]) {
        let mut victims: Vec<String> = victims.iter().map(|victim| victim.uid.clone()).collect();
        if let Some(before) = self.nominated.remove(&pod.uid).filter(|before| before.node == node) {
            victims.extend(before.victims);
        }
        self.nominated.insert(pod.uid.clone(), Nomination { node: node.to_owned(), pod, victims });
    }

    /// A pod has its place, or wants none any more.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Where others make way for a pod.
    pub(crate) fn nominated_node(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|nomination| nomination.node.as_str())
    }

    /// Whether a pod makes way for another one than `pod` already.
    pub(crate) fn makes_way(&self, victim: &str, pod: &Needs) -> bool {
        let others = self.nominated.iter().filter(|(uid, _)| **uid != pod.uid);
        others.flat_map(|(_, nomination)| &nomination.victims).any(|named| named == victim)
    }

    /// The pods, not lighter than `pod` and not itself, for whom others make way on a node.
    pub(crate) fn nominated_on<'a>(
        &'a self,
        node: &'a str,
        pod: &'a Needs,
    ) -> impl Iterator<Item = &'a Arc<Needs>> {
        let there = self.nominated.values().filter(move |nomination| nomination.node == node);
        there.map(|nomination| &nomination.pod).filter(|other| {
            other.priority >= pod.priority && other.uid != pod.uid && !self.has_pod(&other.uid)
        })
    }

    /// The labels of a namespace.
    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }
}
