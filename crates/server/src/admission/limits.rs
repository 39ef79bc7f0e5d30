//! LimitRanges of a namespace, applied to its new pods and claims: see [`balsa_model::limits`].

use std::sync::Arc;

use balsa_model::kind::kind_of;
use balsa_model::{AnyObject, Failure, limits};
use balsa_state::State;
use k8s_openapi::api::core::v1::{LimitRange, PersistentVolumeClaim, Pod};

pub(super) fn apply(state: &State, object: &mut dyn AnyObject) -> Result<(), Failure> {
    if !object.as_any().is::<Pod>() && !object.as_any().is::<PersistentVolumeClaim>() {
        return Ok(());
    }
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let view = state.view(kind_of::<LimitRange>());
    let ranges: Vec<Arc<LimitRange>> = view.list(&namespace).filter_map(|object| object.typed()).collect();
    if ranges.is_empty() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    if let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() {
        limits::set_defaults(pod, &ranges);
        wrong = limits::check_pod(pod, &ranges);
    } else if let Some(claim) = object.as_any().downcast_ref::<PersistentVolumeClaim>() {
        wrong = limits::check_claim(claim, &ranges);
    }
    let why = match wrong.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Err(Failure::forbidden(
        object.kind().descriptor(),
        object.meta().name.as_deref().unwrap_or_default(),
        why,
    ))
}
