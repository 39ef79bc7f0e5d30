//! A claim that names no storage class gets the default one, and grows where its class lets it; claims and
//! volumes stay while they are used.

use std::cmp::Reverse;

use balsa_model::kind::kind_of;
use balsa_model::kinds::storage_class::DEFAULT_ANNOTATION;
use balsa_model::kinds::{persistent_volume, persistent_volume_claim};
use balsa_model::{AnyObject, Failure, Key, KindRef, Object};
use balsa_state::State;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

pub(super) fn default_class(state: &State, object: &mut dyn AnyObject) {
    let Some(claim) = object.as_any_mut().downcast_mut::<PersistentVolumeClaim>() else { return };
    // Also by the annotation that was the field once.
    if persistent_volume_claim::class_name(claim).is_some() {
        return;
    }
    let Some(spec) = claim.spec.as_mut() else { return };
    spec.storage_class_name = marked(state, kind_of::<StorageClass>(), DEFAULT_ANNOTATION);
}

/// The name of the object of a kind that an annotation marks as the default one: of several the newest, then the
/// first by name.
pub(super) fn marked(state: &State, kind: KindRef, annotation: &str) -> Option<String> {
    let view = state.view(kind);
    let marked = view.iter().filter(|class| {
        let annotations = class.meta().annotations.as_ref();
        annotations.and_then(|a| a.get(annotation)).is_some_and(|value| value == "true")
    });
    let age = |object: &Object| object.meta().creation_timestamp.as_ref().map(|t| t.0);
    let first = marked.min_by_key(|class| (Reverse(age(class)), class.key().name.clone()))?;
    Some(first.key().name.to_string())
}

/// Refuses that a bound claim asks for more than its class lets it. What else may not change is left to the
/// claim's own validation.
pub(super) fn require_expandable(state: &State, object: &dyn AnyObject, old: &Object) -> Result<(), Failure> {
    let new = object.as_any().downcast_ref::<PersistentVolumeClaim>();
    let (Some(new), Some(old)) = (new, old.typed::<PersistentVolumeClaim>()) else { return Ok(()) };
    let grows = persistent_volume_claim::is_bound(&old)
        && persistent_volume_claim::requested_bytes(new) > persistent_volume_claim::requested_bytes(&old);
    if !grows || lets_grow(state, new, &old) {
        return Ok(());
    }
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(Failure::forbidden(kind_of::<PersistentVolumeClaim>().descriptor(), name, why))
}

fn lets_grow(state: &State, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> bool {
    let name = persistent_volume_claim::class_name(new).filter(|name| !name.is_empty());
    let Some(name) = name.filter(|_| name == persistent_volume_claim::class_name(old)) else { return false };
    let class = state.get(kind_of::<StorageClass>(), &Key::new("", name));
    class.is_some_and(|object| object.is(|class: &StorageClass| class.allow_volume_expansion == Some(true)))
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
