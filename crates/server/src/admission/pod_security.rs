//! The Pod Security Standard of a namespace: pods that fail it are refused, and whoever makes some that fail what the
//! namespace warns of is told. See [`balsa_model::pod_security`].

use std::collections::BTreeMap;

use balsa_model::field::FieldErrors;
use balsa_model::kind::{Pods, kind_of};
use balsa_model::pod_security::{Policy, Standard, details, is_significant, reasons, violations};
use balsa_model::{AnyObject, Failure, Key, Object};
use balsa_state::State;
use k8s_openapi::api::core::v1::{Namespace, Pod};

/// How many pods of a namespace are looked at when it demands more; Kubernetes' own bound.
const LOOKED_AT: usize = 3000;

/// Judges a new object; what its maker should be told.
pub(super) fn judge_new(state: &State, object: &dyn AnyObject) -> Result<Vec<String>, Failure> {
    match object.pods() {
        Some(pods) => judge(state, object, &pods),
        None => Ok(Vec::new()),
    }
}

/// Judges a new version of an object; what its maker should be told.
pub(super) fn judge_change(
    state: &State,
    object: &dyn AnyObject,
    old: &Object,
) -> Result<Vec<String>, Failure> {
    if let Some(namespace) = object.as_any().downcast_ref::<Namespace>() {
        return Ok(old.typed::<Namespace>().map(|old| look_at(state, namespace, &old)).unwrap_or_default());
    }
    let new = object.as_any().downcast_ref::<Pod>();
    if let (Some(new), Some(old)) = (new, old.typed::<Pod>())
        && !is_significant(new, &old)
    {
        return Ok(Vec::new());
    }
    judge_new(state, object)
}

fn judge(state: &State, object: &dyn AnyObject, pods: &Pods<'_>) -> Result<Vec<String>, Failure> {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let view = state.view(kind_of::<Namespace>());
    let Some(namespace) = view.get(&Key::new("", namespace)) else { return Ok(Vec::new()) };
    let Policy { enforce, warn } = policy(namespace.meta().labels.as_ref());
    if object.as_any().is::<Pod>() {
        let wrong = violations(enforce, pods);
        if !wrong.is_empty() {
            let name = object.meta().name.as_deref().unwrap_or_default();
            let why = format!("violates PodSecurity \"{enforce}\": {}", details(&wrong));
            return Err(Failure::forbidden(object.kind().descriptor(), name, why));
        }
    }
    let wrong = violations(warn, pods);
    if wrong.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!("would violate PodSecurity \"{warn}\": {}", details(&wrong))])
}

/// Labels that make no sense were told of when they were written.
fn policy(labels: Option<&BTreeMap<String, String>>) -> Policy {
    Policy::of(labels, &mut FieldErrors::new())
}

/// Which pods of a namespace could not be made any more, after it demands more than before.
fn look_at(state: &State, new: &Namespace, old: &Namespace) -> Vec<String> {
    let enforce = policy(new.metadata.labels.as_ref()).enforce;
    if !enforce.is_stricter(policy(old.metadata.labels.as_ref()).enforce) {
        return Vec::new();
    }
    let namespace = new.metadata.name.as_deref().unwrap_or_default();
    let view = state.view(kind_of::<Pod>());
    let total = view.list(namespace).count();
    let wrong = failing(view.list(namespace).take(LOOKED_AT).filter_map(|pod| pod.typed::<Pod>()), enforce);
    let mut told = Vec::new();
    if total > LOOKED_AT {
        told.push(format!(
            "new PodSecurity enforce level only checked against the first {LOOKED_AT} of {total} existing pods"
        ));
    }
    if !wrong.is_empty() {
        told.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    told.extend(wrong);
    told
}

/// A line for all pods that fail a standard alike.
fn failing<P: std::ops::Deref<Target = Pod>>(
    pods: impl Iterator<Item = P>,
    standard: Standard,
) -> Vec<String> {
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods {
        let wrong = Pods::of_pod(&pod).map(|pods| violations(standard, &pods)).unwrap_or_default();
        if !wrong.is_empty() {
            let names = alike.entry(reasons(&wrong)).or_default();
            names.push(pod.metadata.name.clone().unwrap_or_default());
        }
    }
    let line = |(reasons, names): (String, Vec<String>)| {
        let first = names.iter().min()?;
        let others = match names.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other pod)".to_owned(),
            others => format!(" (and {others} other pods)"),
        };
        Some(format!("{first}{others}: {reasons}"))
    };
    let mut lines: Vec<_> = alike.into_iter().filter_map(line).collect();
    lines.sort();
    lines
}
