//! Parts of objects that are no streams: status, scale, binding, eviction, token, finalize, approval,
//! ephemeral containers, resize.

use axum::body::Body;
use axum::response::Response;
use balsa_model::field::{FieldErrors, Path};
use balsa_model::kind::kind_of;
use balsa_model::strategy::Part;
use balsa_model::table::{Cell, Column};
use balsa_model::{Descriptor, Failure, Key, Object, Reason, Subresource, schema};
use http::{Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};

use super::accept::{self, Form};
use super::resources::Change;
use super::respond::Shown;
use super::{Call, ResourceCall, body, eviction, resources, respond};
use crate::engine::{Binding, SCALE, Wanted, Written, precondition_of, scale_of};
use crate::identity::{Bound, TokenRequest, bindable};

/// What refusals say a request for a token is.
const TOKEN_REQUEST: Descriptor =
    Descriptor::namespaced("authentication.k8s.io", "v1", "TokenRequest", "", "", "");
/// Seconds that a token may ask for at most.
const LONGEST_LIFE: i64 = 1 << 32;
/// Seconds that a token may ask for at least.
const SHORTEST_LIFE: i64 = 600;

/// Serves a request for a part of an object.
pub(super) async fn serve(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let parts = call.kind.descriptor().subresources;
    let Some(part) = parts.iter().find(|part| part.path() == call.path.subresource) else {
        return Err(Failure::generic(Reason::NotFound));
    };
    match (part, call.call.method.clone()) {
        (
            Subresource::Status
            | Subresource::Approval
            | Subresource::EphemeralContainers
            | Subresource::Resize,
            Method::GET,
        ) => {
            let who = call.authorize("get")?;
            let object = call.call.front.engine.get(&who, call.kind, &call.key(), Wanted::Latest).await?;
            call.object(StatusCode::OK, &object)
        }
        (Subresource::Status, Method::PUT) => resources::update(call, Part::Status, body).await,
        (Subresource::Status, Method::PATCH) => resources::patch(call, Part::Status, body).await,
        (
            Subresource::Approval
            | Subresource::EphemeralContainers
            | Subresource::Resize
            | Subresource::Finalize,
            Method::PUT,
        ) => {
            let part = Part::Sub(*part);
            resources::update(call, part, body).await
        }
        (Subresource::Approval | Subresource::EphemeralContainers | Subresource::Resize, Method::PATCH) => {
            let part = Part::Sub(*part);
            resources::patch(call, part, body).await
        }
        (Subresource::Scale, Method::GET) => get_scale(call).await,
        (Subresource::Scale, Method::PUT) => put_scale(call, body).await,
        (Subresource::Scale, Method::PATCH) => patch_scale(call, body).await,
        (Subresource::Binding, Method::POST) => bind(call, body).await,
        (Subresource::Eviction, Method::POST) => eviction::serve(call, body).await,
        (Subresource::Token, Method::POST) => token(call, body).await,
        _ => Err(call.not_allowed()),
    }
}

async fn get_scale(call: ResourceCall) -> Result<Response, Failure> {
    let who = call.authorize("get")?;
    let found = call.call.front.engine.get(&who, call.kind, &call.key(), Wanted::Latest).await;
    let object = found.map_err(|failure| scale_not_found(failure, &call))?;
    let scale = shown_scale(&object)?;
    let accepted = accept::negotiate(&call.call.headers)?;
    if accepted.form != Form::Table {
        return Ok(respond::value(StatusCode::OK, &scale));
    }
    let shown = Shown::new(accepted, call.call.query.get("includeObject"))?;
    let now = call.call.front.engine.clock().now();
    Ok(respond::value(StatusCode::OK, &scale_table(&object, &scale, &shown, now)))
}

/// That there is nothing to scale: the refusal of a read names the part, too, and of core kinds the group
/// that scales are of.
fn scale_not_found(failure: Failure, call: &ResourceCall) -> Failure {
    if failure.reason != Reason::NotFound {
        return failure;
    }
    let mut named = failure;
    named.kind = format!("{}/scale", call.kind.descriptor().plural);
    if named.group.is_empty() {
        named.group = "autoscaling".to_owned();
    }
    named.message = format!("{}.{} \"{}\" not found", named.kind, named.group, call.path.name);
    named
}

