//! Request bodies: JSON, YAML or protobuf become one JSON tree, checked against the kind's schema.

use balsa_model::schema::Checked;
use balsa_model::{Descriptor, Failure, Reason, patch, protobuf, schema, yaml};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::encode;
use super::query::wrong_option;

/// Largest request body, in bytes: that of the reference server.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Bytes of a body that refusals show.
const SHOWN_OF_BODY: usize = 30;

/// What to do about fields that the schema does not know, and about fields that stand twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Tell the client.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// From the parameter's value; empty is the default, `Warn`. `options` is the kind of the options it is among.
    pub(crate) fn parse(options: &str, text: &str) -> Result<Self, Failure> {
        match text {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => {
                let why = format!(
                    "Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                );
                Err(wrong_option(options, "FieldValueNotSupported", "fieldValidation", &why))
            }
        }
    }
}

/// A body as a tree, and what the client should be told about it.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    pub(crate) warnings: Vec<String>,
}

/// Reads a body, up to the limit.
pub(super) async fn read(body: axum::body::Body) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {MAX_BODY_BYTES}"),
        )),
        Err(error) => Err(Failure::bad_request(format!("reading the body failed: {error}"))),
    }
}

/// The media type of a body without its parameters; JSON when none is named.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = named.split(';').next().unwrap_or_default().trim().to_lowercase();
    if media_type.is_empty() { "application/json".to_owned() } else { media_type }
}

/// A body of any encoding as a tree, and the fields that stand twice in it. `message` is what a
/// protobuf body holds; kinds named in it are kept.
pub(super) fn parse(
    headers: &HeaderMap,
    body: &[u8],
    message: &str,
) -> Result<(Value, Vec<String>), Failure> {
    match media_type(headers).as_str() {
        "application/json" => {
            let parsed = schema::parse_json(body).map_err(|why| unrecognized(message, &why))?;
            require_version_text(&parsed.0, body, message)?;
            Ok(parsed)
        }
        "application/yaml" => {
            let parsed = schema::parse_yaml(body).map_err(|why| unrecognized(message, &why))?;
            require_version_text(&parsed.0, body, message)?;
            Ok(parsed)
        }
        "application/cbor" => {
            let value = encode::from_cbor(body).map_err(|why| unrecognized(message, &why))?;
            Ok((value, Vec::new()))
        }
        "application/vnd.kubernetes.protobuf" => {
            let envelope = protobuf::decode_envelope(body)?;
            let mut value = protobuf::to_json(message, envelope.raw)?;
            if let Some(map) = value.as_object_mut() {
                map.insert("apiVersion".to_owned(), envelope.api_version.into());
                map.insert("kind".to_owned(), envelope.kind.into());
            }
            Ok((value, Vec::new()))
        }
        _ => Err(Failure::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// Refuses an apiVersion that is none, whatever the kind. The refusal shows how the body begins.
fn require_version_text(value: &Value, body: &[u8], message: &str) -> Result<(), Failure> {
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version.matches('/').count() < 2 {
        return Ok(());
    }
    let why = format!("unexpected GroupVersion string: {version} ({})", beginning(body));
    Err(unrecognized(message, &Failure::bad_request(why)))
}

/// How a body begins: as text where it is JSON, else byte by byte.
fn beginning(body: &[u8]) -> String {
    let shown = body.get(..SHOWN_OF_BODY).unwrap_or(body);
    let more = if shown.len() < body.len() { " ..." } else { "" };
    if body.first() == Some(&b'{') {
        return format!("{}{more}", String::from_utf8_lossy(shown));
    }
    let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}{more}")
}

/// A body that is no object at all: the kind of it cannot be told, only the one that was expected.
fn unrecognized(message: &str, why: &Failure) -> Failure {
    let kind = message.rsplit('.').next().unwrap_or_default();
    Failure::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {}",
        why.message
    ))
}

