//! What a pod of a StatefulSet is called, and what its claims are called and whose they are. Pure.

use balsa_model::Kind as _;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::owner::controller_reference;
use crate::pod_control::pod_of;
use crate::revisions::HASH_LABEL;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// `web-0`
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(set))
}

/// The number in a pod's name; `None` when it is no name that this set gives.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &ObjectMeta) -> Option<i32> {
    let digits = pod.name.as_deref()?.strip_prefix(name(set))?.strip_prefix('-')?;
    let ordinal = digits.parse().ok()?;
    (digits == i32::to_string(&ordinal) && ordinal >= 0).then_some(ordinal)
}

/// The revision that a pod is made from.
pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", template.metadata.name.as_deref().unwrap_or_default(), pod_name(set, ordinal))
}

fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten())
}

/// The claims of an ordinal, as they are created.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(selected.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    claim_templates(set).map(one).collect()
}

/// The pod of an ordinal, made from `template`.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_of(set, template);
    let pod_name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), pod_name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|s| !s.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for template in claim_templates(set) {
        let volume = template.metadata.name.clone().unwrap_or_default();
        volumes.retain(|other| other.name != volume);
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: Some(false),
        };
        volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
    }
    pod
}

/// Makes a claim go with the set, with a pod that is scaled away, or with nobody; whether that
/// changed anything. References of others are left alone.
pub(super) fn tie(
    claim: &mut PersistentVolumeClaim,
    set: &StatefulSet,
    pod: Option<&Pod>,
    condemned: bool,
) -> bool {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let on_scale = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let on_delete = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let mut wanted: Vec<OwnerReference> = Vec::new();
    match pod {
        Some(pod) if condemned && on_scale => {
            let plain = OwnerReference { controller: None, ..controller_reference(pod) };
            wanted.push(OwnerReference { block_owner_deletion: None, ..plain });
        }
        _ if on_delete => wanted.push(controller_reference(set)),
        _ => {}
    }
    let own = |owner: &OwnerReference| {
        let of_set = owner.kind == StatefulSet::DESCRIPTOR.kind && owner.name == name(set);
        let of_pod = owner.kind == "Pod"
            && claim
                .metadata
                .name
                .as_deref()
                .is_some_and(|claim| claim.ends_with(&format!("-{}", owner.name)));
        of_set || of_pod
    };
    let mut owners: Vec<OwnerReference> =
        claim.metadata.owner_references.iter().flatten().filter(|owner| !own(owner)).cloned().collect();
    owners.extend(wanted);
    let owners = (!owners.is_empty()).then_some(owners);
    if claim.metadata().owner_references == owners {
        return false;
    }
    claim.metadata.owner_references = owners;
    true
}
