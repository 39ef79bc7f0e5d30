//! Which volume fits a claim, and what a provisioned one looks like. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_model::Key;
use balsa_model::kinds::{persistent_volume, persistent_volume_claim};
use balsa_model::node_selector;
use balsa_model::quantity::Quantity;
use balsa_model::selector::LabelSelector;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
    VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{CLEANUP, PROVISIONER, VOLUME_PROTECTION};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// By whom a volume was made.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The key of the claim that a volume names.
pub(super) fn key_of_reference(claim: &ObjectReference) -> Key {
    Key::new(claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default())
}

/// How a volume names its claim.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Whether a volume is promised to that claim, by an administrator or by us.
pub(super) fn is_promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(has) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = has.uid.as_deref().unwrap_or_default();
    has.namespace == claim.metadata.namespace
        && has.name == claim.metadata.name
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

fn storage(list: Option<&BTreeMap<String, ApiQuantity>>) -> Option<Quantity> {
    list.and_then(|list| list.get("storage")).and_then(Quantity::of)
}

fn asked(spec: &PersistentVolumeClaimSpec) -> Option<Quantity> {
    storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The capacity that a volume is to have when its claim asks for more than it has. Only the built-in
/// provisioner's volumes grow by being told so: they are directories, which have no size of their own.
pub(super) fn growth(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Option<BTreeMap<String, ApiQuantity>> {
    let maker = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)?;
    let (wanted, has) = (claim.spec.as_ref()?, volume.spec.as_ref()?.capacity.as_ref());
    let grows = maker == PROVISIONER && asked(wanted) > storage(has);
    wanted.resources.as_ref()?.requests.clone().filter(|_| grows)
}

/// The volume that fits a claim best: one promised to it, else the smallest that is large enough.
/// `node` is where it must be reachable.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    node: Option<&Node>,
) -> Option<&'a PersistentVolume> {
    let usable = || volumes.iter().filter(|volume| volume.metadata.deletion_timestamp.is_none());
    if let Some(promised) = usable().find(|volume| is_promised(volume, claim)) {
        return Some(promised);
    }
    let fitting = usable().filter(|volume| fits(claim, volume, node));
    fitting
        .min_by_key(|volume| {
            (storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref())), &volume.metadata.name)
        })
        .map(|volume| &**volume)
}

fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume, node: Option<&Node>) -> bool {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let selected = wanted.selector.as_ref().is_none_or(|selector| {
        LabelSelector::from_meta(selector).is_ok_and(|s| s.matches(volume.metadata.labels.as_ref()))
    });
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let reachable = match (required, node) {
        (Some(required), Some(node)) => node_selector::selects(required, node),
        _ => true,
    };
    spec.claim_ref.is_none()
        && persistent_volume::class_name(volume)
            == persistent_volume_claim::class_name(claim).unwrap_or_default()
        && mode(&spec.volume_mode) == mode(&wanted.volume_mode)
        && storage(spec.capacity.as_ref()) >= asked(wanted)
        && wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && selected
        && reachable
}

/// The default class: the youngest of those that say so.
pub(super) fn default_class(classes: &[Arc<StorageClass>]) -> Option<&StorageClass> {
    let says_so = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|a| a.get("storageclass.kubernetes.io/is-default-class"))
            .is_some_and(|v| v == "true")
    };
    classes
        .iter()
        .filter(says_so)
        .max_by_key(|class| class.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .map(|class| &**class)
}

