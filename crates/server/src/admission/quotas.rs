//! Quotas are charged before what they limit is written: the usage in a quota's status is raised under a
//! precondition, so that of two who want the last of something one comes too late. What was charged for
//! a write that then failed is given back when the quota controller counts again.

use std::sync::Arc;

use balsa_model::kind::kind_of;
use balsa_model::quota::{self, Usage};
use balsa_model::{AnyObject, Failure, Object};
use balsa_state::State;
use k8s_openapi::api::core::v1::ResourceQuota;

/// A quota as it is, and as it is with what is wanted.
pub(crate) struct Charge {
    pub(crate) old: Arc<Object>,
    pub(crate) new: ResourceQuota,
}

pub(super) fn charge(
    state: &State,
    object: &dyn AnyObject,
    old: Option<&Object>,
) -> Result<Vec<Charge>, Failure> {
    let descriptor = object.kind().descriptor();
    let Some(namespace) = object.meta().namespace.as_deref().filter(|_| descriptor.is_namespaced()) else {
        return Ok(Vec::new());
    };
    let view = state.view(kind_of::<ResourceQuota>());
    let mut quotas = view.list(namespace).peekable();
    // Most namespaces have none.
    if quotas.peek().is_none() {
        return Ok(Vec::new());
    }
    let before = old.and_then(Object::decode);
    let counted = match &before {
        Some(before) => quota::growth(&quota::usage(object), &quota::usage(before.as_ref())),
        None => quota::usage(object),
    };
    let name = object.meta().name.as_deref().unwrap_or_default();
    let mut charges = Vec::new();
    for stored in quotas {
        let Some(present) = stored.typed::<ResourceQuota>() else { continue };
        let hard = quota::hard(&present);
        let wanted = quota::limited(&hard, &counted);
        if wanted.is_empty() || !quota::covers(&present, object) {
            continue;
        }
        let refuse = |why: String| Err(Failure::forbidden(descriptor, name, why));
        let quota_name = &*stored.key().name;
        if before.is_none()
            && let Some(why) = quota::unspecified(quota_name, &hard, object)
        {
            return refuse(why);
        }
        let used = used(state, namespace, &present, &hard);
        if let Some(why) = quota::exceeded(quota_name, &hard, &used, &wanted) {
            return refuse(why);
        }
        let mut new = ResourceQuota::clone(&present);
        let status = new.status.get_or_insert_default();
        status.hard = present.spec.as_ref().and_then(|spec| spec.hard.clone());
        let total = quota::sum(&used, &wanted);
        status.used = Some(total.into_iter().map(|(name, amount)| (name, amount.to_api())).collect());
        charges.push(Charge { old: stored.clone(), new });
    }
    Ok(charges)
}

/// What is used of a quota: as its status says, or counted when that does not say all.
fn used(state: &State, namespace: &str, present: &ResourceQuota, hard: &Usage) -> Usage {
    let used = quota::quantities(present.status.as_ref().and_then(|status| status.used.as_ref()));
    if hard.keys().all(|name| used.contains_key(name)) {
        return quota::limited(hard, &used);
    }
    let mut total: Usage =
        hard.keys().map(|name| (name.clone(), balsa_model::quantity::Quantity::ZERO)).collect();
    for kind in balsa_model::kinds::all().iter().filter(|kind| kind.descriptor().is_namespaced()) {
        for object in state.view(*kind).list(namespace).filter_map(|object| object.decode()) {
            if quota::covers(present, object.as_ref()) {
                total = quota::sum(&total, &quota::limited(hard, &quota::usage(object.as_ref())));
            }
        }
    }
    total
}
