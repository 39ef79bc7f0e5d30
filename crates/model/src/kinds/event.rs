//! Event: something that happened to an object, told for people.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{Event, EventSource};

use super::cells::{UNKNOWN, or_empty, since};
use super::check::{default_to, invalid_each};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, NameRule};
use crate::meta;
use crate::table::{Cell, Column, age};

/// Longest texts of an event that says when it was, in bytes: names and reasons, and what it tells.
const SHORT_TEXT: usize = 128;
const NOTE: usize = 1024;

impl Kind for Event {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ev"],
        field_labels: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        // Recorders name events as they like.
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: &[
            Column::text("Last Seen"),
            Column::text("Type"),
            Column::text("Reason"),
            Column::text("Object"),
            Column::wide("Subobject"),
            Column::wide("Source"),
            Column::text("Message"),
            Column::wide("First Seen"),
            Column::wide("Count"),
            Column { priority: 1, ..Column::NAME },
        ],
        ..Descriptor::namespaced("", "v1", "Event", "events", "event", "core.v1.Event")
    };

    fn set_defaults(&mut self) {
        default_to(&mut self.source, EventSource::default());
        default_to(&mut self.reporting_component, String::new());
        default_to(&mut self.reporting_instance, String::new());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        validate_event(self, "reportingComponent", errors);
    }

    fn field(&self, label: &str) -> String {
        let object = &self.involved_object;
        let text = match label {
            "involvedObject.kind" => &object.kind,
            "involvedObject.namespace" => &object.namespace,
            "involvedObject.name" => &object.name,
            "involvedObject.uid" => &object.uid,
            "involvedObject.apiVersion" => &object.api_version,
            "involvedObject.resourceVersion" => &object.resource_version,
            "involvedObject.fieldPath" => &object.field_path,
            "reason" => &self.reason,
            "reportingComponent" => &self.reporting_component,
            "type" => &self.type_,
            "source" => return component(self).to_owned(),
            _ => &None,
        };
        text.clone().unwrap_or_default()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let first = match (&self.first_timestamp, &self.event_time) {
            (Some(first), _) => age(first.0, now),
            (None, Some(event)) => age(event.0, now),
            (None, None) => UNKNOWN.to_owned(),
        };
        let mut last = self.last_timestamp.as_ref().map_or(first.clone(), |last| since(Some(last), now));
        let mut count = self.count.unwrap_or(0).max(1);
        if let Some(series) = &self.series {
            last = series.last_observed_time.as_ref().map_or(UNKNOWN.to_owned(), |t| age(t.0, now));
            count = series.count.unwrap_or(0);
        }
        vec![
            Cell::text(last),
            or_empty(self.type_.as_deref()),
            or_empty(self.reason.as_deref()),
            Cell::text(target(self)),
            or_empty(self.involved_object.field_path.as_deref()),
            Cell::text(source(self)),
            Cell::text(self.message.as_deref().unwrap_or_default().trim()),
            Cell::text(first),
            Cell::number(count),
            Cell::name(self.metadata()),
        ]
    }
}

/// Checks an event of either form; `reporter` is what its version calls the field of who reports it.
pub(super) fn validate_event(event: &Event, reporter: &str, errors: &mut FieldErrors) {
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let involved = event.involved_object.namespace.as_deref().unwrap_or_default();
    let is_new = event.event_time.is_some();
    // What is in no namespace is told of in the default one.
    let fits = if !involved.is_empty() {
        is_new || own == involved
    } else if is_new {
        matches!(own, "default" | "kube-system")
    } else {
        matches!(own, "" | "default")
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        errors.invalid(&path, involved, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = text(&event.reporting_component);
    if name.is_empty() {
        errors.required(&Path::new(reporter), "");
    }
    invalid_each(errors, &Path::new(reporter), &name, meta::qualified_name(&name));
    for (field, value) in [
        ("reportingInstance", text(&event.reporting_instance)),
        ("action", text(&event.action)),
        ("reason", text(&event.reason)),
    ] {
        if value.is_empty() {
            errors.required(&Path::new(field), "");
        } else if value.len() > SHORT_TEXT {
            errors.invalid(&Path::new(field), "", format!("can have at most {SHORT_TEXT} characters"));
        }
    }
    if text(&event.message).len() > NOTE {
        errors.invalid(&Path::new("message"), "", format!("can have at most {NOTE} characters"));
    }
}

/// Who reports it: the old field, or the new one.
fn component(event: &Event) -> &str {
    let old = event.source.as_ref().and_then(|s| s.component.as_deref()).filter(|c| !c.is_empty());
    old.or(event.reporting_component.as_deref()).unwrap_or_default()
}

fn source(event: &Event) -> String {
    let host = event.source.as_ref().and_then(|s| s.host.as_deref()).filter(|h| !h.is_empty());
    let host = host.or(event.reporting_instance.as_deref()).unwrap_or_default();
    [component(event), host].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", ")
}

fn target(event: &Event) -> String {
    let kind = event.involved_object.kind.as_deref().unwrap_or_default().to_lowercase();
    match event.involved_object.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{kind}/{name}"),
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": "e.1", "namespace": "n"}, "reason": "R", "message": "m\n", "type": "Normal",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "n"}, "count": 4,
            "source": {"component": "c", "host": "h"}, "lastTimestamp": "2024-01-01T00:00:00Z"}))
        .unwrap();
        let cells = Kind::row(&event, "2024-01-01T00:01:00Z".parse().unwrap());
        let cells: Vec<_> = cells.into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells,
            [
                json!("60s"),
                json!("Normal"),
                json!("R"),
                json!("pod/p"),
                json!(""),
                json!("c, h"),
                json!("m"),
                json!("<unknown>"),
                json!(4),
                json!("e.1")
            ]
        );
        let mut errors = FieldErrors::new();
        Kind::validate(&event, &mut errors);
        assert!(errors.is_empty());
    }
}