/// The volume that the built-in provisioner makes for a claim on a node.
pub(super) fn provisioned(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
    directory: &str,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let node_name = node.metadata.name.clone().unwrap_or_default();
    let host =
        node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).cloned().unwrap_or(node_name);
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned());
    let mut finalizers = vec![VOLUME_PROTECTION.to_owned()];
    if policy == "Delete" {
        finalizers.push(CLEANUP.to_owned());
    }
    let here = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: HOSTNAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![host]),
        }]),
        match_fields: None,
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            finalizers: Some(finalizers),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{}/{name}", directory.trim_end_matches('/')),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![here] }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode.or_else(|| Some("Filesystem".to_owned())),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use balsa_model::kinds::persistent_volume_claim::CLASS_ANNOTATION;
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, class: &str, claim: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "claimRef": claim}}))
        .unwrap()
    }

    fn claim(size: &str, mode: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "n", "uid": "u"}, "spec": {
            "storageClassName": "slow", "accessModes": [mode], "resources": {"requests": {"storage": size}}}}))
        .unwrap()
    }

    #[test]
    fn the_smallest_that_fits() {
        let volumes = [
            volume("large", "10Gi", "slow", Value::Null),
            volume("medium", "5Gi", "slow", Value::Null),
            volume("small", "1Gi", "slow", Value::Null),
            volume("other-class", "2Gi", "fast", Value::Null),
            volume("taken", "3Gi", "slow", json!({"namespace": "n", "name": "other", "uid": "x"})),
        ]
        .map(Arc::new);
        let best = |claim| best(&claim, &volumes, None).and_then(|v| v.metadata.name.as_deref());
        assert_eq!(best(claim("2Gi", "ReadWriteOnce")), Some("medium"));
        assert_eq!(best(claim("20Gi", "ReadWriteOnce")), None);
        assert_eq!(best(claim("1Gi", "ReadWriteMany")), None);
    }

    #[test]
    fn a_class_may_be_named_by_annotation() {
        let annotated = |name: &str| Some([(CLASS_ANNOTATION.to_owned(), name.to_owned())].into());
        let volumes =
            [volume("slow", "5Gi", "slow", Value::Null), volume("fast", "5Gi", "fast", Value::Null)];
        let [slow, mut other] = volumes;
        let mut claim = claim("1Gi", "ReadWriteOnce");
        claim.metadata.annotations = annotated("fast");
        assert!(!fits(&claim, &slow, None) && fits(&claim, &other, None));
        other.metadata.annotations = annotated("older");
        assert!(!fits(&claim, &other, None));
    }

    #[test]
    fn a_promised_volume_comes_first() {
        let promised = volume("promised", "100Gi", "fast", json!({"namespace": "n", "name": "data"}));
        let free = volume("free", "5Gi", "slow", Value::Null);
        let volumes = [free, promised].map(Arc::new);
        let found = best(&claim("1Gi", "ReadWriteOnce"), &volumes, None).unwrap();
        assert_eq!(found.metadata.name.as_deref(), Some("promised"));
    }

    #[test]
    fn only_our_own_volumes_grow() {
        let mut volume = volume("v", "1Gi", "slow", Value::Null);
        let grown = |size, volume: &PersistentVolume| growth(&claim(size, "ReadWriteOnce"), volume);
        assert_eq!(grown("2Gi", &volume), None);
        volume.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into());
        assert_eq!(
            grown("2Gi", &volume),
            Some([("storage".to_owned(), ApiQuantity("2Gi".to_owned()))].into())
        );
        assert_eq!(grown("1Gi", &volume), None);
        assert_eq!(grown("500Mi", &volume), None);
    }

    #[test]
    fn only_volumes_to_be_deleted_are_cleaned_up() {
        let class = |policy: &str| -> StorageClass {
            serde_json::from_value(
                json!({"metadata": {"name": "c"}, "provisioner": PROVISIONER, "reclaimPolicy": policy}),
            )
            .unwrap()
        };
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let made = provisioned(&claim("1Gi", "ReadWriteOnce"), &class("Delete"), &node, "/data/");
        assert_eq!(made.spec.as_ref().unwrap().local.as_ref().unwrap().path, "/data/pvc-u");
        assert!(made.metadata.finalizers.unwrap().iter().any(|f| f == CLEANUP));
        let made = provisioned(&claim("1Gi", "ReadWriteOnce"), &class("Retain"), &node, "/data");
        assert!(!made.metadata.finalizers.unwrap().iter().any(|f| f == CLEANUP));
    }
}
