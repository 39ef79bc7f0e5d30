//! What workloads have in common: replicas, a selector, and a template that the selector must match.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as MetaSelector;
use serde_json::{Map, Value};

use super::check::{json, non_negative, optional_non_negative};
use super::pod_spec::{scheduling, template};
use crate::field::{FieldErrors, Path};
use crate::selector::LabelSelector;

/// Checks a selector, and a template against it. `path` is that of the workload's spec.
pub(crate) fn validate_selected_template(
    selector: &MetaSelector,
    pods: &PodTemplateSpec,
    owner: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let selector_path = path.child("selector");
    let is_missing = *selector == MetaSelector::default();
    let is_empty = !is_missing
        && selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if is_missing {
        errors.required(&selector_path, "");
    } else if is_empty {
        let of = if owner == "ReplicaSet" { "deployment".to_owned() } else { owner.to_lowercase() };
        let detail = format!("empty selector is invalid for {of}");
        errors.invalid(&selector_path, json(selector), detail);
    }
    scheduling::validate_label_selector(selector, &selector_path, errors);
    let Ok(parsed) = LabelSelector::from_meta(selector) else {
        errors.invalid(&selector_path, json(selector), "invalid label selector");
        return;
    };
    let path = path.child("template");
    let labels = pods.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if is_missing || (!is_empty && !parsed.matches(labels)) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata").child("labels"), json(&labels), detail);
    }
    template::validate(pods, &path, errors);
    template::validate_runs_forever(pods, owner, &path, errors);
}

/// Checks the numbers of a status: none is below zero, and what is `part` of all replicas is no more than
/// they are.
pub(crate) fn validate_counts(replicas: i32, parts: &[(&str, Option<i32>)], errors: &mut FieldErrors) {
    let path = Path::new("status");
    non_negative(errors, &path.child("replicas"), replicas);
    for (field, count) in parts {
        optional_non_negative(errors, &path.child(field), *count);
    }
    for (field, count) in parts {
        if let Some(count) = count.filter(|count| *count > replicas) {
            errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
        }
    }
}

/// Checks what a controller keeps in a status for itself: the generation it saw, and how often a name was taken,
/// which is only ever more.
pub(crate) fn validate_progress(
    observed: Option<i64>,
    [collisions, before]: [Option<i32>; 2],
    errors: &mut FieldErrors,
) {
    let path = Path::new("status");
    optional_non_negative(errors, &path.child("observedGeneration"), observed);
    let path = path.child("collisionCount");
    optional_non_negative(errors, &path, collisions);
    if before.is_some_and(|before| collisions.is_none_or(|now| now < before)) {
        errors.invalid(&path, collisions.unwrap_or(0), "cannot be decremented");
    }
}

/// Checks that no more pods are available than are ready.
pub(crate) fn validate_available(available: Option<i32>, ready: Option<i32>, errors: &mut FieldErrors) {
    let available = available.unwrap_or(0);
    if available > ready.unwrap_or(0) {
        let path = Path::new("status").child("availableReplicas");
        errors.invalid(&path, available, "cannot be greater than readyReplicas");
    }
}

/// Keeps an empty selector apart from one that is not there, which decode to the same: by labels of which
/// there are none. Validation refuses both.
pub(crate) fn note_empty_selector(value: &mut Value) {
    let selector = value.pointer_mut("/spec/selector").and_then(Value::as_object_mut);
    if let Some(selector) = selector.filter(|selector| selector.is_empty()) {
        selector.insert("matchLabels".to_owned(), Value::Object(Map::new()));
    }
}

/// A selector in the text form that `Scale` carries.
pub(crate) fn scale_selector(selector: &MetaSelector) -> Option<String> {
    Some(super::cells::selector_text(selector)).filter(|text| !text.is_empty())
}
