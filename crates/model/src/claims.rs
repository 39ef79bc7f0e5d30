//! By which PersistentVolumeClaims a pod has its volumes.

use k8s_openapi::api::core::v1::{Pod, Volume};

/// The claim behind a volume of a pod: the one that it names, or, of an ephemeral volume, the one that is made for it
/// and named after both. `None`: it is of another sort.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

/// All claims of a pod.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(pod, volume))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_named_by_the_pod_or_after_it() {
        let volumes = json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        ]);
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [], "volumes": volumes}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(claims_of(&pod).collect::<Vec<_>>(), ["data", "web-c"]);
    }
}
