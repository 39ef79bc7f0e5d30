//! The verbs on objects and collections of any kind.

use axum::body::Body;
use axum::response::Response;
use balsa_model::field::{FieldErrors, Path};
use balsa_model::fields;
use balsa_model::patch::PatchType;
use balsa_model::strategy::{DeleteOptions, Part, Propagation};
use balsa_model::{Failure, Key, Precondition, Reason, Revision, schema};
use http::header::USER_AGENT;
use http::{Method, StatusCode};
use serde_json::Value;

use super::accept::{self, Form};
use super::body::{self, FieldValidation};
use super::query::{self, wrong_option};
use super::respond::Shown;
use super::{ResourceCall, encode, respond, watch};
use crate::engine::{Configuration, Patch, Written};

/// The message of delete options in the protobuf tables.
const DELETE_OPTIONS: &str = "am.apis.meta.v1.DeleteOptions";

/// Serves a request for an object or a collection.
pub(super) async fn serve(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let collection = call.path.name.is_empty();
    match (call.call.method.clone(), collection) {
        (Method::GET, true) if call.call.query.flag("watch") => watch::serve(call).await,
        (Method::GET, true) => list(call).await,
        (Method::GET, false) => get(call).await,
        (Method::POST, true) => create(call, body).await,
        (Method::PUT, false) => update(call, Part::Main, body).await,
        (Method::PATCH, false) => patch(call, Part::Main, body).await,
        (Method::DELETE, false) => delete(call, body).await,
        (Method::DELETE, true) if call.kind.descriptor().deletes_collections() => {
            delete_collection(call, body).await
        }
        _ => Err(call.not_allowed()),
    }
}

impl ResourceCall {
    pub(super) fn key(&self) -> Key {
        Key::new(self.path.namespace.as_str(), self.path.name.as_str())
    }

