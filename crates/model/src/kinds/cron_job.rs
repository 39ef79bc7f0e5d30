//! CronJob: jobs at times.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, JobSpec};

use super::check::{default_text, default_to, one_of, optional_non_negative};
use super::pod_spec::template;
use super::{cells, job};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, Subresource};
use crate::meta::hostname_warning;
use crate::schedule::{Schedule, time_zone};
use crate::table::{Cell, Column, age};

/// Longest name: its jobs add eleven characters, and those of jobs are at most 63.
const MOST_NAME: usize = 52;

impl Kind for CronJob {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::text("Schedule"),
            Column::text("Timezone"),
            Column::text("Suspend"),
            Column::number("Active"),
            Column::text("Last Schedule"),
            Column::AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        ..Descriptor::namespaced("batch", "v1", "CronJob", "cronjobs", "cronjob", "batch.v1.CronJob")
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_text(&mut spec.concurrency_policy, "Allow");
        default_to(&mut spec.suspend, false);
        default_to(&mut spec.successful_jobs_history_limit, 3);
        default_to(&mut spec.failed_jobs_history_limit, 1);
        template::set_defaults(&mut spec.job_template.spec.get_or_insert_default().template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(CronJobStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.len() > MOST_NAME {
            let detail = format!("must be no more than {MOST_NAME} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        let (path, empty) = (Path::new("spec"), CronJobSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        let schedule = spec.schedule.as_str();
        if schedule.is_empty() {
            errors.required(&path.child("schedule"), "");
        } else if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&path.child("schedule"), schedule, detail);
        } else if let Err(detail) = Schedule::parse(schedule) {
            errors.invalid(&path.child("schedule"), schedule, detail);
        }
        validate_zone(spec.time_zone.as_deref(), &path.child("timeZone"), errors);
        optional_non_negative(errors, &path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds);
        let policy = spec.concurrency_policy.as_deref().unwrap_or_default();
        one_of(errors, &path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
        let limit = spec.successful_jobs_history_limit;
        optional_non_negative(errors, &path.child("successfulJobsHistoryLimit"), limit);
        optional_non_negative(errors, &path.child("failedJobsHistoryLimit"), spec.failed_jobs_history_limit);
        let no_job = JobSpec::default();
        let job = spec.job_template.spec.as_ref().unwrap_or(&no_job);
        job::validate_spec(job, &path.child("jobTemplate").child("spec"), errors);
    }

    fn pods(&self) -> Option<Pods<'_>> {
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        Pods::of_template(&self.spec.as_ref()?.job_template.spec.as_ref()?.template, path)
    }

    fn warnings_on_create(&self) -> Vec<String> {
        hostname_warning(&self.metadata, "Pod names and hostnames")
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let job = spec.and_then(|s| s.job_template.spec.as_ref());
        let [names, images] = cells::containers(job.map(|j| &j.template));
        let suspended = spec.and_then(|s| s.suspend) == Some(true);
        let active = status.and_then(|s| s.active.as_ref()).map_or(0, Vec::len);
        let last = status.and_then(|s| s.last_schedule_time.as_ref()).map(|t| age(t.0, now));
        vec![
            Cell::name(self.metadata()),
            cells::or_empty(spec.map(|s| s.schedule.as_str())),
            cells::or_none(spec.and_then(|s| s.time_zone.as_deref())),
            Cell::text(if suspended { "True" } else { "False" }),
            Cell::number(i64::try_from(active).unwrap_or(i64::MAX)),
            cells::or_none(last.as_deref()),
            Cell::age(self.metadata(), now),
            names,
            images,
            cells::selector(job.and_then(|j| j.selector.as_ref())),
        ]
    }
}

/// A zone is one of the database, not whatever the machine happens to be set to.
fn validate_zone(zone: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    match zone {
        None => {}
        Some("") => errors.invalid(path, "", "timeZone must be nil or non-empty string"),
        Some(zone) if zone.eq_ignore_ascii_case("local") => {
            errors.invalid(
                path,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        }
        Some(zone) if time_zone(zone).is_none() => {
            errors.invalid(path, zone, format!("unknown time zone {zone}"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_checks_and_row() {
        for (schedule, wrong) in [("*/5 * * * *", 0), ("@hourly", 0), ("often", 1), ("", 1)] {
            let mut cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec":
                {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
                    "containers": [{"name": "m", "image": "a:1"}]}}}}}}))
            .unwrap();
            Kind::prepare_create(&mut cron);
            Kind::set_defaults(&mut cron);
            let mut errors = FieldErrors::new();
            Kind::validate(&cron, &mut errors);
            assert_eq!(errors.into_vec().len(), wrong, "{schedule}");
            let cells: Vec<_> = Kind::row(&cron, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
            assert_eq!(
                cells[1..6],
                [json!(schedule), json!("<none>"), json!("False"), json!(0), json!("<none>")]
            );
        }
    }
}
