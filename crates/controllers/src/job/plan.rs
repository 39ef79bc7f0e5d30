//! What to do next about a Job, and what its status says. Pure.
//!
//! One run counts the ends that are not counted yet, judges by them whether the Job is done or lost,
//! and otherwise has as many pods as it needs. A Job that is done or lost first shows its target
//! (`SuccessCriteriaMet`, `FailureTarget`) and takes its last pods away; `Complete` or `Failed` follow
//! when the last of them has ended and is counted.

mod count;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use balsa_model::Key;
use balsa_model::kinds::job::has_condition;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes;
use super::slots::{self, Slot, failures_before, index_of};
use crate::owner::key_of;
use crate::pods;

/// The first wait after a failure, and the longest.
const BACKOFF: (i64, i64) = (10, 600);
const REACHED: (&str, &str) = ("CompletionsReached", "Reached expected number of succeeded pods");

/// What is known.
pub(super) struct View<'a> {
    /// The Job, not finished.
    pub(super) job: &'a Job,
    /// Its pods, ended and leaving ones included.
    pub(super) pods: &'a [Arc<Pod>],
    /// UIDs of pods that are being deleted though they do not say so yet.
    pub(super) doomed: &'a HashSet<String>,
    /// Now.
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to create.
    pub(super) create: Vec<Slot>,
    /// Pods to delete; they count as failed.
    pub(super) delete: Vec<(Key, String)>,
    /// Pods to delete that do not count: they are not wanted just now.
    pub(super) dismiss: Vec<(Key, String)>,
    /// Pods whose ends the status shows: they are let go of after it is written.
    pub(super) counted: Vec<(Key, String)>,
    /// The status.
    pub(super) status: JobStatus,
    /// What to tell: type, reason, message.
    pub(super) events: Vec<(&'static str, String, String)>,
    /// When something has to be done though nothing changes.
    pub(super) look_again: Option<Duration>,
}

struct Work<'a> {
    view: &'a View<'a>,
    spec: JobSpec,
    active: Vec<&'a Pod>,
    terminating: Vec<&'a Pod>,
    completed: BTreeSet<i32>,
    /// Indexes that are lost, where failures are limited by index.
    failed_indexes: BTreeSet<i32>,
    /// What the failure policy says about the Job.
    lost: Option<String>,
    plan: Plan,
}

/// Plans one run.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut work = Work::new(view);
    work.count_ends();
    let deleting = view.job.metadata.deletion_timestamp.is_some();
    if !deleting {
        work.start();
    }
    if let Some((target, reason, message)) = work.target() {
        work.finish(target, &reason, &message);
    } else if !deleting {
        work.keep_active();
    }
    work.describe();
    work.plan
}

