//! Objects are created only in namespaces that are there and stay; some namespaces always stay.

use balsa_model::kind::kind_of;
use balsa_model::{AnyObject, Failure, Key, Object};
use balsa_state::State;
use k8s_openapi::api::core::v1::Namespace;

/// Namespaces that cannot be deleted: the cluster itself lives in them.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn require_active(state: &State, object: &dyn AnyObject) -> Result<(), Failure> {
    let descriptor = object.kind().descriptor();
    if !descriptor.is_namespaced() {
        return Ok(());
    }
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let view = state.view(kind_of::<Namespace>());
    let Some(found) = view.get(&Key::new("", namespace)) else {
        return Err(Failure::not_found(kind_of::<Namespace>().descriptor(), namespace));
    };
    if !found.is_deleting() {
        return Ok(());
    }
    let name = object.meta().name.as_deref().unwrap_or_default();
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Err(Failure::forbidden(descriptor, name, why).cause(
        "NamespaceTerminating",
        format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    ))
}

pub(super) fn protect(old: &Object) -> Result<(), Failure> {
    let is_namespace = old.kind() == kind_of::<Namespace>();
    if is_namespace && IMMORTAL.contains(&&*old.key().name) {
        return Err(Failure::forbidden(
            old.kind().descriptor(),
            &old.key().name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
