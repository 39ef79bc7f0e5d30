//! HorizontalPodAutoscaler of `autoscaling/v1`: a version that knows of one metric, the CPU. What it has no
//! fields for stands in annotations, so that nothing is lost on the way through it.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::autoscaling::v2;
use serde_json::{Map, Value, json};

use super::faces::{behind, renamed};
use crate::field::FieldErrors;
use crate::kind::{Descriptor, Face, Kind, kind_of};
use crate::table::Cell;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// The fields that hold one metric of each type.
const SOURCES: &[&str] = &["object", "pods", "resource", "containerResource", "external"];
/// The fields of `behavior`, which its annotation has under the names that Go gives them.
const BEHAVIOR_FIELDS: &[(&str, &str)] = &[
    ("scaleUp", "ScaleUp"),
    ("scaleDown", "ScaleDown"),
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
    ("type", "Type"),
    ("value", "Value"),
    ("periodSeconds", "PeriodSeconds"),
];

fn to_stored(mut value: Value) -> Value {
    let [metrics, current, conditions, behavior] =
        [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR].map(|name| take_annotation(&mut value, name));
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    };
    let percent = value.get_mut("spec").and_then(|spec| taken(spec, "targetCPUUtilizationPercentage"));
    let mut specs: Vec<Value> = list(metrics).into_iter().flatten().map(modern_metric).collect();
    specs.extend(
        percent.map(|percent| cpu(json!({"type": "Utilization", "averageUtilization": percent}), "target")),
    );
    if !specs.is_empty() {
        value["spec"]["metrics"] = specs.into();
    }
    if let Some(behavior) = behavior.filter(Value::is_object) {
        let back: Vec<(&str, &str)> = BEHAVIOR_FIELDS.iter().map(|(name, go)| (*go, *name)).collect();
        value["spec"]["behavior"] = renamed_deep(behavior, &back);
    }
    if value.get("status").is_some_and(Value::is_object) {
        let percent = taken(&mut value["status"], "currentCPUUtilizationPercentage");
        let known = list(current).map(|items| items.into_iter().map(modern_status).collect::<Vec<_>>());
        let measured = || percent.map(|percent| vec![cpu(json!({"averageUtilization": percent}), "current")]);
        if let Some(current) = known.or_else(measured) {
            value["status"]["currentMetrics"] = current.into();
        }
        if let Some(conditions) = list(conditions) {
            value["status"]["conditions"] = conditions.into();
        }
    }
    value
}

fn from_stored(mut value: Value) -> Value {
    if value.get("spec").is_some_and(Value::is_object) {
        let spec = &mut value["spec"];
        let metrics =
            taken(spec, "metrics").and_then(|metrics| metrics.as_array().cloned()).unwrap_or_default();
        let behavior = taken(spec, "behavior");
        let is_percent =
            |metric: &Value| metric["type"] == "Resource" && cpu_percent(metric, "target").is_some();
        let (percents, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_percent);
        if let Some(percent) = percents.first().and_then(|metric| cpu_percent(metric, "target")) {
            spec["targetCPUUtilizationPercentage"] = percent;
        }
        let others: Vec<Value> = others.into_iter().map(old_metric).collect();
        if !others.is_empty() {
            annotate(&mut value, METRICS, &others.into());
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            annotate(&mut value, BEHAVIOR, &renamed_deep(behavior, BEHAVIOR_FIELDS));
        }
    }
    if value.get("status").is_some_and(Value::is_object) {
        let status = &mut value["status"];
        let current =
            taken(status, "currentMetrics").and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let conditions =
            taken(status, "conditions").filter(|list| list.as_array().is_some_and(|l| !l.is_empty()));
        if let Some(percent) = current.iter().find_map(|metric| cpu_percent(metric, "current")) {
            status["currentCPUUtilizationPercentage"] = percent;
        }
        if !current.is_empty() {
            let current: Vec<Value> = current.into_iter().map(old_status).collect();
            annotate(&mut value, CURRENT_METRICS, &current.into());
        }
        if let Some(conditions) = conditions {
            annotate(&mut value, CONDITIONS, &conditions);
        }
    }
    value
}

/// The CPU as a metric; `what` is `target` or `current`.
fn cpu(amount: Value, what: &str) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", what: amount}})
}

