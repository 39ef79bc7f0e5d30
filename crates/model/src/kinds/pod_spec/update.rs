//! What may still change in a pod that exists: images, a deadline that comes nearer, more tolerations;
//! scheduling gates that go, and what they hold back.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, json};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a new spec against the old one.
pub(crate) fn validate(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let none = Vec::new();
    let lists = [
        ("containers", &new.containers, &old.containers),
        (
            "initContainers",
            new.init_containers.as_ref().unwrap_or(&none),
            old.init_containers.as_ref().unwrap_or(&none),
        ),
    ];
    for (field, new, old) in lists {
        if new.len() != old.len() {
            errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
            return;
        }
        validate_images(new, &path.child(field), errors);
    }
    validate_deadline(new, old, &path.child("activeDeadlineSeconds"), errors);
    validate_tolerations(new, old, &path.child("tolerations"), errors);
    validate_gates(new, old, &path.child("schedulingGates"), errors);
    validate_ephemeral(new, old, &path.child("ephemeralContainers"), errors);
    let rest = with_updatable_of(new, old);
    if rest != *old {
        let changed = changed_fields(&json(&rest), &json(old));
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{changed}");
        errors.forbidden(path, detail);
    }
}

/// Checks that images are set and nothing surrounds them; templates do without the second.
pub(crate) fn validate_images(containers: &[Container], path: &Path, errors: &mut FieldErrors) {
    for (i, container) in containers.iter().enumerate() {
        let image = container.image.as_deref().unwrap_or_default();
        if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            errors.invalid(&path.index(i).child("image"), image, detail);
        }
    }
}

fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), old) => {
            in_range(errors, path, new, 0, i64::from(i32::MAX));
            if old.is_some_and(|old| old < new) {
                errors.invalid(path, new, "must be less than or equal to previous value");
            }
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        (None, None) => {}
    }
}

fn validate_tolerations(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let new = new.tolerations.as_deref().unwrap_or_default();
    let lost = old.tolerations.iter().flatten().any(|old| {
        !new.iter().any(|new| {
            (&new.key, &new.operator, &new.value, &new.effect)
                == (&old.key, &old.operator, &old.value, &old.effect)
        })
    });
    if lost {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn validate_gates(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old.scheduling_gates.iter().flatten().any(|known| known.name == gate.name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(&path.index(i), detail);
        }
    }
}

/// Ephemeral containers are added, and that is all.
fn validate_ephemeral(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for known in old.ephemeral_containers.iter().flatten() {
        let name = &known.name;
        match new.ephemeral_containers.iter().flatten().find(|container| container.name == *name) {
            None => {
                errors
                    .forbidden(path, format!("existing ephemeral containers {name:?} may not be removed\n"));
            }
            Some(container) if container != known => {
                errors
                    .forbidden(path, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

/// The new spec with everything that may change put back to how it was: what is left must be equal.
fn with_updatable_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut rest = new.clone();
    restore_images(&mut rest.containers, &old.containers);
    if let (Some(rest), Some(old)) = (&mut rest.init_containers, &old.init_containers) {
        restore_images(rest, old);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.tolerations.clone_from(&old.tolerations);
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.ephemeral_containers.clone_from(&old.ephemeral_containers);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        restore_gated(&mut rest, old);
    }
    rest
}

fn restore_images(containers: &mut [Container], old: &[Container]) {
    for (container, old) in containers.iter_mut().zip(old) {
        container.image.clone_from(&old.image);
    }
}

/// A pod that is held back by a gate may still be told more narrowly where to go.
fn restore_gated(rest: &mut PodSpec, old: &PodSpec) {
    let narrower = old
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| rest.node_selector.as_ref().is_some_and(|s| s.get(key) == Some(value)));
    if narrower {
        rest.node_selector.clone_from(&old.node_selector);
    }
    let node_affinity = old.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let is_open = node_affinity
        .as_ref()
        .is_none_or(|a| a.required_during_scheduling_ignored_during_execution.is_none());
    if is_open {
        match (&mut rest.affinity, &old.affinity) {
            (Some(affinity), Some(_)) => affinity.node_affinity = node_affinity,
            (affinity, None)
                if affinity
                    .as_ref()
                    .is_some_and(|a| a.pod_affinity.is_none() && a.pod_anti_affinity.is_none()) =>
            {
                *affinity = None;
            }
            _ => {}
        }
    }
}

/// `field: old -> new` for each field that changed.
fn changed_fields(new: &Value, old: &Value) -> String {
    let empty = serde_json::Map::new();
    let (new, old) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut names: Vec<&String> = new.keys().chain(old.keys()).collect();
    names.sort();
    names.dedup();
    let null = Value::Null;
    let lines: Vec<String> = names
        .into_iter()
        .filter(|name| new.get(*name) != old.get(*name))
        .map(|name| {
            format!("{name}: {} -> {}", old.get(name).unwrap_or(&null), new.get(name).unwrap_or(&null))
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(old: Value, new: Value) -> Vec<String> {
        let (old, new): (PodSpec, PodSpec) =
            (serde_json::from_value(old).unwrap(), serde_json::from_value(new).unwrap());
        let mut errors = FieldErrors::new();
        validate(&new, &old, &Path::new("spec"), &mut errors);
        errors.into_vec().into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn only_some_fields_change() {
        let spec = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "m", "image": "a:1"}]});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        let old = || spec(json!({}));
        assert!(refused(old(), json!({"containers": [{"name": "m", "image": "b:2"}]})).is_empty());
        assert!(refused(old(), spec(json!({"activeDeadlineSeconds": 5}))).is_empty());
        assert!(refused(old(), spec(json!({"tolerations": [{"key": "a"}]}))).is_empty());
        assert_eq!(refused(old(), spec(json!({"nodeName": "x"}))), ["spec"]);
        assert_eq!(refused(old(), json!({"containers": []})), ["spec.containers"]);
        assert_eq!(
            refused(spec(json!({"activeDeadlineSeconds": 5})), spec(json!({"activeDeadlineSeconds": 6}))),
            ["spec.activeDeadlineSeconds"]
        );
        assert_eq!(refused(spec(json!({"tolerations": [{"key": "a"}]})), old()), ["spec.tolerations"]);
        let gated = json!({"schedulingGates": [{"name": "x/y"}]});
        assert!(refused(spec(gated), spec(json!({"nodeSelector": {"a": "b"}}))).is_empty());
        assert_eq!(
            refused(old(), spec(json!({"schedulingGates": [{"name": "a/b"}]}))),
            ["spec.schedulingGates[0]"]
        );
    }
}
