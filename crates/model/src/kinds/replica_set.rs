//! ReplicaSet: so many pods of one template.
//! Invariants: the selector matches the template's labels and never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::check::{default_to, json, optional_non_negative};
use super::pod_spec::template;
use super::{cells, workload};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, ScaleOf, Subresource};
use crate::meta::hostname_warning;
use crate::table::{Cell, Column};

/// Columns that replica sets and replication controllers share.
pub(crate) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::number("Desired"),
    Column::number("Current"),
    Column::number("Ready"),
    Column::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    cells::SELECTOR,
];

impl Kind for ReplicaSet {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[Subresource::Status, Subresource::Scale],
        has_generation: true,
        field_labels: &["status.replicas"],
        columns: COLUMNS,
        ..Descriptor::namespaced(
            "apps",
            "v1",
            "ReplicaSet",
            "replicasets",
            "replicaset",
            "apps.v1.ReplicaSet",
        )
    };

    fn before_decode(value: &mut Value) {
        workload::note_empty_selector(value);
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        template::set_defaults(spec.template.get_or_insert_default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicaSetStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), ReplicaSetSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        optional_non_negative(errors, &path.child("replicas"), spec.replicas);
        optional_non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        let no_template = PodTemplateSpec::default();
        let pods = spec.template.as_ref().unwrap_or(&no_template);
        workload::validate_selected_template(&spec.selector, pods, "ReplicaSet", &path, errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        if let Some(status) = &self.status {
            validate_status(status, errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let path = Path::new("spec").child("selector");
        errors.immutable(&path, &new.selector, &old.selector, json(&new.selector));
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(self.spec.as_ref()?.template.as_ref()?, Path::new("spec").child("template"))
    }

    fn warnings_on_create(&self) -> Vec<String> {
        hostname_warning(&self.metadata, "Pod names and hostnames")
    }

    fn field(&self, label: &str) -> String {
        match label {
            "status.replicas" => self.status.as_ref().map_or(0, |s| s.replicas).to_string(),
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let [names, images] = cells::containers(spec.and_then(|s| s.template.as_ref()));
        vec![
            Cell::name(self.metadata()),
            Cell::number(spec.and_then(|s| s.replicas).unwrap_or(0)),
            Cell::number(status.map_or(0, |s| s.replicas)),
            Cell::number(status.and_then(|s| s.ready_replicas).unwrap_or(0)),
            Cell::age(self.metadata(), now),
            names,
            images,
            cells::selector(spec.map(|s| &s.selector)),
        ]
    }

    fn scale(&self) -> Option<ScaleOf> {
        let spec = self.spec.as_ref()?;
        let status = ScaleStatus {
            replicas: self.status.as_ref().map_or(0, |s| s.replicas),
            selector: workload::scale_selector(&spec.selector),
        };
        Some(ScaleOf { replicas: spec.replicas.unwrap_or(1), status })
    }

    fn set_replicas(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

/// Checks the numbers of a status, which replication controllers have too.
pub(super) fn validate_status(status: &ReplicaSetStatus, errors: &mut FieldErrors) {
    let parts = [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    workload::validate_counts(status.replicas, &parts, errors);
    workload::validate_available(status.available_replicas, status.ready_replicas, errors);
    workload::validate_progress(status.observed_generation, [None, None], errors);
}

/// How many pods it is to have.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(spec: Value) -> ReplicaSet {
        let mut set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut set);
        Kind::set_defaults(&mut set);
        set
    }

    fn spec() -> Value {
        json!({"selector": {"matchLabels": {"app": "r"}}, "template": {"metadata": {"labels": {"app": "r"}},
            "spec": {"containers": [{"name": "main", "image": "a:1"}]}}})
    }

    #[test]
    fn defaults_row_and_scale() {
        let mut set = set(spec());
        assert_eq!(replicas(&set), 1);
        assert_eq!(serde_json::to_value(&set.status).unwrap(), json!({"replicas": 0}));
        let cells: Vec<_> = Kind::row(&set, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells,
            [
                json!("r"),
                json!(1),
                json!(0),
                json!(0),
                json!("<unknown>"),
                json!("main"),
                json!("a:1"),
                json!("app=r")
            ]
        );
        Kind::set_replicas(&mut set, 4);
        let scale = Kind::scale(&set).unwrap();
        assert_eq!((scale.replicas, scale.status.selector.as_deref()), (4, Some("app=r")));
    }

    #[test]
    fn the_selector_matches_and_stays() {
        let mut errors = FieldErrors::new();
        let mut other = spec();
        other["selector"]["matchLabels"]["app"] = json!("x");
        let other = set(other);
        Kind::validate(&other, &mut errors);
        Kind::validate_update(&other, &set(spec()), &mut errors);
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"r\"}: `selector` does not match template `labels`",
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable",
            ]
        );
    }

    #[test]
    fn statuses_add_up() {
        let wrong = |status: Value| {
            let mut new = set(spec());
            new.status = serde_json::from_value(status).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate_status(&new, &set(spec()), &mut errors);
            errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1})).is_empty());
        assert_eq!(
            wrong(json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1})),
            [
                "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ]
        );
        assert_eq!(
            wrong(json!({"replicas": 1, "availableReplicas": 1})),
            ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]
        );
    }
}