fn int(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let spec = view.job.spec.clone().unwrap_or_default();
        let is_doomed = |pod: &Pod| view.doomed.contains(pod.metadata.uid.as_deref().unwrap_or_default());
        let (terminating, active): (Vec<&Pod>, Vec<&Pod>) = view
            .pods
            .iter()
            .map(|pod| &**pod)
            .filter(|pod| !pods::is_terminal(pod))
            .partition(|pod| pod.metadata.deletion_timestamp.is_some() || is_doomed(pod));
        let status = view.job.status.clone().unwrap_or_default();
        let limit = if slots::is_indexed(view.job) { spec.completions.unwrap_or(0) } else { 0 };
        let completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), limit);
        let failed_indexes = indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), limit);
        let plan = Plan { status, ..Plan::default() };
        Self { view, spec, active, terminating, completed, failed_indexes, lost: None, plan }
    }

    fn is_indexed(&self) -> bool {
        slots::is_indexed(self.view.job)
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// How many have succeeded, those included that are not let go of yet.
    fn succeeded(&self) -> i32 {
        if self.is_indexed() {
            return int(self.completed.len());
        }
        let waiting = self.plan.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref());
        self.plan.status.succeeded.unwrap_or(0) + waiting.map_or(0, |uids| int(uids.len()))
    }

    fn failed(&self) -> i32 {
        let waiting = self.plan.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref());
        self.plan.status.failed.unwrap_or(0) + waiting.map_or(0, |uids| int(uids.len()))
    }

    fn tell(&mut self, type_: &'static str, reason: &str, message: &str) {
        self.plan.events.push((type_, reason.to_owned(), message.to_owned()));
    }

    fn look_again(&mut self, seconds: i64) {
        let after = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1));
        self.plan.look_again = Some(self.plan.look_again.map_or(after, |before| before.min(after)));
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let now = Time(self.view.now);
        let conditions = self.plan.status.conditions.get_or_insert_default();
        let before = conditions.iter().position(|condition| condition.type_ == type_);
        if before.is_some_and(|at| conditions[at].status == status) {
            return;
        }
        let condition = JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now),
        };
        match before {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }

    /// Notes the start, and stops and goes on as it is told to.
    fn start(&mut self) {
        let was_suspended = has_condition(self.view.job, "Suspended");
        if self.is_suspended() {
            if !was_suspended {
                self.set("Suspended", "True", "JobSuspended", "Job suspended");
                self.tell("Normal", "Suspended", "Job suspended");
            }
            self.plan.status.start_time = None;
            return;
        }
        if was_suspended {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.tell("Normal", "Resumed", "Job resumed");
        }
        if self.plan.status.start_time.is_none() {
            self.plan.status.start_time = Some(Time(self.view.now));
        }
    }

    /// Whether the Job is done or lost: the condition that says so, its reason and message.
    fn target(&mut self) -> Option<(&'static str, String, String)> {
        for target in ["FailureTarget", "SuccessCriteriaMet"] {
            let all = self.plan.status.conditions.iter().flatten();
            let mut found = all.filter(|c| c.type_ == target && c.status == "True");
            if let Some(found) = found.next() {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                return Some((target, text(&found.reason), text(&found.message)));
            }
        }
        let lost =
            |reason: &str, message: &str| Some(("FailureTarget", reason.to_owned(), message.to_owned()));
        if let Some(message) = self.lost.take() {
            return lost("PodFailurePolicy", &message);
        }
        if self.is_beyond_backoff() {
            return lost("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.is_late() {
            return lost("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if self.spec.backoff_limit_per_index.is_some() {
            let most = self.spec.max_failed_indexes.unwrap_or(i32::MAX);
            if int(self.failed_indexes.len()) > most {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return lost("MaxFailedIndexesExceeded", message);
            }
            let ended = int(self.completed.union(&self.failed_indexes).count());
            if !self.failed_indexes.is_empty() && ended >= self.spec.completions.unwrap_or(0) {
                return lost("FailedIndexes", "Job has failed indexes");
            }
        }
        if let Some(message) = self.meets_success_policy() {
            return Some(("SuccessCriteriaMet", "SuccessPolicy".to_owned(), message));
        }
        let done = match self.spec.completions {
            Some(completions) => {
                self.succeeded() >= completions && (completions > 0 || self.active.is_empty())
            }
            // A queue of work: when one has found it empty, the others end too.
            None => self.succeeded() > 0 && self.active.is_empty() && self.terminating.is_empty(),
        };
        done.then(|| ("SuccessCriteriaMet", REACHED.0.to_owned(), REACHED.1.to_owned()))
    }

    fn is_beyond_backoff(&self) -> bool {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit {
            return true;
        }
        let pods = self.spec.template.spec.as_ref();
        if pods.and_then(|pods| pods.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        // Where containers start again in their pods, those starts count.
        let restarts: i32 = self
            .active
            .iter()
            .flat_map(|pod| &pod.status)
            .flat_map(|s| {
                s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
            })
            .map(|container| container.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn is_late(&mut self) -> bool {
        let (Some(seconds), Some(start)) =
            (self.spec.active_deadline_seconds, self.plan.status.start_time.clone())
        else {
            return false;
        };
        if self.is_suspended() {
            return false;
        }
        let left = seconds - self.view.now.duration_since(start.0).as_secs();
        if left > 0 {
            self.look_again(left);
        }
        left <= 0
    }

    fn meets_success_policy(&self) -> Option<String> {
        let limit = self.spec.completions.unwrap_or(0);
        let rules = self.spec.success_policy.as_ref().filter(|_| self.is_indexed())?;
        for (place, rule) in rules.rules.iter().enumerate() {
            let meant: BTreeSet<i32> = match &rule.succeeded_indexes {
                Some(text) => indexes::parse(text, limit).intersection(&self.completed).copied().collect(),
                None => self.completed.clone(),
            };
            let all = rule.succeeded_indexes.as_ref().map(|text| int(indexes::parse(text, limit).len()));
            let wanted = rule.succeeded_count.or(all)?;
            if int(meant.len()) >= wanted {
                return Some(format!("Matched rules at index {place}"));
            }
        }
        None
    }

    /// Shows where it ends, takes the last pods away, and ends when they have.
    fn finish(&mut self, target: &str, reason: &str, message: &str) {
        self.set(target, "True", reason, message);
        let active = std::mem::take(&mut self.active);
        self.plan.delete = active.iter().map(|pod| name_and_uid(pod)).collect();
        self.terminating.extend(active);
        let uncounted = self.plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let waits = uncounted.succeeded.is_some_and(|uids| !uids.is_empty())
            || uncounted.failed.is_some_and(|uids| !uids.is_empty());
        if !self.terminating.is_empty() || waits {
            return;
        }
        if target == "FailureTarget" {
            self.set("Failed", "True", reason, message);
            self.tell("Warning", reason, message);
        } else {
            self.set("Complete", "True", reason, message);
            self.plan.status.completion_time = Some(Time(self.view.now));
            self.tell("Normal", "Completed", "Job completed");
        }
    }

    /// Has as many pods as it needs.
    fn keep_active(&mut self) {
        let parallelism = if self.is_suspended() { 0 } else { self.spec.parallelism.unwrap_or(1).max(0) };
        let active = int(self.active.len());
        let wanted = match self.spec.completions {
            Some(completions) => {
                let lost =
                    if self.spec.backoff_limit_per_index.is_some() { self.failed_indexes.len() } else { 0 };
                (completions - self.succeeded() - int(lost)).clamp(0, parallelism)
            }
            None if self.succeeded() > 0 => active.min(parallelism),
            None => parallelism,
        };
        if active > wanted {
            let mut order = self.active.clone();
            // Those that have come least far go first.
            order.sort_by_key(|pod| {
                (pods::phase(pod) == "Running", pods::is_ready(pod), std::cmp::Reverse(created(pod)))
            });
            let surplus = usize::try_from(active - wanted).unwrap_or(0);
            self.plan.dismiss = order.into_iter().take(surplus).map(name_and_uid).collect();
            let gone: HashSet<String> = self.plan.dismiss.iter().map(|(_, uid)| uid.clone()).collect();
            self.active.retain(|pod| !gone.contains(pod.metadata.uid.as_deref().unwrap_or_default()));
            return;
        }
        let mut missing = wanted - active;
        if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            missing -= int(self.terminating.len());
        }
        if missing <= 0 {
            return;
        }
        let wait = self.backoff();
        if wait > 0 {
            return self.look_again(wait);
        }
        let missing = usize::try_from(missing).unwrap_or(0);
        if self.is_indexed() {
            self.plan.create = self.free_indexes().into_iter().take(missing).collect();
        } else {
            self.plan.create = vec![Slot::default(); missing];
        }
    }

    /// Seconds until the next pod may come after failures since the last success.
    fn backoff(&self) -> i64 {
        if self.spec.backoff_limit_per_index.is_some() {
            return 0;
        }
        let ends = |phase: &str| {
            let all = self.view.pods.iter().filter(|pod| pods::phase(pod) == phase).map(|pod| ended(pod));
            all.collect::<Vec<_>>()
        };
        let last_success = ends("Succeeded").into_iter().max();
        let failures: Vec<Timestamp> = ends("Failed")
            .into_iter()
            .filter(|end| last_success.is_none_or(|success| *end > success))
            .collect();
        let Some(last) = failures.iter().max() else { return 0 };
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
        let wait = (BACKOFF.0 << doublings).min(BACKOFF.1);
        let due = last.checked_add(SignedDuration::from_secs(wait)).unwrap_or(*last);
        due.duration_since(self.view.now).as_secs()
    }

    /// The lowest indexes that nobody has, or has done.
    fn free_indexes(&self) -> Vec<Slot> {
        let mut taken: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            taken.extend(self.terminating.iter().filter_map(|pod| index_of(pod)));
        }
        taken.extend(&self.completed);
        let limited = self.spec.backoff_limit_per_index.is_some();
        if limited {
            taken.extend(&self.failed_indexes);
        }
        let failures = if limited { self.failures_by_index() } else { BTreeMap::new() };
        (0..self.spec.completions.unwrap_or(0))
            .filter(|index| !taken.contains(index))
            .map(|index| Slot {
                index: Some(index),
                failures: limited.then(|| failures.get(&index).copied().unwrap_or(0)),
            })
            .collect()
    }

    fn failures_by_index(&self) -> BTreeMap<i32, i32> {
        let mut failures = BTreeMap::new();
        for pod in self.view.pods.iter().filter(|pod| pods::phase(pod) == "Failed") {
            if let Some(index) = index_of(pod) {
                let count: &mut i32 = failures.entry(index).or_default();
                *count = (*count).max(failures_before(pod) + 1);
            }
        }
        failures
    }

    fn describe(&mut self) {
        let active = int(self.active.len() + self.plan.create.len());
        let ready = int(self.active.iter().filter(|pod| pods::is_ready(pod)).count());
        let terminating = int(self.terminating.len() + self.plan.dismiss.len());
        let indexed = self.is_indexed();
        let status = &mut self.plan.status;
        status.active = (active > 0).then_some(active);
        status.ready = Some(ready);
        status.terminating = Some(terminating);
        status.uncounted_terminated_pods.get_or_insert_default();
        if indexed {
            let completed = int(self.completed.len());
            status.succeeded = (completed > 0).then_some(completed);
            status.completed_indexes = Some(indexes::format(&self.completed)).filter(|text| !text.is_empty());
            let limited = self.spec.backoff_limit_per_index.is_some();
            status.failed_indexes = limited.then(|| indexes::format(&self.failed_indexes));
        }
    }
}

fn name_and_uid(pod: &Pod) -> (Key, String) {
    (key_of(&pod.metadata), pod.metadata.uid.clone().unwrap_or_default())
}

fn created(pod: &Pod) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0)
}

/// When the last of its containers ended, as far as the pod tells.
fn ended(pod: &Pod) -> Timestamp {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = containers.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let changed = || pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    ends.max_by_key(|time| time.0).or_else(changed).map_or_else(|| created(pod), |time| time.0)
}
