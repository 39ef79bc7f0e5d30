//! What ReplicaSets and ReplicationControllers have in common: keep so many pods of a template.
//!
//! Reads pods and owners; creates, deletes, adopts and releases pods; alone writes the owner's status.
//! Creations and deletions: `pod_control`. A second call without a change does nothing; a new leader
//! starts with what the cache shows.

mod plan;
mod shape;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::caches::settle;
use crate::owner::{claim, concerned, settle_claims};
use crate::pod_control::{PodControl, pod_of};
use crate::pods;
pub(crate) use shape::same_shape;

/// The condition of an owner whose pods cannot be created or deleted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReplicaFailure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: String,
    /// What the server said.
    pub(crate) message: String,
    /// Since when.
    pub(crate) since: Option<Time>,
}

/// The status of an owner.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) observed_generation: i64,
    pub(crate) failure: Option<ReplicaFailure>,
}

/// A kind that keeps so many pods of a template.
pub(crate) trait ReplicaOwner: Kind {
    /// The controller's name.
    const NAME: &'static str;
    /// Which pods are its own.
    fn selector(&self) -> LabelSelector;
    /// What they are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How many it wants.
    fn wanted(&self) -> usize;
    /// How long a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// Its status.
    fn counts(&self) -> Counts;
    /// Sets its status.
    fn set_counts(&mut self, counts: Counts);
}

/// The controller of one such kind.
pub(crate) struct Replicas<O> {
    client: Client,
    owners: Informer,
    pods: PodControl,
    clock: Clock,
    kind: PhantomData<fn() -> O>,
}

impl<O: ReplicaOwner> Replicas<O> {
    /// Starts the controller of owners in `owners`.
    pub(crate) fn start(
        client: Client,
        owners: Informer,
        pods: Informer,
        recorder: Recorder,
        clock: Clock,
        scope: &Scope,
    ) {
        let queue: Queue<Key> = Queue::new();
        feed(&owners, &queue, scope, |change| change.object().map(|o| o.key().clone()));
        let of = owners.clone();
        feed(&pods, &queue, scope, move |change| concerned::<O>(change, &of, O::selector));
        let pods = PodControl::new(client.clone(), pods, recorder);
        let this = Self { client, owners, pods, clock, kind: PhantomData };
        balsa_client::run(Arc::new(this), queue, 4, scope);
    }

    async fn write_status(&self, owner: &O, counts: Counts) -> Result<(), Failure> {
        if owner.counts() == counts {
            return Ok(());
        }
        let mut changed = owner.clone();
        changed.set_counts(counts);
        let written = self.client.api::<O>().update(&changed, Part::Status).await?;
        settle(&self.owners, written.revision()).await;
        Ok(())
    }

    async fn run(&self, key: &Key, owner: &O) -> Result<Next, Failure> {
        let selector = owner.selector();
        let mut claims = claim(owner.metadata(), &selector, self.pods.candidates(&key.namespace));
        claims.retain(|object| object.is(|pod| !pods::is_terminal(pod)));
        let children = settle_claims::<O, Pod>(&self.client, owner, claims).await?;
        let doomed = self.pods.doomed(key, &children);
        let active: Vec<Arc<Pod>> = children
            .iter()
            .filter(|child| !child.is_deleting() && !doomed.contains(child.uid()))
            .filter_map(|child| child.typed())
            .collect();
        let deleting = owner.metadata().deletion_timestamp.is_some();
        let plan =
            plan::plan(&active, if deleting { active.len() } else { owner.wanted() }, self.clock.now());
        let outcome = match &plan {
            plan::Plan::Keep => Ok(()),
            plan::Plan::Create(count) => match owner.template() {
                Some(template) => {
                    let pods = std::iter::repeat_n(pod_of(owner, template), *count);
                    self.pods.create(owner, pods).await.map_err(|f| ("FailedCreate", f))
                }
                None => Ok(()),
            },
            plan::Plan::Delete(victims) => {
                self.pods.delete(owner, key, victims).await.map_err(|f| ("FailedDelete", f))
            }
        };
        let now = self.clock.now();
        let mut counts = plan::count(&active, owner.template(), owner.min_ready_seconds(), now);
        counts.observed_generation = owner.metadata().generation.unwrap_or(0);
        let failed = outcome.as_ref().err().map(|(reason, failure)| (*reason, failure));
        counts.failure = failure(owner.counts().failure, failed, self.clock.now_seconds());
        self.write_status(owner, counts).await?;
        outcome.map_err(|(_, failure)| failure)?;
        let soonest = plan::next_available(&active, owner.min_ready_seconds(), now);
        Ok(soonest.map_or(Next::Wait, Next::After))
    }
}

/// The condition after a try, given the one before. Its message is that of the first failure: one that names another pod
/// each time would be a change each time, and each change a try at once.
fn failure(
    before: Option<ReplicaFailure>,
    failed: Option<(&str, &Failure)>,
    now: Timestamp,
) -> Option<ReplicaFailure> {
    let (reason, failure) = failed?;
    let new = || ReplicaFailure {
        reason: reason.to_owned(),
        message: failure.message.clone(),
        since: Some(Time(now)),
    };
    Some(before.filter(|before| before.reason == reason).unwrap_or_else(new))
}

#[async_trait]
impl<O: ReplicaOwner> Reconciler for Replicas<O> {
    type Key = Key;

    fn name(&self) -> &'static str {
        O::NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.owners.get(key) else {
            self.pods.forget(key);
            return Ok(Next::Wait);
        };
        let Some(owner) = object.typed::<O>() else { return Ok(Next::Wait) };
        match self.run(key, &owner).await? {
            Next::After(delay) => Ok(Next::After(delay.max(Duration::from_millis(100)))),
            Next::Wait => Ok(Next::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_of_another_pod_changes_nothing() {
        let refused =
            |pod: &str| Failure::bad_request(format!("pods \"{pod}\" is forbidden: exceeded quota"));
        let (one, other) = (refused("web-1"), refused("web-2"));
        let first = failure(None, Some(("FailedCreate", &one)), Timestamp::UNIX_EPOCH);
        assert_eq!(failure(first.clone(), Some(("FailedCreate", &other)), Timestamp::MAX), first);
        let now = failure(first.clone(), Some(("FailedDelete", &other)), Timestamp::MAX);
        assert_eq!(now.map(|failure| failure.message), Some(other.message));
        assert_eq!(failure(first, None, Timestamp::MAX), None);
    }
}