/// What `kubectl get --subresource=scale` prints.
fn scale_table(object: &Object, scale: &Value, shown: &Shown, now: Timestamp) -> Value {
    let number = |part: &str| scale.pointer(part).and_then(Value::as_i64).unwrap_or_default();
    let columns = [Column::NAME, Column::number("Desired"), Column::number("Available"), Column::AGE];
    let cells = [
        Cell::name(object.meta()),
        Cell::number(number("/spec/replicas")),
        Cell::number(number("/status/replicas")),
        Cell::age(object.meta(), now),
    ];
    let mut row = json!({"cells": cells.map(|cell| cell.0)});
    shown.include_in(&mut row, object, || scale.clone());
    json!({
        "kind": "Table", "apiVersion": shown.version,
        "metadata": {"resourceVersion": object.revision().to_string()},
        "columnDefinitions": respond::definitions(&columns), "rows": [row],
    })
}

/// A Scale as it is answered: no replicas are left out.
fn shown_scale(object: &Object) -> Result<Value, Failure> {
    let value = serde_json::to_value(scale_of(object)?).map_err(Failure::internal)?;
    Ok(schema::check(SCALE.message, value)?.value)
}

async fn put_scale(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize_write("update", "UpdateOptions")?;
    let bytes = body::read(body).await?;
    let parsed = body::parse(&call.call.headers, &bytes, SCALE.message)?;
    let decoded = body::check(&SCALE, parsed, call.validation("UpdateOptions")?)?;
    let dry_run = call.call.query.dry_run("UpdateOptions")?;
    let engine = &call.call.front.engine;
    let new_scale = |_: &Value| Ok(decoded.value.clone());
    let written = engine.update_scale(&who, call.kind, &call.key(), dry_run, new_scale).await?;
    written_scale(&written, decoded.warnings)
}

async fn patch_scale(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize_write("patch", "PatchOptions")?;
    let validation = call.validation("PatchOptions")?;
    let change = resources::read_patch(&call, body).await?;
    let dry_run = call.call.query.dry_run("PatchOptions")?;
    let (engine, key) = (&call.call.front.engine, call.key());
    match change {
        Change::Patch(patch) => {
            let written = engine.patch_scale(&who, call.kind, &key, &patch, validation, dry_run).await?;
            written_scale(&written, Vec::new())
        }
        Change::Configuration(config, warnings) => {
            let written = engine.apply_scale(&who, call.kind, &key, &config, dry_run).await?;
            written_scale(&written, warnings)
        }
    }
}

fn written_scale(written: &Written, mut warnings: Vec<String>) -> Result<Response, Failure> {
    let mut response = respond::value(StatusCode::OK, &shown_scale(&written.object)?);
    warnings.extend(written.warnings.iter().cloned());
    respond::warn(&mut response, &warnings);
    Ok(response)
}

async fn bind(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize("create")?;
    let value = binding(&call.call, body).await?;
    body::require_name("Binding", &call.path.name, &value)?;
    bind_pod(&call.call, &who, call.key(), &value).await
}

/// The binding in a body.
pub(super) async fn binding(call: &Call, body: Body) -> Result<Value, Failure> {
    let bytes = body::read(body).await?;
    let (value, _) = body::parse(&call.headers, &bytes, "core.v1.Binding")?;
    body::require_type("Binding", "v1", &value)?;
    Ok(value)
}

