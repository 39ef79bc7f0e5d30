//! Pods that still carry the finalizer of a Job that is gone are let go of.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::Pod;

use super::{is_tracked, untrack};
use crate::caches::Caches;
use crate::owner::controller_of;

struct Orphans {
    client: Client,
    caches: Caches,
}

/// Starts it.
pub(super) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.pods, &queue, scope, |change| {
        let pod = change.new.as_ref()?;
        is_tracked(pod.meta()).then(|| pod.key().clone())
    });
    let pods = caches.pods.clone();
    feed(&caches.jobs, &queue, scope, move |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        let left = gone.map(|job| pods.list_in(&job.key().namespace)).unwrap_or_default();
        left.into_iter().filter(|pod| is_tracked(pod.meta())).map(|pod| pod.key().clone()).collect::<Vec<_>>()
    });
    balsa_client::run(Arc::new(Orphans { client, caches: caches.clone() }), queue, 1, scope);
}

#[async_trait]
impl Reconciler for Orphans {
    type Key = Key;

    fn name(&self) -> &'static str {
        "job_orphans"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(pod) = self.caches.pods.get(key).filter(|pod| is_tracked(pod.meta())) else {
            return Ok(Next::Wait);
        };
        if let Some(owner) = controller_of(pod.meta()).filter(|owner| owner.kind == "Job") {
            let job = self.caches.jobs.get(&Key::new(key.namespace.clone(), owner.name.as_str()));
            if job.is_some_and(|job| job.uid() == owner.uid) {
                return Ok(Next::Wait);
            }
        }
        self.client.api::<Pod>().modify(key, Part::Main, untrack).await?;
        Ok(Next::Wait)
    }
}
