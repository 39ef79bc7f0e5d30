//! HorizontalPodAutoscaler: how many pods a workload has, by what they use.
//! Invariant: it is stored as `autoscaling/v2`, which says all that the older version says.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ResourceMetricSource,
};

use super::cells::UNKNOWN;
use super::check::{
    default_text, default_to, in_range, invalid_each, json, non_negative, one_of, optional_non_negative,
};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta::path_segment;
use crate::table::{Cell, Column};

/// Metrics that fit into a cell.
const SHOWN: usize = 2;
/// The longest time that a policy looks back.
const LONGEST_PERIOD: i32 = 1800;
const LONGEST_WINDOW: i64 = 3600;

impl Kind for HorizontalPodAutoscaler {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        has_generation: false,
        columns: &[
            Column::NAME,
            Column::text("Reference"),
            Column::text("Targets"),
            Column::text("MinPods"),
            Column::text("MaxPods"),
            Column::text("Replicas"),
            Column::AGE,
        ],
        ..Descriptor::namespaced(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            "autoscaling.v2.HorizontalPodAutoscaler",
        )
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.min_replicas, 1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_utilization(80)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let up = behavior.scale_up.get_or_insert_default();
            default_to(&mut up.stabilization_window_seconds, 0);
            set_rules(up, &[("Pods", 4, 15), ("Percent", 100, 15)]);
            set_rules(behavior.scale_down.get_or_insert_default(), &[("Percent", 100, 15)]);
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), HorizontalPodAutoscalerSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        let least = spec.min_replicas.unwrap_or(1);
        if least < 1 {
            errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
        }
        if spec.max_replicas < 1 {
            errors.invalid(&path.child("maxReplicas"), spec.max_replicas, "must be greater than 0");
        }
        if spec.max_replicas < least {
            let detail = "must be greater than or equal to `minReplicas`";
            errors.invalid(&path.child("maxReplicas"), spec.max_replicas, detail);
        }
        let target = path.child("scaleTargetRef");
        for (field, value) in [("kind", &spec.scale_target_ref.kind), ("name", &spec.scale_target_ref.name)] {
            if value.is_empty() {
                errors.required(&target.child(field), "");
            }
            invalid_each(errors, &target.child(field), value, path_segment(value));
        }
        let of_pods = |metric: &MetricSpec| metric.object.is_none() && metric.external.is_none();
        if least == 0 && spec.metrics.iter().flatten().all(of_pods) {
            let detail =
                "must specify at least one Object or External metric to support scaling to zero replicas";
            errors.forbidden(&path.child("metrics"), detail);
        }
        for (i, metric) in spec.metrics.iter().flatten().enumerate() {
            validate_metric(metric, &path.child("metrics").index(i), errors);
        }
        if let Some(behavior) = &spec.behavior {
            let path = path.child("behavior");
            for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
                if let Some(rules) = rules {
                    validate_rules(rules, &path.child(field), errors);
                }
            }
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let (Some(status), path) = (&self.status, Path::new("status")) else { return };
        optional_non_negative(errors, &path.child("currentReplicas"), status.current_replicas);
        non_negative(errors, &path.child("desiredReplicas"), status.desired_replicas);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let (no_spec, no_status) =
            (HorizontalPodAutoscalerSpec::default(), HorizontalPodAutoscalerStatus::default());
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let status = self.status.as_ref().unwrap_or(&no_status);
        let target = &spec.scale_target_ref;
        let least = spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |least| least.to_string());
        vec![
            Cell::name(self.metadata()),
            Cell::text(format!("{}/{}", target.kind, target.name)),
            Cell::text(targets(spec, status)),
            Cell::text(least),
            Cell::number(spec.max_replicas),
            Cell::number(status.current_replicas.unwrap_or(0)),
            Cell::age(self.metadata(), now),
        ]
    }
}

/// The metric that an autoscaler follows when nobody says otherwise.
pub(crate) fn cpu_utilization(percent: i32) -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(percent),
        ..MetricTarget::default()
    };
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    }
}

fn set_rules(rules: &mut HPAScalingRules, defaults: &[(&str, i32, i32)]) {
    default_text(&mut rules.select_policy, "Max");
    let policy = |(type_, value, period): &(&str, i32, i32)| HPAScalingPolicy {
        type_: (*type_).to_owned(),
        value: *value,
        period_seconds: *period,
    };
    if rules.policies.is_none() {
        rules.policies = Some(defaults.iter().map(policy).collect());
    }
}

