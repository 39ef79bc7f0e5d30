//! Which time of a CronJob is due, which of its Jobs are over, and when to look again. Pure.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use balsa_model::kinds::job::{has_condition, is_finished};
use balsa_model::schedule::{Schedule, time_zone};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::owner::controller_reference;

/// So many missed times are worth a warning.
const MANY: usize = 100;
/// The time that a Job is for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What is known.
pub(super) struct View<'a> {
    /// The CronJob.
    pub(super) cron: &'a CronJob,
    /// Its Jobs.
    pub(super) jobs: &'a [Arc<Job>],
    /// Now.
    pub(super) now: Timestamp,
}

/// A time that is due.
#[derive(Debug)]
pub(super) struct Due {
    /// The time.
    pub(super) at: Timestamp,
    /// Its Job.
    pub(super) job: Job,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// The time that is due, if one is.
    pub(super) due: Option<Due>,
    /// Finished Jobs beyond the limits of history.
    pub(super) delete: Vec<&'a Job>,
    /// The status, but for what `due` changes.
    pub(super) status: CronJobStatus,
    /// What to tell: type, reason, message.
    pub(super) events: Vec<(&'static str, &'static str, String)>,
    /// When the next time comes.
    pub(super) look_again: Option<Duration>,
}

/// Plans one run.
pub(super) fn plan<'a>(view: &View<'a>) -> Plan<'a> {
    let nothing = CronJobSpec::default();
    let spec = view.cron.spec.as_ref().unwrap_or(&nothing);
    let mut plan = Plan { status: view.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    note_ends(view, &mut plan);
    plan.delete = surplus(view, spec);
    if view.cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        find_due(view, spec, &mut plan);
    }
    plan
}

/// Jobs that are over leave the list of active ones, and so do those that are gone.
fn note_ends(view: &View<'_>, plan: &mut Plan<'_>) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in view.jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let listed = active.iter().any(|reference| reference.uid == job.metadata.uid);
        match (is_finished(job), listed) {
            (true, true) => {
                let complete = has_condition(job, "Complete");
                let condition = if complete { "Complete" } else { "Failed" };
                let message = format!("Saw completed job: {name}, condition: {condition}");
                plan.events.push(("Normal", "SawCompletedJob", message));
                active.retain(|reference| reference.uid != job.metadata.uid);
            }
            // Somebody has started it by hand: it is none of the schedule's.
            (false, false) if !is_of_a_time(job) => {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.events.push(("Warning", "UnexpectedJob", message));
            }
            // Created for a time, and the status not written: it is in the list from now on.
            (false, false) if job.metadata.deletion_timestamp.is_none() => active.push(super::reference(job)),
            _ => {}
        }
        let ended = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if let Some(ended) = ended.filter(|_| has_condition(job, "Complete"))
            && plan.status.last_successful_time.as_ref().is_none_or(|last| last.0 < ended.0)
        {
            plan.status.last_successful_time = Some(ended);
        }
    }
    active.retain(|reference| view.jobs.iter().any(|job| job.metadata.uid == reference.uid));
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Whether it was made because a time had come.
fn is_of_a_time(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SCHEDULED_AT))
}

fn surplus<'a>(view: &View<'a>, spec: &CronJobSpec) -> Vec<&'a Job> {
    let mut delete = Vec::new();
    for (condition, limit) in
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<&Job> = view
            .jobs
            .iter()
            .map(|job| &**job)
            .filter(|job| has_condition(job, condition) && job.metadata.deletion_timestamp.is_none())
            .collect();
        ended.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            Reverse((started.map(|time| time.0), job.metadata.name.clone()))
        });
        delete.extend(ended.into_iter().skip(limit));
    }
    delete
}

fn find_due(view: &View<'_>, spec: &CronJobSpec, plan: &mut Plan<'_>) {
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(wrong) => {
            let message = format!("unparseable schedule: {} : {wrong}", spec.schedule);
            return plan.events.push(("Warning", "UnparseableSchedule", message));
        }
    };
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match time_zone(name) {
            Some(zone) => zone,
            None => {
                let message = format!("invalid timeZone: \"{name}\": unknown time zone {name}");
                return plan.events.push(("Warning", "UnknownTimeZone", message));
            }
        },
    };
    if let Some(next) = schedule.next(view.now, &zone) {
        // A little late rather than a little early.
        let wait = next.duration_since(view.now).saturating_add(SignedDuration::from_millis(100));
        plan.look_again = Duration::try_from(wait).ok();
    }
    let since = plan.status.last_schedule_time.as_ref().or(view.cron.metadata.creation_timestamp.as_ref());
    let mut since = since.map_or(view.now, |time| time.0);
    if let Some(seconds) = spec.starting_deadline_seconds {
        let earliest = view.now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(since);
        since = since.max(earliest);
    }
    let Some((at, many)) = schedule.latest(since, view.now, &zone, MANY) else { return };
    if many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(("Warning", "TooManyMissedTimes", message.to_owned()));
    }
    plan.due = Some(Due { at, job: job_at(view.cron, spec, at, &zone) });
}

