//! A claim that names no storage class gets the default one.

use balsa_model::AnyObject;
use balsa_model::kind::kind_of;
use balsa_state::State;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn default_class(state: &State, object: &mut dyn AnyObject) {
    let Some(claim) = object.as_any_mut().downcast_mut::<PersistentVolumeClaim>() else { return };
    let Some(spec) = claim.spec.as_mut().filter(|spec| spec.storage_class_name.is_none()) else { return };
    let view = state.view(kind_of::<StorageClass>());
    let marked = view.iter().filter(|class| {
        let annotations = class.meta().annotations.as_ref();
        annotations.and_then(|a| a.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
    });
    // The newest of several, as Kubernetes decides it.
    let newest = marked.max_by_key(|class| class.meta().creation_timestamp.as_ref().map(|t| t.0));
    spec.storage_class_name = newest.map(|class| class.key().name.to_string());
}
