//! Volumes: a pod goes where its volumes can be; claims that wait for their first consumer get theirs
//! where the pod goes.

use balsa_model::Key;
use balsa_model::kinds::{persistent_volume, persistent_volume_claim};
use balsa_model::node_selector;
use balsa_model::quantity::Quantity;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::{ClusterView, NodeView};

/// Where the scheduler says to which node a claim's volume is to go.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What the claims of one pod ask of a node.
#[derive(Default)]
pub(crate) struct Volumes {
    /// Where each bound volume can be.
    bound: Vec<NodeSelector>,
    /// Claims that wait for a node.
    waiting: Vec<Key>,
    /// The nodes where an existing volume fits each waiting claim that nobody provisions for.
    fitting: Vec<Vec<Option<NodeSelector>>>,
    /// The node that an earlier run has chosen for a claim.
    chosen: Option<String>,
}

impl Volumes {
    /// Looks at the claims of `pod`; the message says why it cannot go anywhere.
    pub(crate) fn of(pod: &Needs, view: &ClusterView) -> Result<Self, String> {
        let mut volumes = Self::default();
        for name in &pod.claims {
            let key = Key::new(pod.key.namespace.clone(), name.as_str());
            let claim = view.claims.get(&key);
            let Some(claim) = claim.filter(|claim| claim.metadata.deletion_timestamp.is_none()) else {
                return Err(match claim {
                    Some(_) => format!("persistentvolumeclaim \"{name}\" is being deleted"),
                    None => format!("persistentvolumeclaim \"{name}\" not found"),
                });
            };
            volumes.take(key, claim, view)?;
        }
        Ok(volumes)
    }

    fn take(&mut self, key: Key, claim: &PersistentVolumeClaim, view: &ClusterView) -> Result<(), String> {
        let spec = claim.spec.clone().unwrap_or_default();
        let is_bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if let Some(name) = spec.volume_name.as_deref().filter(|name| !name.is_empty() && is_bound) {
            let Some(volume) = view.volumes.get(name) else {
                return Err(format!("persistentvolume \"{name}\" not found"));
            };
            self.bound.extend(affinity(volume));
            return Ok(());
        }
        let class = persistent_volume_claim::class_name(claim).and_then(|name| view.classes.get(name));
        let waits =
            class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
        if !waits || spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let chosen = claim.metadata.annotations.as_ref().and_then(|a| a.get(SELECTED_NODE));
        self.chosen = self.chosen.take().or_else(|| chosen.cloned());
        if class.is_some_and(|class| class.provisioner == NO_PROVISIONER) {
            let volumes = view.volumes.values().filter(|volume| fits(claim, volume));
            self.fitting.push(volumes.map(affinity).collect());
        }
        self.waiting.push(key);
        Ok(())
    }

    /// The claims that wait for a node.
    pub(crate) fn waiting(&self) -> Vec<Key> {
        self.waiting.clone()
    }

    /// Objects to nodes where the volumes cannot be.
    pub(super) fn check(&self, node: &NodeView, reasons: &mut Vec<Reason>) {
        let reaches = |selector: &NodeSelector| node_selector::matches(selector, &node.name, &node.labels);
        if !self.bound.iter().all(reaches) {
            reasons.push(Reason::Unfit("node(s) had volume node affinity conflict"));
        } else if self.chosen.as_ref().is_some_and(|chosen| *chosen != node.name) {
            reasons.push(Reason::Unfit("node(s) didn't match the node selected for its volumes"));
        } else if !self.fitting.iter().all(|places| places.iter().any(|s| s.as_ref().is_none_or(reaches))) {
            reasons.push(Reason::Unfit("node(s) didn't find available persistent volumes to bind"));
        }
    }
}

fn affinity(volume: &PersistentVolume) -> Option<NodeSelector> {
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone()
}

/// Whether a free volume would do for a claim.
fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return false };
    let storage = |list: Option<&std::collections::BTreeMap<String, _>>| {
        list.and_then(|list| list.get("storage")).and_then(Quantity::of)
    };
    let asked = storage(wanted.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    spec.claim_ref.is_none()
        && persistent_volume::class_name(volume)
            == persistent_volume_claim::class_name(claim).unwrap_or_default()
        && storage(spec.capacity.as_ref()) >= asked
        && wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode))
}
