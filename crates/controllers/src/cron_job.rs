//! CronJobs: Jobs at times.
//!
//! Reads CronJobs and Jobs; creates Jobs whose names say for which minute they are, so that none is made
//! twice; deletes the oldest finished ones; alone writes the CronJob's status. When a time was last used
//! is in the status, so a new leader misses none and repeats none.

mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Reason};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::caches::{Caches, settle};
use crate::owner::{concerned, controller_uid, key_of};
use plan::{Due, View};

struct CronJobs {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.cron_jobs, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let crons = caches.cron_jobs.clone();
    feed(&caches.jobs, &queue, scope, move |change| {
        // CronJobs adopt nobody: only Jobs that say so are theirs.
        concerned::<CronJob>(change, &crons, |_| balsa_model::selector::LabelSelector::nothing())
    });
    let this = CronJobs { client, caches: caches.clone(), recorder, clock };
    balsa_client::run(Arc::new(this), queue, 4, scope);
}

/// How a Job is referred to in a status.
fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

impl CronJobs {
    fn tell(&self, cron: &CronJob, type_: &'static str, reason: &str, message: String) {
        self.recorder.event(&reference_to(cron), type_, reason, message);
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Failure> {
        let key = key_of(&job.metadata);
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        match self.client.api::<Job>().delete_in_background(&key, uid).await {
            Ok(()) => {
                self.tell(cron, "Normal", "SuccessfulDelete", format!("Deleted job {}", key.name));
                Ok(())
            }
            Err(failure) => {
                self.tell(cron, "Warning", "FailedDelete", format!("Deleted job: {failure}"));
                Err(failure)
            }
        }
    }

    /// Creates the Job of a time; `None` when it is there already and is somebody else's.
    async fn create(&self, cron: &CronJob, job: &Job) -> Result<Option<Job>, Failure> {
        let api = self.client.api::<Job>();
        match api.create(job).await {
            Ok(created) => {
                let message = format!("Created job {}", created.key().name);
                self.tell(cron, "Normal", "SuccessfulCreate", message);
                settle(&self.caches.jobs, created.revision()).await;
                Ok(created.to_typed::<Job>())
            }
            Err(failure) if failure.reason == Reason::AlreadyExists => {
                let found = api.find(&key_of(&job.metadata)).await?;
                let uid = cron.metadata.uid.as_deref().unwrap_or_default();
                Ok(found.filter(|found| controller_uid(&found.metadata) == uid))
            }
            Err(failure) => {
                self.tell(cron, "Warning", "FailedCreate", format!("Error creating job: {failure}"));
                Err(failure)
            }
        }
    }

    /// Starts what is due, as the concurrency policy says; answers whether the time is used up.
    async fn start_due(
        &self,
        cron: &CronJob,
        due: &Due,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<(), Failure> {
        let policy = cron.spec.as_ref().and_then(|spec| spec.concurrency_policy.as_deref());
        let active = status.active.clone().unwrap_or_default();
        if policy == Some("Forbid") && !active.is_empty() {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.tell(cron, "Normal", "JobAlreadyActive", message.to_owned());
            return Ok(());
        }
        if policy == Some("Replace") {
            for job in jobs.iter().filter(|job| active.iter().any(|a| a.uid == job.metadata.uid)) {
                self.delete(cron, job).await?;
            }
            status.active = None;
        }
        let Some(created) = self.create(cron, &due.job).await? else { return Ok(()) };
        let list = status.active.get_or_insert_default();
        if !list.iter().any(|job| job.uid == created.metadata.uid) {
            list.push(reference(&created));
        }
        status.last_schedule_time = Some(Time(due.at));
        Ok(())
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), Failure> {
        if cron.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = cron.clone();
        changed.status = Some(status);
        let written = self.client.api::<CronJob>().update(&changed, Part::Status).await?;
        settle(&self.caches.cron_jobs, written.revision()).await;
        Ok(())
    }

    async fn run(&self, key: &Key, cron: &CronJob) -> Result<Next, Failure> {
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let objects = self.caches.jobs.list_in(&key.namespace);
        let own = objects.iter().filter(|object| controller_uid(object.meta()) == uid);
        let jobs: Vec<Arc<Job>> = own.filter_map(|object| object.typed()).collect();
        let plan = plan::plan(&View { cron, jobs: &jobs, now: self.clock.now() });
        for (type_, reason, message) in &plan.events {
            self.tell(cron, type_, reason, message.clone());
        }
        for job in &plan.delete {
            self.delete(cron, job).await?;
        }
        let mut status = plan.status;
        let mut outcome = Ok(());
        if let Some(due) = &plan.due {
            outcome = self.start_due(cron, due, &jobs, &mut status).await;
        }
        self.write_status(cron, status).await?;
        outcome?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

#[async_trait]
impl Reconciler for CronJobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "cronjob"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.cron_jobs.get(key) else { return Ok(Next::Wait) };
        let Some(cron) = object.typed::<CronJob>() else { return Ok(Next::Wait) };
        self.run(key, &cron).await
    }
}