fn cpu_percent(metric: &Value, what: &str) -> Option<Value> {
    let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
    resource.get(what)?.get("averageUtilization").filter(|percent| !percent.is_null()).cloned()
}

fn taken(value: &mut Value, field: &str) -> Option<Value> {
    value.as_object_mut()?.shift_remove(field).filter(|value| !value.is_null())
}

/// Takes an annotation away and reads it; one that is no JSON says nothing.
fn take_annotation(value: &mut Value, name: &str) -> Option<Value> {
    let meta = value.get_mut("metadata")?.as_object_mut()?;
    let annotations = meta.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.shift_remove(name)?;
    if annotations.is_empty() {
        meta.shift_remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn annotate(value: &mut Value, name: &str, what: &Value) {
    let annotations = &mut value["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[name] = what.to_string().into();
}

fn renamed_deep(value: Value, names: &[(&str, &str)]) -> Value {
    match value {
        Value::Object(_) => match renamed(value, names) {
            Value::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, renamed_deep(value, names))).collect()
            }
            other => other,
        },
        Value::Array(items) => items.into_iter().map(|item| renamed_deep(item, names)).collect(),
        other => other,
    }
}

/// A metric in its form of old, whose amounts stand beside its name.
fn old_metric(metric: Value) -> Value {
    flattened(
        metric,
        "target",
        &[
            ("averageUtilization", "targetAverageUtilization"),
            ("averageValue", "targetAverageValue"),
            ("value", "targetValue"),
        ],
    )
}

fn old_status(metric: Value) -> Value {
    flattened(
        metric,
        "current",
        &[
            ("averageUtilization", "currentAverageUtilization"),
            ("averageValue", "currentAverageValue"),
            ("value", "currentValue"),
        ],
    )
}

fn modern_metric(metric: Value) -> Value {
    nested(
        metric,
        "target",
        &[
            ("targetAverageUtilization", "averageUtilization"),
            ("targetAverageValue", "averageValue"),
            ("averageValue", "averageValue"),
            ("targetValue", "value"),
        ],
    )
}

fn modern_status(metric: Value) -> Value {
    nested(
        metric,
        "current",
        &[
            ("currentAverageUtilization", "averageUtilization"),
            ("currentAverageValue", "averageValue"),
            ("averageValue", "averageValue"),
            ("currentValue", "value"),
        ],
    )
}

/// `{target: {averageValue: …}, metric: {name, selector}}` as `{targetAverageValue: …, metricName, …}`.
fn flattened(mut metric: Value, what: &str, names: &[(&str, &str)]) -> Value {
    for source in SOURCES {
        let Some(old) = metric.get_mut(*source).and_then(Value::as_object_mut) else { continue };
        let amount = old.shift_remove(what).unwrap_or_default();
        let about = old.shift_remove("metric").unwrap_or_default();
        if let Some(object) = old.shift_remove("describedObject") {
            old.insert("target".to_owned(), object);
        }
        if let Some(name) = about.get("name") {
            old.insert("metricName".to_owned(), name.clone());
        }
        if let Some(selector) = about.get("selector").filter(|selector| !selector.is_null()) {
            let field = if *source == "external" { "metricSelector" } else { "selector" };
            old.insert(field.to_owned(), selector.clone());
        }
        for (from, to) in names {
            // An object's own average keeps its name.
            let to = if *source == "object" && *from == "averageValue" { "averageValue" } else { to };
            if let Some(value) = amount.get(from).filter(|value| !value.is_null()) {
                old.insert(to.to_owned(), value.clone());
            }
        }
    }
    metric
}

/// The other way round. What kind of amount a target is follows from which is there.
fn nested(mut metric: Value, what: &str, names: &[(&str, &str)]) -> Value {
    for source in SOURCES {
        let Some(new) = metric.get_mut(*source).and_then(Value::as_object_mut) else { continue };
        let described = if *source == "object" { new.shift_remove("target") } else { None };
        let name = new.shift_remove("metricName");
        let selector = new.shift_remove("selector").or_else(|| new.shift_remove("metricSelector"));
        let mut amount = Map::new();
        for (from, to) in names {
            if let Some(value) = new.shift_remove(*from).filter(|value| !value.is_null()) {
                amount.insert((*to).to_owned(), value);
            }
        }
        if what == "target" {
            let has = |field: &str| amount.contains_key(field);
            let type_ = match (has("averageUtilization"), has("averageValue")) {
                (true, _) => "Utilization",
                (_, true) => "AverageValue",
                _ => "Value",
            };
            amount.insert("type".to_owned(), type_.into());
        }
        if let Some(name) = name {
            let mut about = json!({"name": name});
            if let Some(selector) = selector {
                about["selector"] = selector;
            }
            new.insert("metric".to_owned(), about);
        }
        if let Some(described) = described {
            new.insert("describedObject".to_owned(), described);
        }
        new.insert(what.to_owned(), amount.into());
    }
    metric
}

