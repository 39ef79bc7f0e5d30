//! Answers: objects and lists spliced from stored bytes, Tables, metadata, failures.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use balsa_model::table::Column;
use balsa_model::{Descriptor, Failure, KindRef, Object, Revision};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderName, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::{Value, json};

use super::accept::{Accepted, Form};
use super::listing::Listing;
use crate::engine::Listed;

const JSON: &str = "application/json";

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    typed(status, JSON, body)
}

/// An answer of some media type.
pub(super) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    with_body(status, media_type, Body::from(body.into()))
}

fn with_body(status: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON answer from what serialises.
pub(super) fn value(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => json(status, bytes),
        Err(error) => failure(&Failure::internal(error)),
    }
}

/// A `Status` answer.
pub(super) fn failure(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, serde_json::to_vec(&failure.to_status()).unwrap_or_default());
    if failure.retry_after_seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(failure.retry_after_seconds));
    }
    response
}

/// A `Status` that says that it worked.
pub(super) fn success(status: StatusCode, object: &Object) -> Response {
    let descriptor = object.kind().descriptor();
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": &*object.key().name, "kind": descriptor.plural, "uid": object.uid(),
        },
    });
    if !descriptor.group.is_empty() {
        body["details"]["group"] = descriptor.group.into();
    }
    value(status, &body)
}

/// Adds `Warning:` headers.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Warns of a kind whose days are numbered.
pub(super) fn warn_deprecated(response: &mut Response, kind: &Descriptor) {
    warn(response, kind.deprecated.map(str::to_owned).as_slice());
}

/// Names the request in the answer, for whoever looks for it in logs.
pub(super) fn audit_id(response: &mut Response, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
    }
}

/// How a client sees objects.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) form: Form,
    /// The apiVersion of Tables and bare metadata.
    pub(super) version: &'static str,
    /// The parameter `includeObject` of Tables.
    include: String,
}

impl Shown {
    /// What was accepted, with what a Table is to include.
    ///
    /// # Errors
    /// When a Table is to include what none can.
    pub(super) fn new(accepted: Accepted, include: &str) -> Result<Self, Failure> {
        check_include(accepted.form, include)?;
        Ok(Self { form: accepted.form, version: accepted.version, include: include.to_owned() })
    }

    /// Puts into a Table's row what the client wants of its object.
    pub(super) fn include_in(&self, row: &mut Value, object: &Object, whole: impl FnOnce() -> Value) {
        match self.include.as_str() {
            "None" => {}
            "Object" => row["object"] = whole(),
            _ => row["object"] = partial(object, self),
        }
    }
}

/// One object in the wanted form.
pub(super) fn object(status: StatusCode, object: &Arc<Object>, shown: &Shown, now: Timestamp) -> Response {
    match shown.form {
        Form::Whole => json(status, object.bytes().clone()),
        Form::Metadata | Form::MetadataList => value(status, &partial(object, shown)),
        Form::Table => {
            let meta = json!({"resourceVersion": object.revision().to_string()});
            value(status, &table(object.kind(), std::slice::from_ref(object), &meta, now, shown, true))
        }
    }
}

/// A list in the wanted form.
pub(super) fn list(kind: KindRef, listed: Listed, shown: &Shown, now: Timestamp) -> Response {
    let mut meta = json!({});
    // What is not stored has none.
    if listed.revision != Revision(0) {
        meta["resourceVersion"] = listed.revision.to_string().into();
    }
    if !listed.continue_token.is_empty() {
        meta["continue"] = listed.continue_token.clone().into();
    }
    if let Some(remaining) = listed.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    match shown.form {
        Form::Whole => with_body(StatusCode::OK, JSON, Body::new(Listing::new(kind, &meta, listed.items))),
        Form::Table => value(StatusCode::OK, &table(kind, &listed.items, &meta, now, shown, true)),
        Form::Metadata | Form::MetadataList => {
            let items: Vec<Value> = listed.items.iter().map(|item| partial(item, shown)).collect();
            let body = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": shown.version, "metadata": meta, "items": items,
            });
            value(StatusCode::OK, &body)
        }
    }
}

/// `PartialObjectMetadata`.
pub(super) fn partial(object: &Object, shown: &Shown) -> Value {
    let mut meta = json!(object.meta());
    if let Ok(managed) = serde_json::from_str::<Value>(object.managed_fields()) {
        meta["managedFields"] = managed;
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": shown.version, "metadata": meta})
}

/// A `Table`.
pub(super) fn table(
    kind: KindRef,
    objects: &[Arc<Object>],
    meta: &Value,
    now: Timestamp,
    shown: &Shown,
    with_columns: bool,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(object, now, shown)).collect();
    let columns = if with_columns { definitions(kind.descriptor().columns) } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": shown.version, "metadata": meta,
        "columnDefinitions": if with_columns { Value::from(columns) } else { Value::Null },
        "rows": rows,
    })
}

/// The columns of a Table.
pub(super) fn definitions(columns: &[Column]) -> Vec<Value> {
    let definition = |column: &Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.name, "priority": column.priority,
        })
    };
    columns.iter().map(definition).collect()
}

fn row(object: &Arc<Object>, now: Timestamp, shown: &Shown) -> Value {
    let decoded = object.decode();
    let cells: Vec<Value> = match &decoded {
        Some(typed) => typed.row(now).into_iter().map(|cell| cell.0).collect(),
        None => vec![Value::from(&*object.key().name)],
    };
    let mut row = json!({"cells": cells});
    shown.include_in(&mut row, object, || object.value());
    let pod = decoded.as_ref().and_then(|decoded| decoded.as_any().downcast_ref::<Pod>());
    if let Some(condition) = pod.and_then(completed) {
        row["conditions"] = json!([condition]);
    }
    row
}

/// What tells clients that a pod's row may be left out: that the pod is over.
fn completed(pod: &Pod) -> Option<Value> {
    let phase = balsa_model::kinds::pod::phase(pod);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": phase, "message": message}))
}

/// Refuses a wish for what a Table cannot include.
fn check_include(form: Form, include: &str) -> Result<(), Failure> {
    if form != Form::Table || matches!(include, "" | "None" | "Metadata" | "Object") {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "Unable to convert to Table as requested: includeObject: Invalid value: \"{include}\": must be 'Metadata', 'Object', 'None', or empty"
    )))
}

/// A bookmark in a form that is not the object itself.
pub(super) fn bookmark(
    kind: KindRef,
    meta: &Value,
    shown: &Shown,
    now: Timestamp,
    with_columns: bool,
) -> Value {
    match shown.form {
        Form::Table => table(kind, &[], meta, now, shown, with_columns),
        _ => json!({"kind": "PartialObjectMetadata", "apiVersion": shown.version, "metadata": meta}),
    }
}
