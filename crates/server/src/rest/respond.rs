//! Answers: objects and lists spliced from stored bytes, Tables, metadata, failures.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, KindRef, Object};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderName, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::{Value, json};

use super::accept::Form;
use crate::engine::Listed;

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    typed(status, "application/json", body)
}

/// An answer of some media type.
pub(super) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
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

/// Names the request in the answer, for whoever looks for it in logs.
pub(super) fn audit_id(response: &mut Response, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
    }
}

/// One object in the wanted form. `include` is the parameter `includeObject` of Tables.
pub(super) fn object(
    status: StatusCode,
    object: &Arc<Object>,
    form: Form,
    now: Timestamp,
    include: &str,
) -> Response {
    match form {
        Form::Whole => json(status, object.bytes().clone()),
        Form::Metadata | Form::MetadataList => value(status, &partial(object)),
        Form::Table => {
            let meta = json!({"resourceVersion": object.revision().to_string()});
            value(status, &table(object.kind(), std::slice::from_ref(object), &meta, now, include, true))
        }
    }
}

/// A list in the wanted form.
pub(super) fn list(kind: KindRef, listed: &Listed, form: Form, now: Timestamp, include: &str) -> Response {
    let mut meta = json!({"resourceVersion": listed.revision.to_string()});
    if !listed.continue_token.is_empty() {
        meta["continue"] = listed.continue_token.clone().into();
    }
    if let Some(remaining) = listed.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    match form {
        Form::Whole => json(StatusCode::OK, spliced(kind, listed, &meta)),
        Form::Table => value(StatusCode::OK, &table(kind, &listed.items, &meta, now, include, true)),
        Form::Metadata | Form::MetadataList => {
            let items: Vec<Value> = listed.items.iter().map(|item| partial(item)).collect();
            let body = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items,
            });
            value(StatusCode::OK, &body)
        }
    }
}

/// The bytes of a list: the stored bytes of its objects between commas, but for the type, which the
/// list has said already.
fn spliced(kind: KindRef, listed: &Listed, meta: &Value) -> Vec<u8> {
    let descriptor = kind.descriptor();
    let size: usize = listed.items.iter().map(|item| item.bytes().len() + 1).sum();
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        descriptor.kind,
        descriptor.api_version()
    );
    let mut out = Vec::with_capacity(head.len() + size + 4);
    out.extend_from_slice(head.as_bytes());
    let typed = kind.prefix().find("\"metadata\"").unwrap_or(1);
    for (i, item) in listed.items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'{');
        out.extend_from_slice(item.bytes().get(typed..).unwrap_or_default());
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// `PartialObjectMetadata`.
pub(super) fn partial(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.meta()})
}

/// A `Table`.
pub(super) fn table(
    kind: KindRef,
    objects: &[Arc<Object>],
    meta: &Value,
    now: Timestamp,
    include: &str,
    with_columns: bool,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(object, now, include)).collect();
    let columns: Vec<Value> = if with_columns { columns(kind) } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": if with_columns { Value::from(columns) } else { Value::Null },
        "rows": rows,
    })
}

fn columns(kind: KindRef) -> Vec<Value> {
    let columns = kind.descriptor().columns.iter();
    let definition = |column: &balsa_model::table::Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.name, "priority": column.priority,
        })
    };
    columns.map(definition).collect()
}

fn row(object: &Arc<Object>, now: Timestamp, include: &str) -> Value {
    let cells: Vec<Value> = match object.decode() {
        Some(typed) => typed.row(now).into_iter().map(|cell| cell.0).collect(),
        None => vec![Value::from(&*object.key().name)],
    };
    let mut row = json!({"cells": cells});
    match include {
        "None" => {}
        "Object" => row["object"] = object.value(),
        _ => row["object"] = partial(object),
    }
    if let Some(condition) = object.typed::<Pod>().and_then(completed) {
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
pub(super) fn check_include(form: Form, include: &str) -> Result<(), Failure> {
    if form != Form::Table || matches!(include, "" | "None" | "Metadata" | "Object") {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "Unable to convert to Table as requested: includeObject: Invalid value: \"{include}\": must be 'Metadata', 'Object', 'None', or empty"
    )))
}
