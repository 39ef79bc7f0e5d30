//! Resizing: what containers may use, changed while they run. Only processors and memory change, and
//! never so that the pod's quality of service becomes another.
//!
//! The spec says what is wanted; what its node has given the pod, its status says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::resources::{Requests, ResourceList, qos_class, requests};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::json;
use crate::quantity::Quantity;

/// What may be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// The condition of a pod whose node has not given it the sizes that it wants.
pub const PENDING: &str = "PodResizePending";
/// The condition of a pod that is on the way to sizes that it was given.
pub const IN_PROGRESS: &str = "PodResizeInProgress";
/// Why sizes are not given: the node has less.
pub const INFEASIBLE: &str = "Infeasible";
/// Why sizes are not given: others have it just now.
pub const DEFERRED: &str = "Deferred";

/// What each container of a pod may use, by its name.
pub type Sizes = BTreeMap<String, Option<ResourceRequirements>>;

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The sizes that a pod wants.
pub fn wanted_sizes(pod: &Pod) -> Sizes {
    let all = pod.spec.iter().flat_map(containers);
    all.map(|container| (container.name.clone(), container.resources.clone())).collect()
}

/// The sizes that a pod has, by its status; those that it wants, where that says nothing.
pub fn given_sizes(pod: &Pod) -> Sizes {
    let mut sizes = wanted_sizes(pod);
    let lists = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    for told in lists.flatten().flatten() {
        if let (Some(size), Some(given)) = (sizes.get_mut(&told.name), &told.resources) {
            *size = Some(given.clone());
        }
    }
    sizes
}

/// The pod with other sizes.
#[must_use]
pub fn with_sizes(pod: &Pod, sizes: &Sizes) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(size) = sizes.get(&container.name) {
                container.resources.clone_from(size);
            }
        }
    }
    pod
}

/// What a pod takes of its node: what it wants, unless that is more than the node can ever give.
pub fn held_requests(pod: &Pod) -> Requests {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let infeasible = conditions.any(|condition| {
        condition.type_ == PENDING
            && condition.status == "True"
            && condition.reason.as_deref() == Some(INFEASIBLE)
    });
    let of = |pod: &Pod| pod.spec.as_ref().map(requests).unwrap_or_default();
    if infeasible { of(&with_sizes(pod, &given_sizes(pod))) } else { of(pod) }
}

/// Takes over what each container, by its name, is to have; nothing else.
pub(crate) fn take(spec: &mut PodSpec, sent: PodSpec) {
    let take = |containers: &mut [Container], sent: Vec<Container>| {
        for container in containers {
            if let Some(sent) = sent.iter().find(|sent| sent.name == container.name) {
                container.resources.clone_from(&sent.resources);
            }
        }
    };
    take(&mut spec.containers, sent.containers);
    if let (Some(containers), Some(sent)) = (&mut spec.init_containers, sent.init_containers) {
        take(containers, sent);
    }
}

/// Checks the new sizes against the old ones.
pub(crate) fn validate(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if qos_class(new) != qos_class(old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(path, qos_class(new), detail);
    }
    for (i, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        validate_container(new, old, &path.child("containers").index(i), errors);
    }
    let inits = new.init_containers.iter().flatten().zip(old.init_containers.iter().flatten());
    for (i, (new, old)) in inits.enumerate() {
        let path = path.child("initContainers").index(i);
        if new.resources == old.resources {
            continue;
        }
        if new.restart_policy.as_deref() == Some("Always") {
            validate_container(new, old, &path, errors);
        } else {
            let detail = "resources for non-sidecar init containers are immutable";
            errors.forbidden(&path.child("resources"), detail);
        }
    }
}

fn validate_container(new: &Container, old: &Container, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("resources");
    let list = |container: &'_ Container, limits: bool| {
        let resources = container.resources.clone().unwrap_or_default();
        (if limits { resources.limits } else { resources.requests }).unwrap_or_default()
    };
    for (field, is_limits) in [("limits", true), ("requests", false)] {
        let path = path.child(field);
        let (new_list, old_list) = (list(new, is_limits), list(old, is_limits));
        let names = new_list.keys().chain(old_list.keys().filter(|name| !new_list.contains_key(*name)));
        for name in names {
            let amount = |list: &ResourceList| list.get(name).and_then(Quantity::of);
            let (new_amount, old_amount) = (amount(&new_list), amount(&old_list));
            if !RESIZABLE.contains(&name.as_str()) {
                if new_amount != old_amount {
                    errors.forbidden(&path.key(name), "only cpu and memory resources are mutable");
                }
            } else if old_amount.is_some() && new_amount.is_none() {
                let what = if is_limits { "limits" } else { "requests" };
                errors.forbidden(&path.key(name), format!("resource {what} cannot be removed"));
            } else if is_limits && name == "memory" && new_amount < old_amount && !restarts(new) {
                let detail = "memory limits cannot be decreased unless resizePolicy is RestartContainer";
                errors.forbidden(&path.key(name), detail);
            }
        }
    }
    let claims = |container: &Container| json(&container.resources.as_ref().and_then(|r| r.claims.clone()));
    if claims(new) != claims(old) {
        errors.forbidden(&path.child("claims"), "field is immutable");
    }
}

/// Whether a change of its memory starts a container anew.
fn restarts(container: &Container) -> bool {
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|policy| policy.resource_name == "memory" && policy.restart_policy == "RestartContainer")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(resources: Value) -> PodSpec {
        let container = json!({"name": "c", "image": "i", "resources": resources,
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}]});
        serde_json::from_value(json!({"containers": [container]})).unwrap()
    }

    fn refused(old: Value, new: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        validate(&spec(new), &spec(old), &Path::new("spec"), &mut errors);
        errors.into_vec().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn only_sizes_are_taken() {
        let mut present = spec(json!({"requests": {"cpu": "1"}}));
        let mut sent = spec(json!({"requests": {"cpu": "2"}}));
        sent.containers[0].image = Some("other".to_owned());
        take(&mut present, sent);
        assert_eq!(present, spec(json!({"requests": {"cpu": "2"}})));
    }

    #[test]
    fn who_wants_more_than_there_can_be_takes_what_it_has() {
        let pod = |reason: &str| -> Pod {
            serde_json::from_value(json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "99"}}}]},
                "status": {
                    "conditions": [{"type": PENDING, "status": "True", "reason": reason}],
                    "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                        "restartCount": 0, "resources": {"requests": {"cpu": "1"}}}],
                },
            }))
            .unwrap()
        };
        assert_eq!(held_requests(&pod(INFEASIBLE)).cpu_milli, 1000);
        assert_eq!(held_requests(&pod(DEFERRED)).cpu_milli, 99_000);
    }

    #[test]
    fn sizes_change_within_their_class() {
        let old = || json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        for (new, wrong) in [
            (json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "3", "memory": "2Gi"}}), vec![]),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Mi"}}),
                vec!["spec.containers[0].resources.limits[memory]"],
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                vec!["spec.containers[0].resources.limits[memory]"],
            ),
            (
                json!({"requests": {"cpu": "1", "x.io/y": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
                vec!["spec.containers[0].resources.requests[x.io/y]"],
            ),
            (
                json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
                vec!["spec"],
            ),
        ] {
            assert_eq!(refused(old(), new), wrong);
        }
    }
}