fn same(label: &str) -> &str {
    label
}

impl Kind for HorizontalPodAutoscaler {
    const DESCRIPTOR: Descriptor = Descriptor {
        version: "v1",
        message: "autoscaling.v1.HorizontalPodAutoscaler",
        ..<v2::HorizontalPodAutoscaler as Kind>::DESCRIPTOR
    };

    const FACE: Option<Face> =
        Some(Face { stored: kind_of::<v2::HorizontalPodAutoscaler>, to_stored, from_stored, label: same });

    /// Refusals name the fields of the stored version, as Kubernetes does.
    fn validate(&self, errors: &mut FieldErrors) {
        if let Some(autoscaler) = behind::<_, v2::HorizontalPodAutoscaler>(self) {
            Kind::validate(&autoscaler, errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        behind::<_, v2::HorizontalPodAutoscaler>(self)
            .map(|autoscaler| Kind::row(&autoscaler, now))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::KindRef;

    fn face() -> KindRef {
        kind_of::<HorizontalPodAutoscaler>()
    }

    #[test]
    fn the_cpu_is_a_metric_among_others() {
        let old = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "targetCPUUtilizationPercentage": 60},
        });
        let stored = face().to_stored(old.clone());
        assert_eq!(stored["apiVersion"], "autoscaling/v2");
        assert_eq!(
            stored["spec"]["metrics"][0]["resource"]["target"],
            json!({"type": "Utilization", "averageUtilization": 60})
        );
        assert_eq!(face().from_stored(stored), old);
    }

    /// Everything that the newer version says survives the way through the older one.
    #[test]
    fn nothing_is_lost() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "annotations": {"own": "x"}},
            "spec": {
                "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi", "type": "AverageValue"}}},
                    {"type": "Pods", "pods": {"target": {"averageValue": "10", "type": "AverageValue"}, "metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}}}},
                    {"type": "Object", "object": {"target": {"value": "7", "type": "Value"}, "metric": {"name": "r"}, "describedObject": {"kind": "Ingress", "name": "i"}}},
                    {"type": "External", "external": {"target": {"averageValue": "2", "type": "AverageValue"}, "metric": {"name": "s", "selector": {"matchLabels": {"c": "d"}}}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
                "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}], "selectPolicy": "Max"}},
            },
            "status": {
                "currentReplicas": 1, "desiredReplicas": 2,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 9, "averageValue": "3m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        let old = face().from_stored(stored.clone());
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(old["status"]["currentCPUUtilizationPercentage"], 9);
        let behavior: Value =
            serde_json::from_str(old["metadata"]["annotations"][BEHAVIOR].as_str().unwrap()).unwrap();
        assert_eq!(behavior["ScaleUp"]["Policies"][0]["PeriodSeconds"], 15);
        let metrics: Value =
            serde_json::from_str(old["metadata"]["annotations"][METRICS].as_str().unwrap()).unwrap();
        assert_eq!(metrics[1]["pods"]["targetAverageValue"], "10");
        assert!(face().decode(old.clone()).is_ok());
        assert_eq!(face().to_stored(old), stored);
    }

    #[test]
    fn refusals_name_the_stored_fields() {
        let object = face()
            .decode(json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 0, "scaleTargetRef": {"kind": "D", "name": "d"}}}))
            .unwrap();
        let mut errors = FieldErrors::new();
        object.validate(&mut errors);
        assert_eq!(errors.into_vec()[0].field, "spec.maxReplicas");
        assert_eq!(object.row(Timestamp::UNIX_EPOCH).len(), object.kind().descriptor().columns.len());
    }
}