/// The Job of a time.
fn job_at(cron: &CronJob, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let written = if spec.time_zone.is_some() {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    } else {
        at.to_string()
    };
    annotations.insert(SCHEDULED_AT.to_owned(), written);
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(format!("{name}-{}", at.as_second() / 60)),
        namespace: cron.metadata.namespace.clone(),
        labels: from.labels,
        annotations: Some(annotations),
        creation_timestamp: Some(Time(at)),
        owner_references: Some(vec![controller_reference(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec, status: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn cron(extra: Value, status: Value) -> CronJob {
        let mut spec = json!({"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}},
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "c",
            "creationTimestamp": "2025-01-01T00:00:00Z"}, "spec": spec, "status": status}))
        .unwrap()
    }

    fn job(name: &str, condition: &str) -> Arc<Job> {
        let job = json!({"metadata": {"name": name, "uid": name}, "spec": {"template": {}}, "status":
            {"startTime": format!("2025-01-01T00:0{name}:00Z"), "completionTime": "2025-01-01T00:09:00Z",
             "conditions": [{"type": condition, "status": "True"}]}});
        Arc::new(serde_json::from_value(job).unwrap())
    }

    fn of_a_time(job: Arc<Job>) -> Arc<Job> {
        let mut job = Arc::unwrap_or_clone(job);
        job.metadata.annotations = Some([(SCHEDULED_AT.to_owned(), String::new())].into());
        Arc::new(job)
    }

    fn due(cron: &CronJob, now: &str) -> Option<String> {
        let plan = plan(&View { cron, jobs: &[], now: now.parse().unwrap() });
        plan.due.map(|due| format!("{} {}", due.job.metadata.name.unwrap(), due.at))
    }

    #[test]
    fn the_latest_time_is_due_once() {
        let fresh = cron(json!({}), json!({}));
        assert_eq!(due(&fresh, "2025-01-01T00:09:59Z"), None);
        assert_eq!(due(&fresh, "2025-01-01T00:10:01Z").unwrap(), "c-28928170 2025-01-01T00:10:00Z");
        assert_eq!(due(&fresh, "2025-01-01T00:35:01Z").unwrap(), "c-28928190 2025-01-01T00:30:00Z");
        let used = cron(json!({}), json!({"lastScheduleTime": "2025-01-01T00:30:00Z"}));
        assert_eq!(due(&used, "2025-01-01T00:35:01Z"), None);
        let late = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
        assert_eq!(due(&late, "2025-01-01T00:35:01Z"), None);
        assert_eq!(due(&cron(json!({"suspend": true}), json!({})), "2025-01-01T00:35:01Z"), None);
        let zoned = cron(json!({"schedule": "0 8 * * *", "timeZone": "Europe/Madrid"}), json!({}));
        let view = View { cron: &zoned, jobs: &[], now: "2025-01-01T07:00:05Z".parse().unwrap() };
        let plan = plan(&view);
        let annotations = plan.due.unwrap().job.metadata.annotations.unwrap();
        assert_eq!(annotations[SCHEDULED_AT], "2025-01-01T08:00:00+01:00");
        assert_eq!(plan.look_again.unwrap().as_secs(), 24 * 3600 - 5);
    }

    #[test]
    fn jobs_that_are_over_are_noted_and_the_oldest_go() {
        let cron = cron(json!({}), json!({"active": [{"uid": "3"}, {"uid": "gone"}]}));
        let jobs = [
            job("1", "Complete"),
            job("2", "Complete"),
            job("3", "Complete"),
            job("4", "Failed"),
            of_a_time(job("5", "")),
            job("6", ""),
        ];
        let plan = plan(&View { cron: &cron, jobs: &jobs, now: "2025-01-01T00:05:00Z".parse().unwrap() });
        let gone: Vec<&str> = plan.delete.iter().map(|job| job.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(gone, ["2", "1"]);
        let active: Vec<_> = plan.status.active.unwrap().into_iter().map(|job| job.uid.unwrap()).collect();
        assert_eq!(active, ["5"]);
        assert_eq!(plan.events[0].2, "Saw completed job: 3, condition: Complete");
        assert_eq!(plan.events[1].2, "Saw a job that the controller did not create or forgot: 6");
        assert_eq!(plan.status.last_successful_time.unwrap().0.to_string(), "2025-01-01T00:09:00Z");
    }
}
