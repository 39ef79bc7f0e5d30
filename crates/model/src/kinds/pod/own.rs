//! What a pod has to get right and a template has not: what depends on its name, on its annotations, and on where
//! it goes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::field::{FieldErrors, Path};
use crate::kinds::pod_spec::{annotations, update};
use crate::meta;

/// Checks a pod beside its spec.
pub(super) fn validate(pod: &Pod, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let nothing = BTreeMap::new();
    let all = pod.metadata.annotations.as_ref().unwrap_or(&nothing);
    annotations::validate(all, spec, &Path::new("metadata").child("annotations"), errors);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    validate_claims(name, spec, &path.child("volumes"), errors);
    validate_volumes(spec, &path.child("volumes"), errors);
    update::validate_images(&spec.containers, &path.child("containers"), errors);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    update::validate_images(init, &path.child("initContainers"), errors);
}

/// Checks what is asked of a pod when it is made, and of no old one.
pub(super) fn validate_create(pod: &Pod, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let has_node = spec.node_name.as_ref().is_some_and(|name| !name.is_empty());
    if has_node && super::is_gated(pod) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    let nothing = BTreeMap::new();
    let all = pod.metadata.annotations.as_ref().unwrap_or(&nothing);
    annotations::match_seccomp(all, spec, path, errors);
    annotations::match_app_armor(all, spec, path, errors);
}

/// Claims that are made for a pod are named after it and its volume.
fn validate_claims(pod: &str, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if pod.is_empty() {
        return;
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let made: Vec<String> =
        volumes.iter().filter(|v| v.ephemeral.is_some()).map(|v| format!("{pod}-{}", v.name)).collect();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if volume.ephemeral.is_some() && !volume.name.is_empty() {
            let name = format!("{pod}-{}", volume.name);
            for wrong in meta::dns1123_subdomain(&name) {
                errors.invalid(
                    &path.child("name"),
                    volume.name.as_str(),
                    format!("PVC name {name:?}: {wrong}"),
                );
            }
        }
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| &claim.claim_name);
        if let Some(claim) = claim.filter(|claim| made.contains(claim)) {
            let path = path.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path, claim.as_str(), detail);
        }
    }
}

/// Templates may leave open whose token it is, and which image: something fills it in.
fn validate_volumes(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let is_nobody = spec.service_account_name.as_deref().unwrap_or_default().is_empty();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(i);
        if volume
            .image
            .as_ref()
            .is_some_and(|image| image.reference.as_deref().unwrap_or_default().is_empty())
        {
            errors.required(&path.child("image").child("reference"), "");
        }
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (j, _) in sources.enumerate().filter(|(_, s)| is_nobody && s.service_account_token.is_some()) {
            let path = path.child("projected").child("sources").index(j).child("serviceAccountToken");
            errors.forbidden(&path, "must not be specified when serviceAccountName is not set");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(name: &str, spec: Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let (spec, mut errors) = (pod.spec.as_ref().unwrap(), FieldErrors::new());
        validate(&pod, spec, &Path::new("spec"), &mut errors);
        validate_create(&pod, spec, &Path::new("spec"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims_of_a_pod_are_its_own() {
        let volumes = |claim: &str| {
            json!({"containers": [], "volumes": [{"name": "scratch", "ephemeral": {}},
                {"name": "data", "persistentVolumeClaim": {"claimName": claim}}]})
        };
        assert!(wrong("web", volumes("web-data")).is_empty());
        assert_eq!(
            wrong("web", volumes("web-scratch")),
            [
                "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"web-scratch\": must not reference a PVC that gets created for an ephemeral volume"
            ]
        );
        let long = "a".repeat(250);
        let found = wrong(&long, volumes("x"));
        let expected =
            format!("spec.volumes[0].name: Invalid value: \"scratch\": PVC name \"{long}-scratch\": ");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        assert!(wrong("", volumes("-scratch")).is_empty(), "a name that is to be made up is not known yet");
    }

    #[test]
    fn tokens_are_somebodys_and_images_have_a_name() {
        let spec = |account: &str, reference: &str| {
            json!({"containers": [], "serviceAccountName": account, "volumes": [
                {"name": "t", "projected": {"sources": [{"secret": {}}, {"serviceAccountToken": {"path": "t"}}]}},
                {"name": "i", "image": {"reference": reference}}]})
        };
        assert!(wrong("web", spec("default", "r.io/i:1")).is_empty());
        assert_eq!(
            wrong("web", spec("", "")),
            [
                "spec.volumes[0].projected.sources[1].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
                "spec.volumes[1].image.reference: Required value",
            ]
        );
    }

    #[test]
    fn who_is_held_back_has_no_node() {
        let gated = json!({"containers": [], "nodeName": "n", "schedulingGates": [{"name": "a.b/c"}]});
        assert_eq!(
            wrong("web", gated),
            ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]
        );
        assert!(wrong("web", json!({"containers": [], "nodeName": "n"})).is_empty());
    }
}
