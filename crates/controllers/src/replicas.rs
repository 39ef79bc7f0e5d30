//! What ReplicaSets and ReplicationControllers have in common: keep so many pods of a template.
//!
//! Reads pods and owners; creates, deletes, adopts and releases pods; alone writes the owner's status.
//! What is in memory is disposable: the UIDs of pods whose deletion is under way and not yet seen by
//! the cache, so that no second pod is deleted in their place. Creations are waited for instead. A
//! second call without a change does nothing; a new leader starts with what the cache shows.

mod plan;

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, Recorder};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Object, Revision};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::caches::{feed, settle};
use crate::owner::{claim, concerned, controller_reference, settle_claims};
use crate::pods;

/// The most pods that one run creates or deletes.
const BURST: usize = 500;

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
    pods: Informer,
    recorder: Recorder,
    clock: Clock,
    /// Per owner, the pods that are being deleted though the cache does not say so yet.
    doomed: Mutex<HashMap<Key, HashSet<String>>>,
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
        let doomed = Mutex::default();
        let this = Self { client, owners, pods, recorder, clock, doomed, kind: PhantomData };
        balsa_client::run(Arc::new(this), queue, 4, scope);
    }

    /// Forgets what the cache shows by now; answers which pods are still to be taken for deleted.
    fn doomed(&self, owner: &Key, children: &[Arc<Object>]) -> HashSet<String> {
        let mut all = self.doomed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(uids) = all.get_mut(owner) else { return HashSet::new() };
        uids.retain(|uid| children.iter().any(|child| child.uid() == uid && !child.is_deleting()));
        let left = uids.clone();
        if left.is_empty() {
            all.remove(owner);
        }
        left
    }

    fn doom(&self, owner: &Key, uid: &str, doomed: bool) {
        let mut all = self.doomed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let uids = all.entry(owner.clone()).or_default();
        if doomed {
            uids.insert(uid.to_owned());
        } else {
            uids.remove(uid);
        }
    }

    /// Creates pods in batches that double as long as all goes well, so that a quota that refuses all
    /// is asked once and not five hundred times.
    async fn create(&self, owner: &O, count: usize) -> Result<(), Failure> {
        let Some(template) = owner.template() else { return Ok(()) };
        let pod = pod_of(owner, template);
        let api = self.client.api::<Pod>();
        let (mut left, mut batch, mut latest) = (count.min(BURST), 1, Revision::default());
        let mut outcome = Ok(());
        while left > 0 && outcome.is_ok() {
            let size = batch.min(left);
            let answers = futures::future::join_all((0..size).map(|_| api.create(&pod))).await;
            for answer in answers {
                match answer {
                    Ok(created) => {
                        latest = latest.max(created.revision());
                        let message = format!("Created pod: {}", created.key().name);
                        self.recorder.event(&reference_to(owner), "Normal", "SuccessfulCreate", message);
                    }
                    Err(failure) => {
                        let message = format!("Error creating: {failure}");
                        self.recorder.event(&reference_to(owner), "Warning", "FailedCreate", message);
                        outcome = Err(failure);
                    }
                }
            }
            left -= size;
            batch *= 2;
        }
        settle(&self.pods, latest).await;
        outcome
    }

    async fn delete(&self, owner: &O, key: &Key, victims: &[(Key, String)]) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let deletions = victims.iter().take(BURST).map(|(pod, uid)| {
            self.doom(key, uid, true);
            let api = &api;
            async move { (pod, uid, api.delete_in_background(pod, uid).await) }
        });
        let mut outcome = Ok(());
        for (pod, uid, answer) in futures::future::join_all(deletions).await {
            match answer {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name);
                    self.recorder.event(&reference_to(owner), "Normal", "SuccessfulDelete", message);
                }
                Err(failure) => {
                    self.doom(key, uid, false);
                    let message = format!("Error deleting: {failure}");
                    self.recorder.event(&reference_to(owner), "Warning", "FailedDelete", message);
                    outcome = Err(failure);
                }
            }
        }
        outcome
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
        let candidates = self.pods.list_in(&key.namespace);
        let candidates =
            candidates.into_iter().filter(|o| o.typed::<Pod>().is_some_and(|p| !pods::is_terminal(p)));
        let claims = claim(owner.metadata(), &selector, candidates.collect());
        let children = settle_claims::<O, Pod>(&self.client, owner, claims).await?;
        let doomed = self.doomed(key, &children);
        let active: Vec<&Pod> = children
            .iter()
            .filter(|child| !child.is_deleting() && !doomed.contains(child.uid()))
            .filter_map(|child| child.typed::<Pod>())
            .collect();
        let deleting = owner.metadata().deletion_timestamp.is_some();
        let plan =
            plan::plan(&active, if deleting { active.len() } else { owner.wanted() }, self.clock.now());
        let outcome = match &plan {
            plan::Plan::Keep => Ok(()),
            plan::Plan::Create(count) => self.create(owner, *count).await.map_err(|f| ("FailedCreate", f)),
            plan::Plan::Delete(victims) => {
                self.delete(owner, key, victims).await.map_err(|f| ("FailedDelete", f))
            }
        };
        let now = self.clock.now();
        let mut counts = plan::count(&active, owner.template(), owner.min_ready_seconds(), now);
        counts.observed_generation = owner.metadata().generation.unwrap_or(0);
        counts.failure =
            self.failure(owner, outcome.as_ref().err().map(|(reason, failure)| (*reason, failure)));
        self.write_status(owner, counts).await?;
        outcome.map_err(|(_, failure)| failure)?;
        let soonest = plan::next_available(&active, owner.min_ready_seconds(), now);
        Ok(soonest.map_or(Next::Wait, Next::After))
    }

    fn failure(&self, owner: &O, failed: Option<(&str, &Failure)>) -> Option<ReplicaFailure> {
        let (reason, failure) = failed?;
        let before = owner.counts().failure.filter(|before| before.reason == reason);
        let since = before.and_then(|before| before.since).or_else(|| Some(Time(self.clock.now_seconds())));
        Some(ReplicaFailure { reason: reason.to_owned(), message: failure.message.clone(), since })
    }
}

/// A pod of an owner, named by the server.
fn pod_of<O: ReplicaOwner>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", owner.metadata().name.as_deref().unwrap_or_default())),
        namespace: owner.metadata().namespace.clone(),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![controller_reference(owner)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

#[async_trait]
impl<O: ReplicaOwner> Reconciler for Replicas<O> {
    type Key = Key;

    fn name(&self) -> &'static str {
        O::NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.owners.get(key) else {
            let mut all = self.doomed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all.remove(key);
            return Ok(Next::Wait);
        };
        let Some(owner) = object.typed::<O>() else { return Ok(Next::Wait) };
        match self.run(key, owner).await? {
            Next::After(delay) => Ok(Next::After(delay.max(Duration::from_millis(100)))),
            Next::Wait => Ok(Next::Wait),
        }
    }
}
