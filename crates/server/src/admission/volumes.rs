//! A claim that names no storage class gets the default one; claims and volumes stay while they are used.

use balsa_model::AnyObject;
use balsa_model::kind::kind_of;
use balsa_model::kinds::{persistent_volume, persistent_volume_claim};
use balsa_state::State;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
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

/// Puts the finalizers on that the volume controllers take away when nobody uses the object.
pub(super) fn protect(object: &mut dyn AnyObject) {
    let finalizer = if object.as_any().is::<PersistentVolume>() {
        persistent_volume::PROTECTION_FINALIZER
    } else if object.as_any().is::<PersistentVolumeClaim>() {
        persistent_volume_claim::PROTECTION_FINALIZER
    } else {
        return;
    };
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|present| present == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_protected_once() {
        let mut claim = PersistentVolumeClaim::default();
        protect(&mut claim);
        protect(&mut claim);
        assert_eq!(claim.metadata.finalizers.map(|f| f.len()), Some(1));
    }
}
