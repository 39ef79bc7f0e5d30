//! The pods that a Job creates. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::TRACKING;
use crate::pod_control::pod_of;

/// The index of a pod, as annotation and as label.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often its index has failed before, where that is limited.
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest name before the suffix that the server adds.
const NAME_MAX: usize = 57;

/// A pod to create.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slot {
    /// Its index, in an indexed Job.
    pub(super) index: Option<i32>,
    /// How often that index has failed, where that is limited.
    pub(super) failures: Option<i32>,
}

/// Whether its pods have indexes.
pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

/// The index that a pod carries.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)
}

/// How often the index of a pod had failed before it.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    annotation(pod, INDEX_FAILURES).unwrap_or(0)
}

fn annotation(pod: &Pod, name: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

/// The pod of a slot.
pub(super) fn pod(job: &Job, slot: &Slot) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_of(job, &template);
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let Some(index) = slot.index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let suffix = format!("-{index}-");
    let stem: String = name.chars().take(NAME_MAX.saturating_sub(suffix.len())).collect();
    pod.metadata.generate_name = Some(format!("{stem}{suffix}"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(failures) = slot.failures {
        annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        tell_index(container);
    }
    pod
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: format!("metadata.labels['{INDEX}']"),
    };
    env.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}
