//! Jobs: pods that run until enough of them have succeeded, or too many have failed.
//!
//! Reads Jobs and pods; creates and deletes pods; alone writes the Job's status. Each pod carries a
//! finalizer until its end is counted, and the status lists the UIDs of pods that are counted but still
//! carry it: so every end is counted once, whatever is deleted and whoever leads. The wait between
//! failures is counted from the pods that failed. `release` takes the finalizer from pods without a Job.

mod failure_policy;
mod indexes;
mod plan;
mod release;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::kinds::job::is_finished;
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Revision};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::caches::{Caches, settle};
use crate::owner::{claim, concerned, settle_claims};
use crate::pod_control::PodControl;
use plan::{Plan, View};

/// Holds a pod until its end is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Who sees to a Job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Jobs {
    client: Client,
    caches: Caches,
    pods: PodControl,
    recorder: Recorder,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.jobs, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let jobs = caches.jobs.clone();
    feed(&caches.pods, &queue, scope, move |change| concerned::<Job>(change, &jobs, selector));
    release::start(client.clone(), caches, scope);
    let pods = PodControl::new(client.clone(), caches.pods.clone(), recorder.clone());
    let this = Jobs { client, caches: caches.clone(), pods, recorder, clock };
    balsa_client::run(Arc::new(this), queue, 4, scope);
}

fn selector(job: &Job) -> LabelSelector {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| LabelSelector::from_meta(selector).ok());
    selector.filter(|selector| !selector.selects_all()).unwrap_or_else(LabelSelector::nothing)
}

/// Whether a pod is one whose end is still to be counted.
fn is_tracked(pod: &ObjectMeta) -> bool {
    pod.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// Takes the finalizer off; whether it was there.
fn untrack(pod: &mut Pod) -> bool {
    let finalizers = pod.metadata.finalizers.take().unwrap_or_default();
    let before = finalizers.len();
    let left: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != TRACKING).collect();
    let changed = left.len() != before;
    pod.metadata.finalizers = (!left.is_empty()).then_some(left);
    changed
}

impl Jobs {
    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<(), Failure> {
        if job.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = job.clone();
        changed.status = Some(status);
        let written = self.client.api::<Job>().update(&changed, Part::Status).await?;
        settle(&self.caches.jobs, written.revision()).await;
        Ok(())
    }

    /// Lets go of pods whose ends are counted.
    async fn release(&self, keys: &[(Key, String)]) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let writes = keys.iter().map(|(key, uid)| {
            api.modify(key, Part::Main, |pod: &mut Pod| {
                pod.metadata.uid.as_deref() == Some(uid.as_str()) && untrack(pod)
            })
        });
        let (mut latest, mut outcome) = (Revision::default(), Ok(()));
        for answer in futures::future::join_all(writes).await {
            match answer {
                Ok(written) => latest = latest.max(written.map(|o| o.revision()).unwrap_or_default()),
                Err(failure) => outcome = Err(failure),
            }
        }
        settle(&self.caches.pods, latest).await;
        outcome
    }

    async fn carry_out(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), Failure> {
        // What is not to count as a failure is let go of before it is deleted.
        let uncounted: Vec<(Key, String)> = plan.dismiss.clone();
        self.release(&uncounted).await?;
        self.pods.delete(job, key, &uncounted).await?;
        self.pods.delete(job, key, &plan.delete).await?;
        self.pods.create(job, plan.create.iter().map(|slot| slots::pod(job, slot))).await
    }

    async fn run(&self, key: &Key, job: &Job) -> Result<Next, Failure> {
        let claims = claim(&job.metadata, &selector(job), self.pods.candidates(&key.namespace));
        let children = settle_claims::<Job, Pod>(&self.client, job, claims).await?;
        let doomed = self.pods.doomed(key, &children);
        let pods: Vec<Arc<Pod>> = children.iter().filter_map(|child| child.typed()).collect();
        let plan = plan::plan(&View { job, pods: &pods, doomed: &doomed, now: self.clock.now_seconds() });
        let outcome = self.carry_out(key, job, &plan).await;
        if outcome.is_err() {
            // What was to be created or deleted was not, or not all: the next run counts again.
            let mut status = plan.status.clone();
            status.active = job.status.as_ref().and_then(|before| before.active);
            self.write_status(job, status).await?;
        } else {
            self.write_status(job, plan.status).await?;
        }
        for (type_, reason, message) in &plan.events {
            self.recorder.event(&reference_to(job), type_, reason, message.clone());
        }
        self.release(&plan.counted).await?;
        outcome?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

#[async_trait]
impl Reconciler for Jobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "job"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.jobs.get(key) else {
            self.pods.forget(key);
            return Ok(Next::Wait);
        };
        let Some(job) = object.typed::<Job>() else { return Ok(Next::Wait) };
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(Next::Wait);
        }
        if is_finished(&job) {
            // Nothing changes any more but that the last pods are let go of.
            let pods = self.pods.candidates(&key.namespace);
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let own = pods.iter().filter(|pod| crate::owner::controller_uid(pod.meta()) == uid);
            let held = own.filter(|pod| is_tracked(pod.meta()));
            let held: Vec<_> = held.map(|pod| (pod.key().clone(), pod.uid().to_owned())).collect();
            self.release(&held).await?;
            return Ok(Next::Wait);
        }
        self.run(key, &job).await
    }
}
