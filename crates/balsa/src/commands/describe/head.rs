//! What is said of objects of every kind: who they are, their conditions, and what happened to them.

use std::sync::Arc;

use balsa_model::{Object, table};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use super::page::{Page, items, pairs, text, time};
use crate::commands::apply::LAST_APPLIED;
use crate::commands::events::last_seen;

/// Name and namespace.
pub(super) fn name(page: &mut Page, object: &Object) {
    page.field(0, "Name", &object.key().name);
    page.field_if(0, "Namespace", &object.key().namespace);
}

/// Labels and annotations.
pub(super) fn labels_and_annotations(page: &mut Page, object: &Object) {
    let value = object.value();
    page.values(0, "Labels", &pairs(&value, "/metadata/labels"));
    page.values(0, "Annotations", &annotations(&value));
}

/// `a: b` for each annotation, but for what `apply` remembers.
pub(super) fn annotations(value: &Value) -> Vec<String> {
    let pairs = pairs(value, "/metadata/annotations").into_iter();
    let pairs = pairs.filter(|pair| !pair.starts_with(LAST_APPLIED)).map(|pair| pair.replacen('=', ": ", 1));
    // A cell ends at a tab or with its line; a value may have both.
    let lines =
        |pair: String| pair.replace('\t', " ").trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
    pairs.flat_map(lines).collect()
}

/// The controller that made it.
pub(super) fn controlled_by(page: &mut Page, object: &Object) {
    let owners = object.meta().owner_references.iter().flatten();
    for owner in owners.filter(|owner| owner.controller == Some(true)) {
        page.field(0, "Controlled By", format!("{}/{}", owner.kind, owner.name));
    }
}

/// The conditions in a table of these headings and fields.
pub(super) fn conditions(page: &mut Page, value: &Value, columns: &[(&str, &str)]) {
    let conditions = items(value, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    let cell = |condition: &Value, field: &str| {
        let pointer = format!("/{field}");
        if field.ends_with("Time") { time(condition, &pointer) } else { text(condition, &pointer).to_owned() }
    };
    let row = |condition: &Value| columns.iter().map(|(_, field)| cell(condition, field)).collect();
    let rows: Vec<Vec<String>> = conditions.iter().map(row).collect();
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    page.line(0, "Conditions:");
    page.table(&headings, &rows);
}

/// What happened, the latest last.
pub(super) fn events(page: &mut Page, events: &[Arc<Object>], now: Timestamp) {
    if events.is_empty() {
        return page.field(0, "Events", "<none>");
    }
    let rows: Vec<Vec<String>> = events.iter().filter_map(|event| row(event, now)).collect();
    page.line(0, "Events:");
    page.table(&["Type", "Reason", "Age", "From", "Message"], &rows);
}

fn row(object: &Object, now: Timestamp) -> Option<Vec<String>> {
    let event = object.typed::<Event>()?;
    let first = event.first_timestamp.as_ref().map(|time| time.0);
    let first = first.or(event.event_time.as_ref().map(|time| time.0));
    let last = table::age(last_seen(object), now);
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or_default();
    let age = match first {
        Some(first) if count > 1 => format!("{last} (x{count} over {})", table::age(first, now)),
        _ => last,
    };
    let source = event.source.as_ref().and_then(|source| source.component.clone());
    let source = source.or(event.reporting_component.clone()).unwrap_or_default();
    let message = event.message.as_deref().unwrap_or_default().trim().replace(['\n', '\t'], " ");
    let (of_type, reason) = (event.type_.clone(), event.reason.clone());
    Some(vec![of_type.unwrap_or_default(), reason.unwrap_or_default(), age, source, message])
}