fn validate_rules(rules: &HPAScalingRules, path: &Path, errors: &mut FieldErrors) {
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&path, window, "must be greater than or equal to zero");
        } else if i64::from(window) > LONGEST_WINDOW {
            errors.invalid(&path, window, format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
    }
    if let Some(select) = &rules.select_policy {
        one_of(errors, &path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    if rules.policies.as_ref().is_none_or(Vec::is_empty) {
        errors.required(&policies, "must specify at least one Policy");
    }
    for (i, policy) in rules.policies.iter().flatten().enumerate() {
        let path = policies.index(i);
        one_of(errors, &path.child("type"), &policy.type_, &["Percent", "Pods"]);
        if policy.value <= 0 {
            errors.invalid(&path.child("value"), policy.value, "must be greater than zero");
        }
        let period = path.child("periodSeconds");
        if policy.period_seconds <= 0 {
            errors.invalid(&period, policy.period_seconds, "must be greater than zero");
        } else if policy.period_seconds > LONGEST_PERIOD {
            let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.invalid(&period, policy.period_seconds, detail);
        }
    }
}

fn validate_metric(metric: &MetricSpec, path: &Path, errors: &mut FieldErrors) {
    let sources = [
        ("Object", "object", metric.object.is_some()),
        ("Pods", "pods", metric.pods.is_some()),
        ("Resource", "resource", metric.resource.is_some()),
        ("ContainerResource", "containerResource", metric.container_resource.is_some()),
        ("External", "external", metric.external.is_some()),
    ];
    if metric.type_.is_empty() {
        return errors.required(&path.child("type"), "must specify a metric source type");
    }
    let known: Vec<&str> = sources.iter().map(|(type_, ..)| *type_).collect();
    one_of(errors, &path.child("type"), &metric.type_, &known);
    for (type_, field, is_set) in sources {
        let path = path.child(field);
        if type_ == metric.type_ && !is_set {
            errors.required(&path, "must populate information for the given metric source");
        } else if type_ != metric.type_ && is_set {
            errors.forbidden(&path, "must populate the given metric source only");
        }
    }
    if let Some(resource) = &metric.resource {
        validate_resource(&resource.name, &resource.target, &path.child("resource"), errors);
    }
    if let Some(resource) = &metric.container_resource {
        let path = path.child("containerResource");
        if resource.container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        }
        validate_resource(&resource.name, &resource.target, &path, errors);
    }
    if let Some(pods) = &metric.pods {
        let path = path.child("pods");
        validate_name(&pods.metric.name, &path, errors);
        validate_target(&pods.target, &path.child("target"), errors);
        if pods.target.average_value.is_none() {
            errors.required(
                &path.child("target").child("averageValue"),
                "must specify a positive target averageValue",
            );
        }
    }
    for (field, metric, target) in [
        ("object", metric.object.as_ref().map(|o| &o.metric), metric.object.as_ref().map(|o| &o.target)),
        (
            "external",
            metric.external.as_ref().map(|e| &e.metric),
            metric.external.as_ref().map(|e| &e.target),
        ),
    ] {
        if let (Some(metric), Some(target)) = (metric, target) {
            let path = path.child(field);
            validate_name(&metric.name, &path, errors);
            validate_target(target, &path.child("target"), errors);
        }
    }
}

fn validate_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(&path.child("metric").child("name"), "must specify a metric name");
    }
}

