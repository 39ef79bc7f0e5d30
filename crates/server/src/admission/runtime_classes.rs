//! What the RuntimeClass that a pod names gives it: what it costs beside its containers, and which nodes have it.

use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key};
use balsa_state::State;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};

/// Completes a pod that is about to be created.
pub(super) fn complete(state: &State, name: &str, spec: &mut PodSpec) -> Result<(), Failure> {
    let wanted = spec.runtime_class_name.clone().filter(|wanted| !wanted.is_empty());
    let class = match &wanted {
        None => None,
        Some(wanted) => {
            let view = state.view(kind_of::<RuntimeClass>());
            let found =
                view.get(&Key::new("", wanted.as_str())).and_then(|found| found.typed::<RuntimeClass>());
            Some(found.ok_or_else(|| {
                refused(name, &format!("pod rejected: RuntimeClass \"{wanted}\" not found"))
            })?)
        }
    };
    let fixed = class
        .as_ref()
        .and_then(|class| class.overhead.as_ref())
        .map(|overhead| overhead.pod_fixed.clone().unwrap_or_default());
    match (&fixed, &spec.overhead) {
        (Some(fixed), Some(given)) if fixed != given => {
            return Err(refused(
                name,
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ));
        }
        (None, Some(given)) if !given.is_empty() => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(refused(name, why));
        }
        (Some(_), _) => spec.overhead = fixed,
        (None, _) => {}
    }
    match class.as_ref().and_then(|class| class.scheduling.as_ref()) {
        Some(scheduling) => place(scheduling, name, spec),
        None => Ok(()),
    }
}

/// Keeps a pod to the nodes that have its class, and lets it onto them.
fn place(scheduling: &Scheduling, name: &str, spec: &mut PodSpec) -> Result<(), Failure> {
    for (label, value) in scheduling.node_selector.iter().flatten() {
        let wanted =
            spec.node_selector.get_or_insert_default().entry(label.clone()).or_insert_with(|| value.clone());
        if wanted != value {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {value}; pod.spec.nodeSelector[{label}] = {wanted}"
            );
            return Err(refused(name, &why));
        }
    }
    for toleration in scheduling.tolerations.iter().flatten() {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

fn refused(name: &str, why: &str) -> Failure {
    Failure::forbidden(kind_of::<Pod>().descriptor(), name, why)
}