/// Gives a pod the node that a binding names.
pub(super) async fn bind_pod(
    call: &Call,
    who: &crate::authorize::Authorized,
    pod: Key,
    value: &Value,
) -> Result<Response, Failure> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, node) = (text("/target/kind"), text("/target/name"));
    if !matches!(kind.as_str(), "" | "Node") {
        let why =
            format!("target.kind: Unsupported value: \"{kind}\": supported values: \"Node\", \"<empty>\"");
        return Err(Failure::bad_request(why));
    }
    if node.is_empty() {
        return Err(Failure::bad_request("target.name: Required value"));
    }
    let annotations = value.pointer("/metadata/annotations").and_then(Value::as_object);
    let annotation = |(name, text): (&String, &Value)| Some((name.clone(), text.as_str()?.to_owned()));
    let annotations = annotations.into_iter().flatten().filter_map(annotation).collect();
    let binding = Binding { pod, precondition: precondition_of(value)?, node, annotations };
    let engine = &call.front.engine;
    let answer = if call.query.dry_run("CreateOptions")? {
        engine.try_binding(who, &binding).await
    } else {
        let answers = engine.bind(who, vec![binding]).await;
        answers.into_iter().next().unwrap_or_else(|| Err(Failure::internal("no answer")))
    };
    answer.map_err(|mut failure| {
        if failure.reason == Reason::Conflict {
            // What is in conflict is the binding: the message names it as a part of the pod.
            let named = format!("{}/binding", failure.kind);
            failure.message = failure.message.replacen(&failure.kind, &named, 1);
            failure.kind = named;
        }
        failure
    })?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &status))
}

async fn token(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    call.authorize("create")?;
    let bytes = body::read(body).await?;
    let (mut value, _) = body::parse(&call.call.headers, &bytes, "authentication.v1.TokenRequest")?;
    body::require_type("TokenRequest", "authentication.k8s.io/v1", &value)?;
    check_life(value.pointer("/spec/expirationSeconds").and_then(Value::as_i64))?;
    let kind = kind_of::<ServiceAccount>();
    let front = &call.call.front;
    let key = call.key();
    let account = front
        .engine
        .state()
        .get(kind, &key)
        .ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))?;
    let account =
        account.typed::<ServiceAccount>().ok_or_else(|| Failure::internal("account does not decode"))?;
    let mut request = TokenRequest { bound: bound_object(&call, &value)?, ..TokenRequest::default() };
    let audiences = super::texts(&value, "/spec/audiences");
    request.audiences = if audiences.is_empty() { vec![front.tokens.issuer().to_owned()] } else { audiences };
    if let Some(seconds) = value.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
        request.seconds = seconds;
    }
    let (token, expires) = front.tokens.issue(&account, &request, front.engine.clock().now_seconds())?;
    value["spec"] = json!({
        "audiences": request.audiences,
        "expirationSeconds": request.seconds,
        "boundObjectRef": value.pointer("/spec/boundObjectRef"),
    });
    value["kind"] = "TokenRequest".into();
    value["apiVersion"] = "authentication.k8s.io/v1".into();
    value["metadata"] = json!({"name": &*key.name, "namespace": &*key.namespace});
    value["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
    Ok(respond::value(StatusCode::CREATED, &value))
}

/// A token is good for ten minutes at least, and not for ever.
fn check_life(seconds: Option<i64>) -> Result<(), Failure> {
    let Some(seconds) = seconds else { return Ok(()) };
    let mut errors = FieldErrors::new();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < SHORTEST_LIFE {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST_LIFE {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    Failure::invalid(&TOKEN_REQUEST, "", errors).map_or(Ok(()), Err)
}

/// What a token is to be bound to, which must be there.
fn bound_object(call: &ResourceCall, request: &Value) -> Result<Option<Bound>, Failure> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|reference| !reference.is_null())
    else {
        return Ok(None);
    };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, name, uid) = (text("apiVersion"), text("name"), text("uid"));
    let kind = bindable(text("kind")).filter(|_| matches!(version, "" | "v1")).ok_or_else(|| {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = text("kind");
        Failure::bad_request(format!("cannot bind token to object of type {group}/{version}, Kind={kind}"))
    })?;
    let namespace = if kind.descriptor().is_namespaced() { call.path.namespace.as_str() } else { "" };
    let object = call.call.front.engine.state().get(kind, &Key::new(namespace, name));
    let object = object.ok_or_else(|| Failure::not_found(kind.descriptor(), name))?;
    if !uid.is_empty() && object.uid() != uid {
        return Err(Failure::conflict(
            kind.descriptor(),
            name,
            "the UID in the bound object reference does not match",
        ));
    }
    Ok(Some(Bound { kind, name: name.to_owned(), uid: object.uid().to_owned() }))
}