    fn written(&self, written: &Written, mut warnings: Vec<String>) -> Result<Response, Failure> {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.object(status, &written.object)?;
        warnings.extend(written.warnings.iter().cloned());
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    pub(super) fn object(
        &self,
        status: StatusCode,
        object: &std::sync::Arc<balsa_model::Object>,
    ) -> Result<Response, Failure> {
        let accepted = accept::negotiate_object(&self.call.headers, self.kind.descriptor())?;
        let shown = Shown::new(accepted, self.call.query.get("includeObject"))?;
        Ok(respond::object(status, object, &shown, self.call.front.engine.clock().now()))
    }

    /// `options` is the kind of the verb's options.
    pub(super) fn validation(&self, options: &str) -> Result<FieldValidation, Failure> {
        FieldValidation::parse(options, self.call.query.get("fieldValidation"))
    }

    /// The proof that the user may write here, in the name of a field manager: the one that the request
    /// names, or the program that sent it. `options` is the kind of the verb's options.
    pub(super) fn authorize_write(
        &self,
        verb: &str,
        options: &str,
    ) -> Result<crate::authorize::Authorized, Failure> {
        let who = self.authorize(verb)?;
        let named = self.call.query.get("fieldManager");
        if named.is_empty() {
            let program = self.call.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
            let manager = fields::manager_of_user_agent(program.unwrap_or_default());
            return Ok(who.with_manager(&manager));
        }
        let mut errors = FieldErrors::new();
        fields::validate_manager(named, &Path::new("fieldManager"), &mut errors);
        match errors.into_vec().first() {
            None => Ok(who.with_manager(named)),
            Some(error) => Err(wrong_option(options, error.cause.as_str(), "fieldManager", &error.body())),
        }
    }

    /// A namespaced kind is written in a namespace only.
    fn require_namespace(&self) -> Result<(), Failure> {
        let namespaced = self.kind.descriptor().is_namespaced();
        match (namespaced, self.path.namespace.is_empty()) {
            (true, true) => Err(self.not_allowed()),
            (false, false) => Err(Failure::generic(Reason::NotFound)),
            _ => Ok(()),
        }
    }
}

async fn list(call: ResourceCall) -> Result<Response, Failure> {
    let who = call.authorize("list")?;
    let query = &call.call.query;
    let accepted = accept::negotiate_list(&call.call.headers, call.kind.descriptor())?;
    let shown = Shown::new(accepted, query.get("includeObject"))?;
    let filter = query.filter(call.kind.descriptor(), &call.path.namespace, "")?;
    let (wanted, page) = (query.list_wanted()?, query.page()?);
    // Lists take no time; that it is a number is judged all the same.
    query.timeout()?;
    let engine = &call.call.front.engine;
    let listed = engine.list(&who, call.kind, &filter, wanted, &page).await?;
    Ok(respond::list(call.kind, listed, &shown, engine.clock().now()))
}

async fn get(call: ResourceCall) -> Result<Response, Failure> {
    let who = call.authorize("get")?;
    let wanted = call.call.query.get_wanted()?;
    let object = call.call.front.engine.get(&who, call.kind, &call.key(), wanted).await?;
    call.object(StatusCode::OK, &object)
}

async fn create(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize_write("create", "CreateOptions")?;
    call.require_namespace()?;
    let bytes = body::read(body).await?;
    let descriptor = call.kind.descriptor();
    let parsed = body::parse(&call.call.headers, &bytes, descriptor.message)?;
    let decoded = body::check(descriptor, parsed, call.validation("CreateOptions")?)?;
    let dry_run = call.call.query.dry_run("CreateOptions")?;
    let engine = &call.call.front.engine;
    let written = engine.create(&who, call.kind, &call.path.namespace, decoded.value, dry_run).await?;
    call.written(&written, decoded.warnings)
}

/// Replaces a part of an object.
pub(super) async fn update(call: ResourceCall, part: Part, body: Body) -> Result<Response, Failure> {
    let who = call.authorize_write("update", "UpdateOptions")?;
    let bytes = body::read(body).await?;
    let descriptor = call.kind.descriptor();
    let parsed = body::parse(&call.call.headers, &bytes, descriptor.message)?;
    let decoded = body::check(descriptor, parsed, call.validation("UpdateOptions")?)?;
    let dry_run = call.call.query.dry_run("UpdateOptions")?;
    require_version(&call, part, &decoded.value)?;
    let engine = &call.call.front.engine;
    let written = engine.update(&who, call.kind, &call.key(), part, decoded.value, dry_run).await?;
    call.written(&written, decoded.warnings)
}

/// Some kinds are replaced only by those who say which version.
fn require_version(call: &ResourceCall, part: Part, value: &Value) -> Result<(), Failure> {
    let descriptor = call.kind.descriptor();
    let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    let exists = || call.call.front.engine.state().get(call.kind.stored(), &call.key()).is_some();
    if !descriptor.needs_version || part != Part::Main || !version.is_empty() || !exists() {
        return Ok(());
    }
    let name = &call.path.name;
    let why = "Invalid value: 0x0: must be specified for an update";
    let message = format!("{} \"{name}\" is invalid: metadata.resourceVersion: {why}", descriptor.resource());
    let failure = Failure::new(Reason::Invalid, message).about(descriptor, name);
    Err(failure.cause("FieldValueInvalid", why, "metadata.resourceVersion"))
}

/// What a PATCH carries.
#[expect(clippy::large_enum_variant, reason = "one a request, moved once")]
pub(super) enum Change {
    /// How to change the object.
    Patch(Patch),
    /// What a manager wants of it, and what the client should be told.
    Configuration(Configuration, Vec<String>),
}

/// Reads a patch, after its options were found in order.
pub(super) async fn read_patch(call: &ResourceCall, body: Body) -> Result<Change, Failure> {
    let media_type = body::media_type(&call.call.headers);
    let kind = PatchType::from_content_type(&media_type)?;
    let query = &call.call.query;
    if kind != PatchType::Apply {
        if query.has("force") {
            let why = "Forbidden: may not be specified for non-apply patch";
            return Err(wrong_option("PatchOptions", "FieldValueForbidden", "force", why));
        }
        return Ok(Change::Patch(Patch { kind, body: body::read(body).await? }));
    }
    if query.get("fieldManager").is_empty() {
        let why = "Required value: is required for apply patch";
        return Err(wrong_option("PatchOptions", "FieldValueRequired", "fieldManager", why));
    }
    let bytes = body::read(body).await?;
    let parsed = if media_type.ends_with("cbor") {
        encode::from_cbor(&bytes)
            .map(|value| (value, Vec::new()))
            .map_err(|why| Failure::bad_request(format!("error decoding CBOR: {}", why.message)))
    } else {
        schema::parse_yaml_patch(&bytes).map_err(|why| {
            let why = format!("error decoding YAML: error converting YAML to JSON: {}", why.message);
            Failure::bad_request(why)
        })
    };
    let (value, duplicates) = parsed?;
    let warnings = body::judge_applied(duplicates, call.validation("PatchOptions")?)?;
    let may_create = call.authorize("create").map(drop);
    Ok(Change::Configuration(Configuration { value, force: query.flag("force"), may_create }, warnings))
}

/// Patches a part of an object.
pub(super) async fn patch(call: ResourceCall, part: Part, body: Body) -> Result<Response, Failure> {
    let who = call.authorize_write("patch", "PatchOptions")?;
    let validation = call.validation("PatchOptions")?;
    let change = read_patch(&call, body).await?;
    let dry_run = call.call.query.dry_run("PatchOptions")?;
    let engine = &call.call.front.engine;
    let key = call.key();
    match change {
        Change::Patch(patch) => {
            let written = engine.patch(&who, call.kind, &key, part, &patch, validation, dry_run).await?;
            call.written(&written, Vec::new())
        }
        Change::Configuration(config, warnings) => {
            let written = engine.apply(&who, call.kind, &key, part, &config, dry_run).await?;
            call.written(&written, warnings)
        }
    }
}

/// How something is to be deleted.
struct Deletion {
    options: DeleteOptions,
    precondition: Precondition,
    dry_run: bool,
    /// Whether the client said, in the way of old, that dependents go too.
    cascades: bool,
}

/// Delete options from the body or, when there is none, from the parameters.
async fn delete_options(call: &ResourceCall, body: Body) -> Result<Deletion, Failure> {
    let bytes = body::read(body).await?;
    let value = if bytes.is_empty() {
        Value::Null
    } else {
        let (value, _) = body::parse(&call.call.headers, &bytes, DELETE_OPTIONS)?;
        require_delete_options(&value)?;
        value
    };
    let query = &call.call.query;
    let grace = match value.get("gracePeriodSeconds").and_then(Value::as_i64) {
        Some(seconds) => Some(seconds),
        None => query.number("gracePeriodSeconds")?,
    };
    let text = |field: &str| {
        let given = value.get(field).and_then(Value::as_str).unwrap_or_default();
        if given.is_empty() { query.get(field).to_owned() } else { given.to_owned() }
    };
    let orphan = value.get("orphanDependents").and_then(Value::as_bool);
    let orphan = orphan.or_else(|| query.has("orphanDependents").then(|| query.flag("orphanDependents")));
    let policy = text("propagationPolicy");
    if !policy.is_empty() && orphan.is_some() {
        let why = format!(
            "Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"
        );
        return Err(wrong_option("DeleteOptions", "FieldValueInvalid", "propagationPolicy", &why));
    }
    let propagation = match (policy.as_str(), orphan) {
        ("", None) => None,
        ("", Some(true)) | ("Orphan", _) => Some(Propagation::Orphan),
        ("", Some(false)) | ("Background", _) => Some(Propagation::Background),
        ("Foreground", _) => Some(Propagation::Foreground),
        (other, _) => {
            let why = format!(
                "Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            );
            return Err(wrong_option("DeleteOptions", "FieldValueNotSupported", "propagationPolicy", &why));
        }
    };
    let condition = |field: &str| value.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str);
    let precondition = Precondition {
        uid: condition("uid").map(str::to_owned),
        revision: condition("resourceVersion").and_then(|v| v.parse().ok()).map(Revision),
    };
    let directives = super::texts(&value, "/dryRun");
    let dry_run = query.dry_run("DeleteOptions")? || query::dry_run("DeleteOptions", &directives)?;
    let options = DeleteOptions { grace_period_seconds: grace, propagation };
    Ok(Deletion { options, precondition, dry_run, cascades: orphan == Some(false) })
}

/// Some clients name the options by the group of the object that is to go.
fn require_delete_options(value: &Value) -> Result<(), Failure> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if matches!(kind, "" | "DeleteOptions") {
        return Ok(());
    }
    let message = format!("no kind \"{kind}\" is registered for version \"{version}\"");
    Err(Failure::bad_request(message))
}

