//! Which ReplicaSet is the new one, its name and hash, and the annotations that carry revisions.

use std::collections::BTreeMap;

use balsa_model::kinds::pod_spec::template;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{amount, scale};
use crate::owner::controller_reference;

/// The number of a rollout, on the Deployment and on its sets.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The earlier numbers of a set that became the new one again.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Tells the pods of one set from those of another.
const HASH_LABEL: &str = "pod-template-hash";
/// The longest history, in bytes.
const HISTORY_MAX: usize = 2000;
/// Annotations of the Deployment that are its own and not its sets'.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.revision",
    REVISION,
    HISTORY,
    scale::DESIRED,
    scale::MAXIMUM,
];

/// A template without what tells sets apart.
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.take().unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    template.metadata = Some(meta);
    template
}

/// Whether a set is made from the Deployment's present template.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| bare(&spec.template));
    let has = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(bare);
    wanted == has
}

/// The set of the present template: the oldest, where a mishap made several.
pub(super) fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let same = (0..sets.len()).filter(|i| same_template(deployment, &sets[*i]));
    same.min_by_key(|i| scale::age_key(&sets[*i]))
}

/// The revision that a set carries, or 0.
pub(super) fn revision_of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// FNV-1a over the template and the count of collisions, in letters that are safe in names.
pub(super) fn hash(deployment: &Deployment) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let template = deployment.spec.as_ref().map(|spec| template::to_value(&bare(&spec.template)));
    let mut bytes = serde_json::to_vec(&template).unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    if collisions > 0 {
        bytes.extend(collisions.to_le_bytes());
    }
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The set of the present template, not yet created and without pods.
pub(super) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = hash(deployment);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Gives the new set the annotations of the Deployment and, if it is behind, the revision `number`; the
/// revision that it had becomes history.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, number: i64, exists: bool) {
    let before = revision_of(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    if before < number {
        annotations.insert(REVISION.to_owned(), number.to_string());
        if before > 0 {
            remember(annotations, before);
        }
    }
    if !exists {
        scale::annotate(set, amount::wanted(deployment), amount::max_surge(deployment));
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: i64) {
    let history = annotations.entry(HISTORY.to_owned()).or_default();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(&revision.to_string());
    while history.len() > HISTORY_MAX {
        let Some(comma) = history.find(',') else { break };
        history.drain(..=comma);
    }
}