/// An object of `kind` from a parsed body.
pub(crate) fn check(
    kind: &Descriptor,
    (value, duplicates): (Value, Vec<String>),
    validation: FieldValidation,
) -> Result<Decoded, Failure> {
    require_kind(kind, &value)?;
    judge(kind, schema::check(kind.message, value)?, duplicates, validation)
}

/// What becomes of fields that the schema does not know and of those that stand twice.
fn judge(
    kind: &Descriptor,
    checked: Checked,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Decoded, Failure> {
    let Checked { value, unknown } = checked;
    let warnings = match validation {
        FieldValidation::Strict => {
            match schema::strict_failure(kind.kind, kind.version, &unknown, &duplicates) {
                Some(failure) => return Err(failure),
                None => Vec::new(),
            }
        }
        FieldValidation::Warn => duplicates.into_iter().chain(unknown).collect(),
        FieldValidation::Ignore => Vec::new(),
    };
    Ok(Decoded { value, warnings })
}

/// The same of a patch: what is odd about its text, and what its result has too much.
pub(crate) fn judge_patch(
    checked: Checked,
    oddities: Vec<String>,
    validation: FieldValidation,
) -> Result<Decoded, Failure> {
    let Checked { value, unknown } = checked;
    let found = || oddities.into_iter().chain(unknown).collect::<Vec<_>>();
    let warnings = match validation {
        FieldValidation::Strict => match patch::strict_failure(&value, &found()) {
            Some(failure) => return Err(failure),
            None => Vec::new(),
        },
        FieldValidation::Warn => found(),
        FieldValidation::Ignore => Vec::new(),
    };
    Ok(Decoded { value, warnings })
}

/// The same of what a manager applies, of which only what stands twice is asked: a field that nobody knows
/// cannot be owned, and is refused whatever the client says.
pub(crate) fn judge_applied(
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, Failure> {
    match validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            let why = yaml::strict_error(&duplicates);
            Err(Failure::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {why}"
            )))
        }
        FieldValidation::Warn => Ok(duplicates),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

fn require_kind(kind: &Descriptor, value: &Value) -> Result<(), Failure> {
    require_type(kind.kind, &kind.api_version(), value)
}

/// Refuses an order whose body does not name what the URL names.
pub(super) fn require_name(kind: &str, name: &str, value: &Value) -> Result<(), Failure> {
    match value.pointer("/metadata/name").and_then(Value::as_str) == Some(name) {
        true => Ok(()),
        false => Err(Failure::bad_request(format!("name in URL does not match name in {kind} object"))),
    }
}

/// Refuses a body that says to be something else than `kind` of `api_version`. What it does not say is
/// taken for granted.
pub(super) fn require_type(kind: &str, api_version: &str, value: &Value) -> Result<(), Failure> {
    let Some(map) = value.as_object() else {
        return Err(Failure::bad_request(
            "couldn't get version/kind; json parse error: the body is not an object",
        ));
    };
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
    let or = |said: &'_ str, known: &'_ str| if said.is_empty() { known.to_owned() } else { said.to_owned() };
    let (found_version, name) = (or(text("apiVersion"), api_version), or(text("kind"), kind));
    if name == kind && found_version == api_version {
        return Ok(());
    }
    if found_version.matches('/').count() > 1 {
        return Err(Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): unexpected GroupVersion string: {found_version}"
        )));
    }
    let version = found_version.rsplit('/').next().unwrap_or_default();
    let why = match balsa_model::kinds::by_api_version(&found_version, &name) {
        Some(other) => {
            let group = api_version.split_once('/').map_or("core", |(group, _)| group);
            let (version, short) = (other.descriptor().version, group.split('.').next().unwrap_or_default());
            format!("converting ({version}.{name}) to ({short}.{kind}): unknown conversion")
        }
        None => format!("no kind \"{name}\" is registered for version \"{found_version}\""),
    };
    Err(Failure::bad_request(format!("{name} in version \"{version}\" cannot be handled as a {kind}: {why}")))
}
