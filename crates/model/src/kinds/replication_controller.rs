//! ReplicationController: so many pods of one template; what there was before replica sets.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};

use super::check::{default_to, json, optional_non_negative};
use super::pod_spec::template;
use super::{cells, replica_set};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, ScaleOf, Subresource};
use crate::meta;
use crate::meta::hostname_warning;
use crate::selector::LabelSelector;
use crate::table::Cell;

impl Kind for ReplicationController {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[Subresource::Status, Subresource::Scale],
        has_generation: true,
        field_labels: &["status.replicas"],
        columns: replica_set::COLUMNS,
        ..Descriptor::namespaced(
            "",
            "v1",
            "ReplicationController",
            "replicationcontrollers",
            "replicationcontroller",
            "core.v1.ReplicationController",
        )
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        let Some(pods) = &mut spec.template else { return };
        template::set_defaults(pods);
        let labels = pods.metadata.as_ref().and_then(|m| m.labels.clone()).filter(|l| !l.is_empty());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if self.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                self.metadata.labels = Some(labels);
            }
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicationControllerStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), ReplicationControllerSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        optional_non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        meta::validate_labels(Some(&selector), &path.child("selector"), errors);
        optional_non_negative(errors, &path.child("replicas"), spec.replicas);
        let path = path.child("template");
        let Some(pods) = &spec.template else {
            errors.required(&path, "");
            return;
        };
        let labels = pods.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if !LabelSelector::from_map(&selector).matches(labels) {
            let detail = "`selector` does not match template `labels`";
            errors.invalid(&path.child("metadata").child("labels"), json(&labels), detail);
        }
        template::validate(pods, &path, errors);
        template::validate_runs_forever(pods, "ReplicationController", &path, errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let Some(status) = &self.status else { return };
        let counts = ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            ..ReplicaSetStatus::default()
        };
        replica_set::validate_status(&counts, errors);
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
            cells::labels(spec.and_then(|s| s.selector.as_ref())),
        ]
    }

    fn scale(&self) -> Option<ScaleOf> {
        let spec = self.spec.as_ref()?;
        let selector = spec.selector.as_ref().map(|s| LabelSelector::from_map(s).to_string());
        let replicas = self.status.as_ref().map_or(0, |s| s.replicas);
        let status = ScaleStatus { replicas, selector };
        Some(ScaleOf { replicas: spec.replicas.unwrap_or(1), status })
    }

    fn set_replicas(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_template_names_what_is_left_open() {
        let mut rc: ReplicationController = serde_json::from_value(json!({"metadata": {"name": "rc"},
            "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers":
                [{"name": "m", "image": "i:1"}]}}}}))
        .unwrap();
        Kind::prepare_create(&mut rc);
        Kind::set_defaults(&mut rc);
        let value = serde_json::to_value(&rc).unwrap();
        assert_eq!(value["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(value["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(value["spec"]["replicas"], 1);
        assert_eq!(Kind::scale(&rc).unwrap().status.selector.as_deref(), Some("a=b"));
        let mut errors = FieldErrors::new();
        Kind::validate(&rc, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        rc.status = serde_json::from_value(json!({"replicas": 1, "readyReplicas": 2})).unwrap();
        Kind::validate_status(&rc, &rc, &mut errors);
        let told: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]);
    }
}
