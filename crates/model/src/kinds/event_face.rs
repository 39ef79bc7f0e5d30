//! Event of `events.k8s.io/v1`: the core group's Event under other names.
//! Invariant: new events say when, who, what and why; those of the old form are only read.

use jiff::Timestamp;
use k8s_openapi::api::core;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use serde_json::Value;

use super::faces::{behind, renamed};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Face, Kind, NameRule, kind_of};
use crate::kinds::event::validate_event;
use crate::table::Cell;

/// The fields' names here, and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// Go's time before all others: that of a series whose time nobody has told. The typed form must have one.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

fn to_stored(value: Value) -> Value {
    renamed(value, NAMES)
}

fn from_stored(value: Value) -> Value {
    let back: Vec<(&str, &str)> = NAMES.iter().map(|(here, core)| (*core, *here)).collect();
    renamed(value, &back)
}

/// The core group's name of a field label.
fn label(here: &str) -> &str {
    match here {
        "regarding.kind" => "involvedObject.kind",
        "regarding.namespace" => "involvedObject.namespace",
        "regarding.name" => "involvedObject.name",
        "regarding.uid" => "involvedObject.uid",
        "regarding.apiVersion" => "involvedObject.apiVersion",
        "regarding.resourceVersion" => "involvedObject.resourceVersion",
        "regarding.fieldPath" => "involvedObject.fieldPath",
        "reportingController" => "reportingComponent",
        same => same,
    }
}

impl Kind for Event {
    const DESCRIPTOR: Descriptor = Descriptor {
        field_labels: &[
            "reason",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reportingController",
            "type",
        ],
        short_names: &["ev"],
        // Recorders name events as they like.
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: <core::v1::Event as Kind>::DESCRIPTOR.columns,
        ..Descriptor::namespaced("events.k8s.io", "v1", "Event", "events", "event", "events.v1.Event")
    };

    const FACE: Option<Face> =
        Some(Face { stored: kind_of::<core::v1::Event>, to_stored, from_stored, label });

    fn before_decode(value: &mut Value) {
        let Some(series) = value.get_mut("series").and_then(Value::as_object_mut) else { return };
        if series.get("lastObservedTime").is_none_or(Value::is_null) {
            series.insert("lastObservedTime".to_owned(), NO_TIME.into());
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let Some(event) = behind::<_, core::v1::Event>(self) else { return };
        validate_event(&event, "reportingController", errors);
    }

    fn validate_create(&self, errors: &mut FieldErrors) {
        if self.event_time.is_none() {
            errors.required(&Path::new("eventTime"), "");
        }
        validate_series(self.series.as_ref(), errors);
        let type_ = self.type_.as_deref().unwrap_or_default();
        if !matches!(type_, "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", format!("has invalid value: {type_}"));
        }
        let source = self.deprecated_source.as_ref().is_some_and(|source| *source != Default::default());
        for (field, is_set) in [
            ("firstTimestamp", self.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", self.deprecated_last_timestamp.is_some()),
            ("count", self.deprecated_count.is_some_and(|count| count != 0)),
            ("source", source),
        ] {
            if is_set {
                errors.invalid(&Path::new(field), "", "needs to be unset");
            }
        }
    }

    /// Only the series of an event goes on.
    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if self.series != old.series {
            validate_series(self.series.as_ref(), errors);
        }
        let without = |event: &Self| {
            let mut value = serde_json::to_value(event).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                fields.retain(|name, _| !matches!(name.as_str(), "metadata" | "series"));
            }
            to_stored(value)
        };
        let (new, old) = (without(self), without(old));
        for (field, value) in new.as_object().into_iter().flatten() {
            let path = Path::new(if field == "reportingComponent" { "reportingController" } else { field });
            errors.immutable(&path, &Some(value), &old.get(field), value.clone());
        }
        for (field, _) in old.as_object().into_iter().flatten().filter(|(name, _)| new.get(name).is_none()) {
            errors.invalid(&Path::new(field), Value::Null, "field is immutable");
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        behind::<_, core::v1::Event>(self).map(|event| event.row(now)).unwrap_or_default()
    }
}

fn validate_series(series: Option<&EventSeries>, errors: &mut FieldErrors) {
    let Some(series) = series else { return };
    if series.count < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if NO_TIME.parse().is_ok_and(|none: Timestamp| none == series.last_observed_time.0) {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::KindRef;

    fn face() -> KindRef {
        kind_of::<Event>()
    }

    #[test]
    fn there_and_back() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "eventTime": "2024-01-01T00:00:00.000000Z", "note": "m", "regarding": {"kind": "Pod", "name": "p"},
            "reportingController": "c", "deprecatedCount": 3,
        });
        let stored = face().to_stored(event.clone());
        assert_eq!(
            (&stored["apiVersion"], &stored["message"], &stored["count"]),
            (&json!("v1"), &json!("m"), &json!(3))
        );
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(face().from_stored(stored), event);
    }

    #[test]
    fn new_events_are_whole() {
        let fields = |value: Value| {
            let mut errors = FieldErrors::new();
            let event = face().decode(value).unwrap();
            event.validate(&mut errors);
            event.validate_create(&mut errors);
            errors.into_vec().into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        let whole = json!({
            "metadata": {"name": "e", "namespace": "n"}, "eventTime": "2024-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}, "reason": "R", "action": "A", "type": "Normal",
            "reportingController": "k8s.io/c", "reportingInstance": "i",
        });
        assert_eq!(fields(whole.clone()), [""; 0]);
        for (field, wrong, found) in [
            ("eventTime", Value::Null, "eventTime"),
            ("type", json!("Odd"), "type"),
            ("reportingController", Value::Null, "reportingController"),
            ("action", Value::Null, "action"),
            ("deprecatedCount", json!(1), "count"),
            (
                "series",
                json!({"count": 1, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}),
                "series.count",
            ),
            ("series", json!({"count": 2}), "series.lastObservedTime"),
            ("series", json!({"lastObservedTime": null}), "series.lastObservedTime"),
        ] {
            let mut event = whole.clone();
            event[field] = wrong;
            assert!(fields(event).contains(&found.to_owned()), "{field}");
        }
    }

    #[test]
    fn only_the_series_goes_on() {
        let event = |extra: Value| {
            let mut event = json!({"metadata": {"name": "e"}, "reason": "R", "note": "m"});
            event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            face().decode(event).unwrap()
        };
        let changed = |extra: Value| {
            let mut errors = FieldErrors::new();
            event(extra).validate_update(event(json!({})).as_ref(), &mut errors);
            errors.into_vec().into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        let series = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}});
        assert_eq!(changed(series), [""; 0]);
        assert_eq!(changed(json!({"note": "other"})), ["message"]);
    }
}
