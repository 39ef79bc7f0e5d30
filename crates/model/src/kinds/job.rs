//! Job: pods that run until enough of them have succeeded.
//! Invariants: its selector is its own unless the client insists; template and completions never change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as MetaSelector;

use super::cells;
use super::check::{default_text, default_to, json, one_of, optional_non_negative};
use super::pod_spec::{scheduling::validate_label_selector, template};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, Subresource};
use crate::meta::hostname_warning;
use crate::selector::LabelSelector;
use crate::table::{Cell, Column, human_duration};

mod policies;

/// The labels that tie pods to their job, new and old.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// From where on Kubernetes warns of an indexed job.
const MANY_COMPLETIONS: i32 = 100_000;
const MANY_AT_ONCE: i32 = 10_000;

impl Kind for Job {
    const DESCRIPTOR: Descriptor = Descriptor {
        categories: &["all"],
        subresources: &[Subresource::Status],
        has_generation: true,
        field_labels: &["status.successful"],
        columns: &[
            Column::NAME,
            Column::text("Status"),
            Column::text("Completions"),
            Column::text("Duration"),
            Column::AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        ..Descriptor::namespaced("batch", "v1", "Job", "jobs", "job", "batch.v1.Job")
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        default_to(&mut spec.parallelism, 1);
        let per_index = spec.backoff_limit_per_index.is_some();
        default_to(&mut spec.backoff_limit, if per_index { i32::MAX } else { 6 });
        default_text(&mut spec.completion_mode, "NonIndexed");
        default_to(&mut spec.suspend, false);
        default_to(&mut spec.manual_selector, false);
        let replaces = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        default_text(&mut spec.pod_replacement_policy, replaces);
        template::set_defaults(&mut spec.template);
        policies::set_defaults(spec);
        if self.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
            let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone());
            self.metadata.labels = labels.filter(|l| !l.is_empty());
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(JobStatus::default());
        let (uid, name) = (self.metadata.uid.clone(), self.metadata.name.clone());
        let (Some(uid), Some(name)) = (uid, name) else { return };
        let spec = self.spec.get_or_insert_default();
        if spec.manual_selector == Some(true) {
            return;
        }
        let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
        for key in UID_LABELS {
            labels.insert(key.to_owned(), uid.clone());
        }
        for key in NAME_LABELS {
            labels.insert(key.to_owned(), name.clone());
        }
        let selector = spec.selector.get_or_insert_default();
        selector.match_labels.get_or_insert_default().insert(UID_LABELS[0].to_owned(), uid);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), JobSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        validate_spec(spec, &path, errors);
        let no_selector = MetaSelector::default();
        match &spec.selector {
            None => errors.required(&path.child("selector"), ""),
            Some(selector) => {
                validate_label_selector(selector, &path.child("selector"), errors);
                if spec.manual_selector != Some(true) {
                    validate_generated(self, selector, &path.child("selector"), errors);
                }
            }
        }
        let selector = LabelSelector::from_meta(spec.selector.as_ref().unwrap_or(&no_selector));
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if spec.selector.is_none() || selector.is_ok_and(|selector| !selector.matches(labels)) {
            let detail = "`selector` does not match template `labels`";
            errors.invalid(&path.child("template").child("metadata").child("labels"), json(&labels), detail);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let (Some(status), path) = (&self.status, Path::new("status")) else { return };
        for (field, count) in [
            ("active", status.active),
            ("succeeded", status.succeeded),
            ("failed", status.failed),
            ("ready", status.ready),
            ("terminating", status.terminating),
        ] {
            optional_non_negative(errors, &path.child(field), count);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old), path) = (&self.spec, &old.spec, Path::new("spec")) else { return };
        // An indexed job may grow and shrink with its parallelism.
        let elastic = new.completion_mode.as_deref() == Some("Indexed") && new.completions == new.parallelism;
        if !elastic {
            let path = path.child("completions");
            errors.immutable(&path, &new.completions, &old.completions, json(&new.completions));
        }
        errors.immutable(&path.child("selector"), &new.selector, &old.selector, json(&new.selector));
        let was_suspended = old.suspend == Some(true);
        if !was_suspended {
            errors.immutable(&path.child("template"), &new.template, &old.template, json(&new.template));
        }
        let mode = new.completion_mode.clone();
        errors.immutable(&path.child("completionMode"), &mode, &old.completion_mode, mode.clone());
        let (failure, success) = (&new.pod_failure_policy, &new.success_policy);
        errors.immutable(&path.child("podFailurePolicy"), failure, &old.pod_failure_policy, json(failure));
        let limit = &new.backoff_limit_per_index;
        let limit_path = path.child("backoffLimitPerIndex");
        errors.immutable(&limit_path, limit, &old.backoff_limit_per_index, json(limit));
        errors.immutable(&path.child("successPolicy"), success, &old.success_policy, json(success));
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(&self.spec.as_ref()?.template, Path::new("spec").child("template"))
    }

    fn warnings_on_create(&self) -> Vec<String> {
        hostname_warning(&self.metadata, "Pod names and hostnames")
    }

    fn field(&self, label: &str) -> String {
        match label {
            "status.successful" => self.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0).to_string(),
            _ => String::new(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let is_many =
            spec.completions.unwrap_or(0) > MANY_COMPLETIONS && spec.parallelism.unwrap_or(0) > MANY_AT_ONCE;
        if !is_indexed || !is_many {
            return Vec::new();
        }
        vec![
            "spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let [names, images] = cells::containers(spec.map(|s| &s.template));
        vec![
            Cell::name(self.metadata()),
            Cell::text(status_text(self)),
            Cell::text(completions_text(self)),
            Cell::text(duration_text(self, now)),
            Cell::age(self.metadata(), now),
            names,
            images,
            cells::selector(spec.and_then(|s| s.selector.as_ref())),
        ]
    }
}

/// Checks the spec of a job or of a template of jobs, but for its selector.
pub(crate) fn validate_spec(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        optional_non_negative(errors, &path.child(field), value);
    }
    if let Some(mode) = &spec.completion_mode {
        one_of(errors, &path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
        if mode == "Indexed" && spec.completions.is_none() {
            let detail = "when completion mode is Indexed";
            errors.required(&path.child("completions"), detail);
        }
    }
    policies::validate(spec, path, errors);
    template::validate(&spec.template, &path.child("template"), errors);
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or_default();
    let policy_path = path.child("template").child("spec").child("restartPolicy");
    match policy {
        "" | "Always" => errors.required(&policy_path, "valid values: \"OnFailure\", \"Never\""),
        other => one_of(errors, &policy_path, other, &["OnFailure", "Never"]),
    }
}

fn validate_generated(job: &Job, selector: &MetaSelector, path: &Path, errors: &mut FieldErrors) {
    let Some(uid) = job.metadata.uid.as_ref() else { return };
    let is = |key: &str| {
        selector.match_labels == Some(BTreeMap::from([(key.to_owned(), uid.clone())]))
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    };
    // Jobs from before the labels had prefixes keep their old selector.
    if !UID_LABELS.iter().any(|key| is(key)) {
        errors.invalid(path, json(selector), "`selector` not auto-generated");
    }
}

/// Whether one of its conditions is `True`.
pub fn has_condition(job: &Job, name: &str) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == name && c.status == "True")
}

