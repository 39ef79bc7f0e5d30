//! DaemonSet: one pod of a template on every node that will have it.
//! Invariants: the selector matches the template's labels and never changes; an annotation counts the
//! template's changes, as clients from before there were revisions expect.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::check::{
    at_most_100_percent, count_or_percent, default_text, default_to, json, optional_non_negative,
};
use super::pod_spec::template;
use super::{cells, workload};
use crate::field::{CauseKind, FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, Subresource};
use crate::table::{Cell, Column};

const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

impl Kind for DaemonSet {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::number("Desired"),
            Column::number("Current"),
            Column::number("Ready"),
            Column::number("Up-to-date"),
            Column::number("Available"),
            Column::text("Node Selector"),
            Column::AGE,
            cells::CONTAINERS,
            cells::IMAGES,
            cells::SELECTOR,
        ],
        ..Descriptor::namespaced("apps", "v1", "DaemonSet", "daemonsets", "daemonset", "apps.v1.DaemonSet")
    };

    fn before_decode(value: &mut Value) {
        workload::note_empty_selector(value);
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.revision_history_limit, 10);
        let strategy = spec.update_strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            default_to(&mut rolling.max_unavailable, IntOrString::Int(1));
            default_to(&mut rolling.max_surge, IntOrString::Int(0));
        }
        template::set_defaults(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(DaemonSetStatus::default());
        set_template_generation(self, 1);
    }

    fn prepare_update(&mut self, old: &Self) {
        let before = template_generation(old);
        let mut defaulted = self.clone();
        Kind::set_defaults(&mut defaulted);
        let template = |set: &Self| set.spec.as_ref().map(|s| s.template.clone());
        let changed = template(&defaulted) != template(old);
        set_template_generation(self, if changed { before + 1 } else { before });
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), DaemonSetSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        workload::validate_selected_template(&spec.selector, &spec.template, "DaemonSet", &path, errors);
        optional_non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(strategy, &path.child("updateStrategy"), errors);
        }
        optional_non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
    }

    fn validate_status(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(status), path) = (&self.status, Path::new("status")) else { return };
        for (field, count) in [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
        ] {
            optional_non_negative(errors, &path.child(field), count);
        }
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        let collisions = [status.collision_count, before];
        workload::validate_progress(status.observed_generation, collisions, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let path = Path::new("spec").child("selector");
        errors.immutable(&path, &new.selector, &old.selector, json(&new.selector));
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(&self.spec.as_ref()?.template, Path::new("spec").child("template"))
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.clone().unwrap_or_default();
        let pods = spec.and_then(|s| s.template.spec.as_ref());
        let [names, images] = cells::containers(spec.map(|s| &s.template));
        vec![
            Cell::name(self.metadata()),
            Cell::number(status.desired_number_scheduled),
            Cell::number(status.current_number_scheduled),
            Cell::number(status.number_ready),
            Cell::number(status.updated_number_scheduled.unwrap_or(0)),
            Cell::number(status.number_available.unwrap_or(0)),
            cells::labels(pods.and_then(|p| p.node_selector.as_ref())),
            Cell::age(self.metadata(), now),
            names,
            images,
            cells::selector(spec.map(|s| &s.selector)),
        ]
    }
}

fn template_generation(set: &DaemonSet) -> i64 {
    let annotation = set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION_ANNOTATION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(GENERATION_ANNOTATION.to_owned(), generation.to_string());
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path, errors: &mut FieldErrors) {
    match strategy.type_.as_deref().unwrap_or_default() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.rolling_update.clone().unwrap_or_default();
            let path = path.child("rollingUpdate");
            for (field, value) in
                [("maxUnavailable", &rolling.max_unavailable), ("maxSurge", &rolling.max_surge)]
            {
                if let Some(value) = value {
                    count_or_percent(errors, &path.child(field), value);
                    at_most_100_percent(errors, &path.child(field), value);
                }
            }
            let sets = |value: &Option<IntOrString>| {
                !matches!(value, None | Some(IntOrString::Int(0)))
                    && *value != Some(IntOrString::String("0%".to_owned()))
            };
            match (sets(&rolling.max_unavailable), sets(&rolling.max_surge)) {
                (true, true) => errors.invalid(
                    &path.child("maxSurge"),
                    json(&rolling.max_surge),
                    "may not be set when maxUnavailable is non-zero",
                ),
                (false, false) => {
                    errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        _ => {
            let detail = "supported values: \"RollingUpdate\", \"OnDelete\"";
            errors.push(CauseKind::NotSupported, path, json(strategy).to_string(), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(image: &str) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "main", "image": image}], "nodeSelector": {"a": "b"}}}}}))
        .unwrap()
    }

    #[test]
    fn defaults_row_and_template_generation() {
        let mut old = set("a:1");
        Kind::prepare_create(&mut old);
        Kind::set_defaults(&mut old);
        let value = serde_json::to_value(&old).unwrap();
        assert_eq!(
            value["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(
            value["status"],
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})
        );
        assert_eq!(Kind::row(&old, Timestamp::UNIX_EPOCH)[6], Cell::text("a=b"));
        let mut errors = FieldErrors::new();
        Kind::validate(&old, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        for (image, generation) in [("a:1", 1), ("a:2", 2)] {
            let mut new = set(image);
            Kind::prepare_update(&mut new, &old);
            assert_eq!(template_generation(&new), generation);
        }
    }
}
