//! Finished Jobs go when their time to live is over.
//!
//! Reads Jobs; deletes them, their pods with them. The time counts from the condition that ended the
//! Job, so nothing is kept in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::strategy::{DeleteOptions, Propagation};
use balsa_model::{Failure, Key};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::caches::Caches;

struct TtlAfterFinished {
    client: Client,
    caches: Caches,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.jobs, &queue, scope, |change| change.new.as_ref().map(|o| o.key().clone()));
    let this = TtlAfterFinished { client, caches: caches.clone(), clock };
    balsa_client::run(Arc::new(this), queue, 1, scope);
}

/// How long a Job is still to stay; `None` when nobody has limited it, or it is not finished.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let age = now.duration_since(ended.last_transition_time.as_ref()?.0).as_secs();
    Some(Duration::from_secs(u64::try_from(i64::from(ttl) - age).unwrap_or(0)))
}

#[async_trait]
impl Reconciler for TtlAfterFinished {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ttl_after_finished"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.jobs.get(key).filter(|object| !object.is_deleting()) else {
            return Ok(Next::Wait);
        };
        let Some(left) = object.typed::<Job>().and_then(|job| left(&job, self.clock.now())) else {
            return Ok(Next::Wait);
        };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let options =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        self.client.api::<Job>().delete(key, object.uid(), options).await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn it_counts_from_the_end() {
        let mut job: Job = serde_json::from_value(json!({"spec": {"template": {}, "ttlSecondsAfterFinished": 60},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}}))
        .unwrap();
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(left(&job, at("2025-01-01T00:00:50Z")), Some(Duration::from_secs(10)));
        assert_eq!(left(&job, at("2025-01-01T00:02:00Z")), Some(Duration::ZERO));
        job.spec.as_mut().unwrap().ttl_seconds_after_finished = None;
        assert_eq!(left(&job, at("2025-01-01T00:02:00Z")), None);
    }
}
