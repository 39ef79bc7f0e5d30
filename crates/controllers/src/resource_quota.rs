//! What is used of quotas, counted: admission raises it before something is written, this lowers it when
//! something goes, and puts right what was charged for writes that failed.
//!
//! Reads quotas and all that they can count; alone writes `status.hard` and, beside admission, `status.used`.
//! A second call changes nothing. Its keys are quotas, woken when they are made or limit something else, and by whatever
//! goes in their namespace, and looked at in a slow period. A charge does not wake them: what it was made for may not be
//! there yet, and would be taken off again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Changed, Client, Next, Queue, Reconciler, feed};
use balsa_model::quantity::Quantity;
use balsa_model::quota::{self, Usage};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};

use crate::caches::{Caches, every, settle};
use crate::pods;

/// How often everything is counted without a reason.
const PERIOD: Duration = Duration::from_secs(120);

struct Quotas {
    client: Client,
    caches: Caches,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.quotas, &queue, scope, redefined);
    for (kind, informer) in caches.all.iter().filter(|(kind, _)| kind.descriptor().is_namespaced()) {
        if *kind == balsa_model::kind::kind_of::<ResourceQuota>() {
            continue;
        }
        let quotas = caches.quotas.clone();
        feed(informer, &queue, scope, move |change| {
            let namespace = freed(change).unwrap_or_default();
            keys_in(&quotas, &namespace)
        });
    }
    let quotas = caches.quotas.clone();
    every(PERIOD, &queue, scope, move || quotas.list().iter().map(|q| q.key().clone()).collect::<Vec<_>>());
    balsa_client::run(Arc::new(Quotas { client, caches: caches.clone() }), queue, 2, scope);
}

/// The quota that is new, or whose status says other limits than it has.
fn redefined(change: &Changed) -> Option<Key> {
    let object = change.new.as_ref()?;
    let quota = object.typed::<ResourceQuota>()?;
    let said = quota.status.as_ref().and_then(|status| status.hard.as_ref());
    let wanted = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    (change.old.is_none() || said != wanted).then(|| object.key().clone())
}

/// The namespace in which a change may have freed something.
fn freed(change: &Changed) -> Option<Arc<str>> {
    let old = change.old.as_ref()?;
    let gone = match &change.new {
        None => true,
        // A pod that has just ended.
        Some(new) => new.is(pods::is_terminal) && !old.is(pods::is_terminal),
    };
    gone.then(|| old.key().namespace.clone())
}

fn keys_in(quotas: &balsa_client::Informer, namespace: &str) -> Vec<Key> {
    if namespace.is_empty() {
        return Vec::new();
    }
    quotas.list_in(namespace).iter().map(|quota| quota.key().clone()).collect()
}

/// The status that a quota should have; `None`: it has it.
fn plan(present: &ResourceQuota, used: &Usage) -> Option<ResourceQuotaStatus> {
    let hard = present.spec.as_ref().and_then(|spec| spec.hard.clone());
    let used = used.iter().map(|(name, amount)| (name.clone(), amount.to_api())).collect();
    let wanted = ResourceQuotaStatus { hard, used: Some(used) };
    let wanted = if wanted.hard.is_none() { ResourceQuotaStatus::default() } else { wanted };
    (present.status.as_ref() != Some(&wanted)).then_some(wanted)
}

#[async_trait]
impl Reconciler for Quotas {
    type Key = Key;

    fn name(&self) -> &'static str {
        "resource_quota"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.quotas.get(key) else { return Ok(Next::Wait) };
        let Some(present) = object.typed::<ResourceQuota>() else { return Ok(Next::Wait) };
        let hard = quota::hard(&present);
        let mut used: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for (_, informer) in self.caches.all.iter().filter(|(kind, _)| kind.descriptor().is_namespaced()) {
            for object in informer.list_in(&key.namespace) {
                let Some(decoded) = object.decode() else { continue };
                let counted = quota::limited(&hard, &quota::usage(decoded.as_ref()));
                if !counted.is_empty() && quota::covers(&present, decoded.as_ref()) {
                    used = quota::sum(&used, &counted);
                }
            }
        }
        let Some(status) = plan(&present, &used) else { return Ok(Next::Wait) };
        let mut wanted = ResourceQuota::clone(&present);
        wanted.status = Some(status);
        // The version that was read is the precondition: what admission charged meanwhile is counted again.
        let written = self.client.api::<ResourceQuota>().update(&wanted, Part::Status).await?;
        settle(&self.caches.quotas, written.revision()).await;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_charge_is_no_reason_to_count() {
        let quota = |used: &str, limit: &str| {
            let value = json!({
                "apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "q", "namespace": "n", "uid": "u"},
                "spec": {"hard": {"pods": limit}}, "status": {"hard": {"pods": "2"}, "used": {"pods": used}},
            });
            let kind = balsa_model::kind::kind_of::<ResourceQuota>();
            let bytes = serde_json::to_vec(&value).unwrap();
            Arc::new(balsa_model::Object::stored(kind, bytes.into(), balsa_model::Revision(1)).unwrap())
        };
        let change = |old: Option<_>, new| redefined(&Changed { old, new: Some(new) });
        assert!(change(None, quota("0", "2")).is_some());
        assert!(change(Some(quota("0", "2")), quota("1", "2")).is_none(), "a charge");
        assert!(change(Some(quota("0", "2")), quota("0", "3")).is_some(), "another limit");
    }

    #[test]
    fn the_status_is_put_right() {
        let mut quota: ResourceQuota =
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2"}}}))
                .unwrap();
        let used = Usage::from([("pods".to_owned(), Quantity::from_units(1))]);
        let status = plan(&quota, &used).unwrap();
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({"hard": {"pods": "2"}, "used": {"pods": "1"}})
        );
        quota.status = Some(status);
        assert_eq!(plan(&quota, &used), None);
    }
}
