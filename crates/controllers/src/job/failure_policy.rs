//! What a Job's `podFailurePolicy` says about a pod that failed. Pure.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::Pod;

use crate::owner::key_of;
use crate::pods;

/// What a failure means.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It counts toward the limit.
    Count,
    /// It does not count.
    Ignore,
    /// The index is lost.
    FailIndex,
    /// The Job is lost, for this reason.
    FailJob(String),
}

/// Judges a failed pod by the first rule that fits.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (place, rule) in rules.enumerate() {
        let what = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => by_exit_code(codes, pod),
            (None, Some(patterns)) => by_condition(patterns, pod),
            (None, None) => None,
        };
        let Some(what) = what else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {place}")),
            "FailIndex" => Verdict::FailIndex,
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn by_exit_code(rule: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    for container in all {
        let Some(end) = container.state.as_ref().and_then(|state| state.terminated.as_ref()) else {
            continue;
        };
        let meant = rule.container_name.as_ref().is_none_or(|name| *name == container.name);
        if !meant || end.exit_code == 0 {
            continue;
        }
        if rule.values.contains(&end.exit_code) == (rule.operator == "In") {
            return Some(format!(
                "Container {} for pod {} failed with exit code {}",
                container.name,
                key_of(&pod.metadata),
                end.exit_code
            ));
        }
    }
    None
}

fn by_condition(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &Pod) -> Option<String> {
    let fits = |pattern: &&PodFailurePolicyOnPodConditionsPattern| {
        let wanted = if pattern.status.is_empty() { "True" } else { &pattern.status };
        pods::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
    };
    let found = patterns.iter().find(fits)?;
    Some(format!("Pod {} has condition {}", key_of(&pod.metadata), found.type_))
}