fn validate_resource(name: &str, target: &MetricTarget, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    }
    let path = path.child("target");
    validate_target(target, &path, errors);
    match (target.average_utilization, &target.average_value) {
        (None, None) => errors.required(
            &path.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            &path.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

fn validate_target(target: &MetricTarget, path: &Path, errors: &mut FieldErrors) {
    if target.type_.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    } else {
        one_of(errors, &path.child("type"), &target.type_, &["Utilization", "Value", "AverageValue"]);
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        let parsed = value.as_ref().and_then(crate::quantity::Quantity::of);
        if value.is_some() && parsed.is_none_or(|amount| amount <= crate::quantity::Quantity::default()) {
            errors.invalid(&path.child(field), json(value), "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization {
        in_range(errors, &path.child("averageUtilization"), percent, 1, i64::from(i32::MAX));
    }
}

/// `cpu: 10%/80%`, or `<unknown>` where nothing is measured.
fn targets(spec: &HorizontalPodAutoscalerSpec, status: &HorizontalPodAutoscalerStatus) -> String {
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = status.current_metrics.as_deref().unwrap_or_default();
    let one = |(i, metric): (usize, &MetricSpec)| target_text(metric, current.get(i));
    let shown: Vec<String> = metrics.iter().enumerate().take(SHOWN).map(one).collect();
    let text = shown.join(", ");
    match metrics.len() {
        count if count > SHOWN => format!("{text} + {} more...", count - SHOWN),
        _ => text,
    }
}

fn target_text(metric: &MetricSpec, current: Option<&MetricStatus>) -> String {
    if let Some(resource) = &metric.resource {
        let now = current.and_then(|c| c.resource.as_ref()).map(|r| &r.current);
        return format!("{}: {}", resource.name, against(now, &resource.target));
    }
    if let Some(resource) = &metric.container_resource {
        let now = current.and_then(|c| c.container_resource.as_ref()).map(|r| &r.current);
        return format!("{}: {}", resource.name, against(now, &resource.target));
    }
    if let Some(pods) = &metric.pods {
        return against(current.and_then(|c| c.pods.as_ref()).map(|p| &p.current), &pods.target);
    }
    if let Some(object) = &metric.object {
        let now = current.and_then(|c| c.object.as_ref()).map(|o| &o.current);
        return averaged(now, &object.target);
    }
    if let Some(external) = &metric.external {
        let now = current.and_then(|c| c.external.as_ref()).map(|e| &e.current);
        return averaged(now, &external.target);
    }
    "<unknown type>".to_owned()
}

fn averaged(now: Option<&MetricValueStatus>, target: &MetricTarget) -> String {
    let text = against(now, target);
    if target.average_value.is_some() { format!("{text} (avg)") } else { text }
}

fn against(now: Option<&MetricValueStatus>, target: &MetricTarget) -> String {
    let unknown = || UNKNOWN.to_owned();
    let percent = |percent: Option<i32>| percent.map_or_else(unknown, |percent| format!("{percent}%"));
    if let Some(wanted) = &target.average_value {
        let now =
            now.and_then(|now| now.average_value.as_ref()).map_or_else(unknown, |value| value.0.clone());
        return format!("{now}/{}", wanted.0);
    }
    if let Some(wanted) = &target.value {
        let now = now.and_then(|now| now.value.as_ref()).map_or_else(unknown, |value| value.0.clone());
        return format!("{now}/{}", wanted.0);
    }
    let wanted =
        target.average_utilization.map_or_else(|| "<auto>".to_owned(), |wanted| format!("{wanted}%"));
    format!("{}/{wanted}", percent(now.and_then(|now| now.average_utilization)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn autoscaler(extra: Value) -> HorizontalPodAutoscaler {
        let mut spec = json!({"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut object: HorizontalPodAutoscaler =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut object);
        Kind::set_defaults(&mut object);
        object
    }

    #[test]
    fn defaults_and_row() {
        let object = autoscaler(json!({"behavior": {}}));
        let value = serde_json::to_value(&object).unwrap();
        assert_eq!(value["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(value["spec"]["behavior"]["scaleUp"]["policies"].as_array().unwrap().len(), 2);
        let cells: Vec<_> = Kind::row(&object, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells[..6],
            [
                json!("web"),
                json!("Deployment/web"),
                json!("cpu: <unknown>/80%"),
                json!("1"),
                json!(5),
                json!(0)
            ]
        );
    }

    #[test]
    fn wrong_ones() {
        for (extra, wanted) in [
            (json!({}), vec![]),
            (json!({"maxReplicas": 0}), vec!["spec.maxReplicas", "spec.maxReplicas"]),
            (json!({"minReplicas": 7}), vec!["spec.maxReplicas"]),
            (json!({"scaleTargetRef": {"kind": "", "name": "x"}}), vec!["spec.scaleTargetRef.kind"]),
            (json!({"metrics": [{"type": "Pods"}]}), vec!["spec.metrics[0].pods"]),
            (
                json!({"behavior": {"scaleDown": {"selectPolicy": "Most"}}}),
                vec!["spec.behavior.scaleDown.selectPolicy"],
            ),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&autoscaler(extra), &mut errors);
            assert_eq!(errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>(), wanted);
        }
    }
}
