//! What is taken of a volume, and is on its way out. Wordings are those of `k8s.io/kubernetes`
//! `pkg/api/persistentvolume`; its warnings of Ceph's and Gluster's volumes are left out, as they tell of Kubernetes'
//! own plugins.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::super::persistent_volume_claim::{CLASS_ANNOTATION, DEPRECATED_ANNOTATION};
use super::super::pod_spec::warnings::old_labels;
use crate::field::Path;

const DEAD_ANNOTATIONS: [(&str, &str); 2] = [
    (CLASS_ANNOTATION, DEPRECATED_ANNOTATION),
    (
        "volume.beta.kubernetes.io/mount-options",
        "deprecated since v1.31; use \"mountOptions\" attribute instead",
    ),
];

pub(super) fn of(volume: &PersistentVolume) -> Vec<String> {
    let mut told = Vec::new();
    for (key, why) in DEAD_ANNOTATIONS {
        if volume.metadata.annotations.iter().any(|all| all.contains_key(key)) {
            told.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    let Some(spec) = &volume.spec else { return told };
    if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
        told.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned(),
        );
    }
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let terms = Path::new("spec").child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (i, term) in required.into_iter().flat_map(|required| &required.node_selector_terms).enumerate() {
        old_labels(term, &terms.index(i), &mut told);
    }
    let dead = [
        (
            spec.photon_persistent_disk.is_some(),
            "photonPersistentDisk: deprecated in v1.11, non-functional in v1.16+",
        ),
        (spec.scale_io.is_some(), "scaleIO: deprecated in v1.16, non-functional in v1.22+"),
        (spec.flocker.is_some(), "flocker: deprecated in v1.22, non-functional in v1.25+"),
        (spec.storageos.is_some(), "storageOS: deprecated in v1.22, non-functional in v1.25+"),
        (spec.quobyte.is_some(), "quobyte: deprecated in v1.22, non-functional in v1.25+"),
    ];
    told.extend(dead.iter().filter(|(is_it, _)| *is_it).map(|(_, why)| format!("spec.{why}")));
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_on_its_way_out_is_told() {
        let volume = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "a"}},
            "spec": {"persistentVolumeReclaimPolicy": "Recycle", "flocker": {},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}]}}}});
        assert_eq!(
            of(&serde_json::from_value(volume).unwrap()),
            [
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "spec.flocker: deprecated in v1.22, non-functional in v1.25+",
            ]
        );
    }
}
