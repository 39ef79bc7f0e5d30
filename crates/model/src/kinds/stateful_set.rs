//! StatefulSet: pods with names that stay, and volumes that stay with the names.
//! Invariant: little but the number and the template of its pods ever changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::autoscaling::v1::ScaleStatus;
use serde_json::Value;

use super::check::{default_text, default_to, json, one_of, optional_non_negative};
use super::persistent_volume_claim::{set_spec_defaults, validate_spec};
use super::pod_spec::{self, template};
use super::{cells, workload};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, ScaleOf, Subresource};
use crate::table::{Cell, Column};

impl Kind for StatefulSet {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[Subresource::Status, Subresource::Scale],
        has_generation: true,
        columns: &[Column::NAME, Column::text("Ready"), Column::AGE, cells::CONTAINERS, cells::IMAGES],
        ..Descriptor::namespaced(
            "apps",
            "v1",
            "StatefulSet",
            "statefulsets",
            "statefulset",
            "apps.v1.StatefulSet",
        )
    };

    fn before_decode(value: &mut Value) {
        workload::note_empty_selector(value);
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.replicas, 1);
        default_to(&mut spec.revision_history_limit, 10);
        default_text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            default_to(&mut strategy.rolling_update.get_or_insert_default().partition, 0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        default_text(&mut retention.when_deleted, "Retain");
        default_text(&mut retention.when_scaled, "Retain");
        template::set_defaults(&mut spec.template);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            set_spec_defaults(claim.spec.get_or_insert_default());
            default_text(&mut claim.status.get_or_insert_default().phase, "Pending");
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(StatefulSetStatus { available_replicas: Some(0), ..StatefulSetStatus::default() });
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), StatefulSetSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        let policy = spec.pod_management_policy.as_deref().unwrap_or_default();
        if !["OrderedReady", "Parallel"].contains(&policy) {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&path.child("podManagementPolicy"), policy, detail);
        }
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(strategy, &path.child("updateStrategy"), errors);
        }
        if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (field, policy) in
                [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)]
            {
                one_of(
                    errors,
                    &path.child(field),
                    policy.as_deref().unwrap_or_default(),
                    &["Delete", "Retain"],
                );
            }
        }
        optional_non_negative(errors, &path.child("replicas"), spec.replicas);
        optional_non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        optional_non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            if let Some(spec) = &claim.spec {
                let path = path.child("volumeClaimTemplates").index(i).child("spec");
                validate_spec(spec, &path, errors);
            }
        }
        let pods = with_claimed_volumes(spec);
        workload::validate_selected_template(&spec.selector, &pods, "StatefulSet", &path, errors);
    }

    fn validate_status(&self, old: &Self, errors: &mut FieldErrors) {
        let Some(status) = &self.status else { return };
        let parts = [
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        workload::validate_counts(status.replicas, &parts, errors);
        if status.available_replicas.unwrap_or(0) > status.ready_replicas.unwrap_or(0) {
            let path = Path::new("status").child("availableReplicas");
            errors.invalid(&path, status.available_replicas, "cannot be greater than status.readyReplicas");
        }
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        let collisions = [status.collision_count, before];
        workload::validate_progress(status.observed_generation, collisions, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let rest = StatefulSetSpec {
            replicas: old.replicas,
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ordinals: old.ordinals.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
            ..new.clone()
        };
        if rest != *old {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(&self.spec.as_ref()?.template, Path::new("spec").child("template"))
    }

    fn warnings(&self) -> Vec<String> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut told = Vec::new();
        if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            told.push(format!(
                "{}: a negative value retains all historical revisions; a value >= 0 is recommended",
                path.child("revisionHistoryLimit")
            ));
        }
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            if let Some(spec) = &claim.spec {
                let path = path.child("volumeClaimTemplates").index(i).child("spec");
                pod_spec::warnings::claim(spec, &path, &mut told);
            }
        }
        told
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let ready = self.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let desired = spec.and_then(|s| s.replicas).unwrap_or(0);
        let [names, images] = cells::containers(spec.map(|s| &s.template));
        vec![
            Cell::name(self.metadata()),
            Cell::text(format!("{ready}/{desired}")),
            Cell::age(self.metadata(), now),
            names,
            images,
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

/// The template with the volumes that the claims will give its pods, so that mounts find them.
fn with_claimed_volumes(spec: &StatefulSetSpec) -> k8s_openapi::api::core::v1::PodTemplateSpec {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume};
    let mut pods = spec.template.clone();
    if let Some(pod) = &mut pods.spec {
        for claim in spec.volume_claim_templates.iter().flatten() {
            let name = claim.metadata.name.clone().unwrap_or_default();
            let volumes = pod.volumes.get_or_insert_default();
            volumes.retain(|volume| volume.name != name);
            volumes.push(Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: name.clone(),
                    read_only: None,
                }),
                name,
                ..Volume::default()
            });
        }
    }
    pods
}

fn validate_strategy(strategy: &StatefulSetUpdateStrategy, path: &Path, errors: &mut FieldErrors) {
    match strategy.type_.as_deref().unwrap_or_default() {
        "" => errors.required(path, ""),
        "OnDelete" if strategy.rolling_update.is_some() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&path.child("rollingUpdate"), json(&strategy.rolling_update), detail);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let partition = strategy.rolling_update.as_ref().and_then(|r| r.partition);
            optional_non_negative(errors, &path.child("rollingUpdate").child("partition"), partition);
        }
        _ => errors.invalid(path, json(strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(extra: Value) -> StatefulSet {
        let mut spec = json!({"serviceName": "s", "selector": {"matchLabels": {"app": "s"}}, "template":
            {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "main", "image": "a:1",
                "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut set);
        Kind::set_defaults(&mut set);
        set
    }

    #[test]
    fn defaults_and_checks() {
        let value = serde_json::to_value(set(json!({}))).unwrap();
        assert_eq!(
            value["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(value["status"], json!({"replicas": 0, "availableReplicas": 0}));
        for (extra, wanted) in [
            (json!({}), vec![]),
            (
                json!({"podManagementPolicy": "Fast"}),
                vec![
                    "spec.podManagementPolicy: Invalid value: \"Fast\": must be 'OrderedReady' or 'Parallel'",
                ],
            ),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&set(extra), &mut errors);
            assert_eq!(errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn numbers_of_pods_are_checked() {
        let wrong = |status: Value| {
            let (mut new, mut old, mut errors) = (set(json!({})), set(json!({})), FieldErrors::new());
            old.status = serde_json::from_value(json!({"replicas": 0, "collisionCount": 2})).unwrap();
            new.status = serde_json::from_value(status).unwrap();
            Kind::validate_status(&new, &old, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        let good = json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1, "collisionCount": 2});
        assert!(wrong(good).is_empty());
        assert_eq!(
            wrong(json!({"replicas": -1, "observedGeneration": -1, "collisionCount": 1})),
            ["status.replicas", "status.observedGeneration", "status.collisionCount"]
        );
        assert_eq!(
            wrong(json!({"replicas": 1, "availableReplicas": 1, "collisionCount": 3})),
            ["status.availableReplicas"]
        );
    }

    #[test]
    fn little_changes() {
        let refused = |extra: Value| {
            let mut errors = FieldErrors::new();
            Kind::validate_update(&set(extra), &set(json!({})), &mut errors);
            errors.into_vec().len()
        };
        assert_eq!(refused(json!({"replicas": 3, "minReadySeconds": 4})), 0);
        assert_eq!(refused(json!({"serviceName": "other"})), 1);
    }
}