/// Whether it has succeeded or failed.
pub fn is_finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

fn status_text(job: &Job) -> &'static str {
    for (condition, text) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if has_condition(job, condition) {
            return text;
        }
    }
    if job.metadata.deletion_timestamp.is_some() {
        return "Terminating";
    }
    for (condition, text) in [
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ] {
        if has_condition(job, condition) {
            return text;
        }
    }
    "Running"
}

fn completions_text(job: &Job) -> String {
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    let spec = job.spec.as_ref();
    let parallelism = spec.and_then(|s| s.parallelism).unwrap_or(0);
    match spec.and_then(|s| s.completions) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration_text(job: &Job, now: Timestamp) -> String {
    let status = job.status.as_ref();
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else { return String::new() };
    let end = status.and_then(|s| s.completion_time.as_ref()).map_or(now, |t| t.0);
    human_duration(end.as_second() - start.0.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(extra: Value, policy: &str) -> Job {
        let mut spec = json!({"template": {"spec": {"restartPolicy": policy,
            "containers": [{"name": "main", "image": "a:1"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut job: Job =
            serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut job);
        Kind::set_defaults(&mut job);
        job
    }

    fn errors(job: &Job) -> Vec<String> {
        let mut errors = FieldErrors::new();
        Kind::validate(job, &mut errors);
        errors.into_vec().iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let job = job(json!({}), "Never");
        let value = serde_json::to_value(&job).unwrap();
        let spec = &value["spec"];
        assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(spec["template"]["metadata"]["labels"].as_object().unwrap().len(), 4);
        assert_eq!(value["metadata"]["labels"]["job-name"], "j");
        assert_eq!(
            (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]),
            (&json!(1), &json!(1), &json!(6))
        );
        assert!(errors(&job).is_empty(), "{:?}", errors(&job));
        let cells: Vec<_> = Kind::row(&job, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(cells[..4], ["j", "Running", "0/1", ""]);
    }

    #[test]
    fn wrong_jobs_are_refused() {
        assert_eq!(errors(&job(json!({}), "Always")), ["spec.template.spec.restartPolicy"]);
        assert_eq!(
            errors(&job(json!({"parallelism": -1, "backoffLimit": -1}), "Never")),
            ["spec.parallelism", "spec.backoffLimit"]
        );
        assert_eq!(
            errors(&job(json!({"selector": {"matchLabels": {"a": "b"}}}), "Never")),
            ["spec.selector", "spec.template.metadata.labels"]
        );
        let mut found = FieldErrors::new();
        Kind::validate_update(&job(json!({"completions": 5}), "Never"), &job(json!({}), "Never"), &mut found);
        assert_eq!(found.into_vec()[0].to_string(), "spec.completions: Invalid value: 5: field is immutable");
    }
}
