//! Deployment: replica sets that follow one another, a rollout at a time.
//! Invariants: the selector matches the template's labels and never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::check::{
    at_most_100_percent, count_or_percent, default_text, default_to, json, optional_non_negative, percent,
};
use super::pod_spec::template;
use super::{cells, workload};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, ScaleOf, Subresource};
use crate::meta::hostname_warning;
use crate::table::{Cell, Column};

impl Kind for Deployment {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Subresource::Status, Subresource::Scale],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::text("Ready"),
            Column::text("Up-to-date"),
            Column::text("Available"),
            Column::AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        ..Descriptor::namespaced(
            "apps",
            "v1",
            "Deployment",
            "deployments",
            "deployment",
            "apps.v1.Deployment",
        )
    };

    fn before_decode(value: &mut Value) {
        workload::note_empty_selector(value);
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        default_to(&mut spec.revision_history_limit, 10);
        default_to(&mut spec.progress_deadline_seconds, 600);
        let strategy = spec.strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let quarter = || IntOrString::String("25%".to_owned());
            let rolling = strategy.rolling_update.get_or_insert_default();
            default_to(&mut rolling.max_unavailable, quarter());
            default_to(&mut rolling.max_surge, quarter());
        }
        template::set_defaults(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(DeploymentStatus::default());
    }

    fn prepare_part(&mut self, old: &Self, part: Subresource) {
        if part == Subresource::Status {
            self.metadata.labels.clone_from(&old.metadata.labels);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), DeploymentSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        optional_non_negative(errors, &path.child("replicas"), spec.replicas);
        workload::validate_selected_template(&spec.selector, &spec.template, "ReplicaSet", &path, errors);
        if let Some(strategy) = &spec.strategy {
            validate_strategy(strategy, &path.child("strategy"), errors);
        }
        optional_non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        optional_non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
        let deadline_path = path.child("progressDeadlineSeconds");
        optional_non_negative(errors, &deadline_path, spec.progress_deadline_seconds);
        if let Some(deadline) = spec.progress_deadline_seconds
            && deadline <= spec.min_ready_seconds.unwrap_or(0)
        {
            errors.invalid(&deadline_path, deadline, "must be greater than minReadySeconds");
        }
    }

    fn validate_status(&self, old: &Self, errors: &mut FieldErrors) {
        if let Some(status) = &self.status {
            let parts = [
                ("updatedReplicas", status.updated_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
            ];
            workload::validate_counts(status.replicas.unwrap_or(0), &parts, errors);
            // Statuses from before there was `readyReplicas` count what is available only.
            if status.ready_replicas.is_some_and(|ready| ready > 0) {
                workload::validate_available(status.available_replicas, status.ready_replicas, errors);
            }
            let path = Path::new("status");
            let missing = status.unavailable_replicas;
            optional_non_negative(errors, &path.child("unavailableReplicas"), missing);
            let before = old.status.as_ref().and_then(|status| status.collision_count);
            let collisions = [status.collision_count, before];
            workload::validate_progress(status.observed_generation, collisions, errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let path = Path::new("spec").child("selector");
        errors.immutable(&path, &new.selector, &old.selector, json(&new.selector));
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(&self.spec.as_ref()?.template, Path::new("spec").child("template"))
    }

    fn warnings_on_create(&self) -> Vec<String> {
        hostname_warning(&self.metadata, "Pod names and hostnames")
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.clone().unwrap_or_default();
        let [names, images] = cells::containers(spec.map(|s| &s.template));
        let desired = spec.and_then(|s| s.replicas).unwrap_or(0);
        vec![
            Cell::name(self.metadata()),
            Cell::text(format!("{}/{desired}", status.ready_replicas.unwrap_or(0))),
            Cell::number(status.updated_replicas.unwrap_or(0)),
            Cell::number(status.available_replicas.unwrap_or(0)),
            Cell::age(self.metadata(), now),
            names,
            images,
            cells::selector(spec.map(|s| &s.selector)),
        ]
    }

    fn scale(&self) -> Option<ScaleOf> {
        let spec = self.spec.as_ref()?;
        let status = ScaleStatus {
            replicas: self.status.as_ref().and_then(|s| s.replicas).unwrap_or(0),
            selector: workload::scale_selector(&spec.selector),
        };
        Some(ScaleOf { replicas: spec.replicas.unwrap_or(1), status })
    }

    fn set_replicas(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut FieldErrors) {
    let rolling_path = path.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" if strategy.rolling_update.is_some() => {
            errors.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => {
            if let Some(rolling) = &strategy.rolling_update {
                validate_rolling(rolling, &rolling_path, errors);
            }
        }
        _ => errors.not_supported(path, json(strategy), &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path, errors: &mut FieldErrors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    count_or_percent(errors, &unavailable_path, unavailable);
    count_or_percent(errors, &path.child("maxSurge"), surge);
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(&unavailable_path, json(unavailable), "may not be 0 when `maxSurge` is 0");
    }
    at_most_100_percent(errors, &unavailable_path, unavailable);
}

fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(text) => percent(text).unwrap_or(0) == 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(extra: Value) -> Deployment {
        let mut spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template":
            {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "main", "image": "a:1"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut object: Deployment =
            serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut object);
        Kind::set_defaults(&mut object);
        object
    }

    fn errors(object: &Deployment) -> Vec<String> {
        let mut errors = FieldErrors::new();
        Kind::validate(object, &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults() {
        let value = serde_json::to_value(deployment(json!({}))).unwrap();
        let spec = &value["spec"];
        assert_eq!(
            (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
            (&json!(1), &json!(10), &json!(600))
        );
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
        assert_eq!(value["status"], json!({}));
    }

    #[test]
    fn wrong_specs_are_refused() {
        for (extra, wanted) in [
            (json!({"replicas": -1}), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"minReadySeconds": 600}),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
        ] {
            assert_eq!(errors(&deployment(extra)), [wanted]);
        }
    }

    #[test]
    fn nothing_at_all_is_refused_as_the_reference_server_does() {
        let mut object = Deployment::default();
        Kind::set_defaults(&mut object);
        assert_eq!(
            errors(&object),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
    }

    #[test]
    fn an_empty_selector_is_not_a_missing_one() {
        let value = json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}}}}});
        let object = crate::kind::kind_of::<Deployment>().decode(value).unwrap();
        let mut errors = FieldErrors::new();
        object.validate(&mut errors);
        let first = errors.into_vec().remove(0);
        assert_eq!(first.detail, "empty selector is invalid for deployment");
    }

    #[test]
    fn statuses_add_up() {
        let with = |status: Value| {
            let mut object = deployment(json!({}));
            object.status = serde_json::from_value(status).unwrap();
            object
        };
        let wrong = |status: Value| {
            let mut errors = FieldErrors::new();
            let old = with(json!({"replicas": 1, "collisionCount": 2}));
            Kind::validate_status(&with(status), &old, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"replicas": 1, "availableReplicas": 1, "collisionCount": 2})).is_empty());
        assert_eq!(
            wrong(
                json!({"replicas": 1, "updatedReplicas": 2, "unavailableReplicas": -1, "collisionCount": 1})
            ),
            ["status.updatedReplicas", "status.unavailableReplicas", "status.collisionCount"]
        );
    }
}