async fn delete(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize("delete")?;
    let Deletion { options, precondition, dry_run, cascades } = delete_options(&call, body).await?;
    let engine = &call.call.front.engine;
    let deleted = engine.delete(&who, call.kind, &call.key(), &options, &precondition, dry_run).await?;
    let status = if cascades && !deleted.gone { StatusCode::ACCEPTED } else { StatusCode::OK };
    // Of some kinds clients see the object as it was last; of the rest that it is gone.
    let whole = !deleted.gone || call.kind.descriptor().returns_deleted;
    if whole && accept::negotiate(&call.call.headers)?.form == Form::Whole {
        return call.object(status, &deleted.object);
    }
    Ok(respond::success(status, &deleted.object))
}

async fn delete_collection(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize("deletecollection")?;
    call.require_namespace()?;
    let Deletion { options, dry_run, .. } = delete_options(&call, body).await?;
    let filter = call.call.query.filter(call.kind.descriptor(), &call.path.namespace, "")?;
    let engine = &call.call.front.engine;
    let items = engine.delete_collection(&who, call.kind, &filter, &options, dry_run).await?;
    let listed = crate::engine::Listed { items, revision: engine.state().revision(), ..Default::default() };
    let shown = Shown::new(accept::negotiate(&call.call.headers)?, call.call.query.get("includeObject"))?;
    Ok(respond::list(call.kind, listed, &shown, engine.clock().now()))
}
