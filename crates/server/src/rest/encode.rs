//! The encodings of answers and bodies beside JSON: YAML for people, CBOR for who asks for it.
//!
//! Handlers answer in JSON, which is what is stored; the front door turns an answer into what the
//! client prefers, line by line where it is a watch.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, yaml};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ciborium::Value as Cbor;
use futures::StreamExt as _;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

use super::query::Query;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/cbor`
    Cbor,
}

/// CBOR that says of itself that it is CBOR.
const SELF_DESCRIBED: u64 = 55_799;
/// Bytes that JSON would have as base64.
const EXPECTED_BASE64: std::ops::RangeInclusive<u64> = 21..=23;
/// Bytes up to which an answer is never compressed: the reference server's.
const GZIP_ABOVE: u64 = 128 * 1024;
/// How deep a CBOR body may nest.
const MAX_DEPTH: usize = 128;

impl Encoding {
    /// The encoding that a media type (without its parameters) stands for.
    pub(super) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json" | "application/*" | "*/*" | "" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/cbor" | "application/cbor-seq" => Some(Self::Cbor),
            _ => None,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Cbor => "application/cbor",
        }
    }

    fn encode(self, value: &Value) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Json => serde_json::to_vec_pretty(value).map_err(Failure::internal),
            Self::Yaml => yaml::to_text(&sorted(value)).map(String::into_bytes).map_err(Failure::internal),
            Self::Cbor => to_cbor(value),
        }
    }
}

/// Writes an answer as the client wants it: in another encoding, or indented for people. Only JSON is
/// rewritten: what is text, or another document, stays as it is.
pub(super) async fn transcode(response: Response, encoding: Encoding, pretty: bool) -> Response {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if !is_json || (encoding == Encoding::Json && !pretty) || response.status() == StatusCode::NOT_MODIFIED {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    if body.size_hint().exact().is_none() {
        if encoding != Encoding::Cbor {
            return Response::from_parts(parts, body);
        }
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cbor-seq"));
        let chunks = body.into_data_stream().map(|chunk| chunk.map(|chunk| sequence(&chunk)));
        return Response::from_parts(parts, Body::from_stream(chunks));
    }
    // The whole body is here already.
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let encoded = serde_json::from_slice(&bytes).ok().and_then(|value: Value| encoding.encode(&value).ok());
    let Some(encoded) = encoded else { return Response::from_parts(parts, Body::from(bytes)) };
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(encoded))
}

/// Lines of JSON as a sequence of CBOR. A watch sends whole lines only.
fn sequence(lines: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: Option<Value> = serde_json::from_slice(line).ok();
        out.extend(value.and_then(|value| to_cbor(&value).ok()).unwrap_or_default());
    }
    out.into()
}

/// Compresses a long answer for a client that `accepted` it. What has no length is a stream, and streams are
/// told at once.
pub(super) async fn gzip(response: Response, accepted: Option<HeaderValue>) -> Response {
    if !LongAnswers.should_compress(&response) {
        return response;
    }
    let mut request = Request::new(());
    request.headers_mut().extend(accepted.map(|accepted| (ACCEPT_ENCODING, accepted)));
    let answer = std::future::ready(Ok::<_, Infallible>(response));
    let mut answer = Some(answer);
    let service = tower::service_fn(move |_: Request<()>| {
        answer.take().unwrap_or_else(|| std::future::ready(Ok(Response::default())))
    });
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(LongAnswers);
    let Ok(response) = layer.layer(service).oneshot(request).await;
    response.map(Body::new)
}

/// What is worth the time.
#[derive(Clone, Copy, Debug)]
struct LongAnswers;

impl Predicate for LongAnswers {
    fn should_compress<B: http_body::Body>(&self, response: &http::Response<B>) -> bool {
        response.body().size_hint().exact().is_some_and(|length| length > GZIP_ABOVE)
    }
}

/// Whether an answer is for people: they say so, or read it with what people use.
pub(super) fn is_for_people(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        "" => {
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|people| agent.starts_with(people))
        }
        said => matches!(said, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// The same with the fields of all objects by name, as people expect them in YAML.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn to_cbor(value: &Value) -> Result<Vec<u8>, Failure> {
    let value = Cbor::serialized(value).map_err(Failure::internal)?;
    let mut out = Vec::new();
    ciborium::into_writer(&Cbor::Tag(SELF_DESCRIBED, Box::new(value)), &mut out)
        .map_err(Failure::internal)?;
    Ok(out)
}

/// A CBOR body as the tree that the same JSON would be.
pub(super) fn from_cbor(body: &[u8]) -> Result<Value, Failure> {
    let value: Cbor = ciborium::de::from_reader_with_recursion_limit(body, MAX_DEPTH)
        .map_err(|error| Failure::bad_request(format!("cbor: {error}")))?;
    json_of(value).ok_or_else(|| Failure::bad_request("cbor: the body holds what no object can hold"))
}

fn json_of(value: Cbor) -> Option<Value> {
    Some(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(set) => set.into(),
        Cbor::Integer(number) => {
            let number = i128::from(number);
            i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from)).ok()?
        }
        Cbor::Float(number) => serde_json::Number::from_f64(number)?.into(),
        Cbor::Text(text) => text.into(),
        // Go writes its strings, which need not be UTF-8, as bytes.
        Cbor::Bytes(bytes) => String::from_utf8(bytes).ok()?.into(),
        Cbor::Tag(SELF_DESCRIBED, inner) => json_of(*inner)?,
        Cbor::Tag(tag, inner) if EXPECTED_BASE64.contains(&tag) => match *inner {
            Cbor::Bytes(bytes) => STANDARD.encode(bytes).into(),
            other => json_of(other)?,
        },
        Cbor::Tag(_, inner) => json_of(*inner)?,
        Cbor::Array(items) => items.into_iter().map(json_of).collect::<Option<Vec<_>>>()?.into(),
        Cbor::Map(fields) => {
            let field = |(name, value): (Cbor, Cbor)| match json_of(name)? {
                Value::String(name) => Some((name, json_of(value)?)),
                _ => None,
            };
            Value::Object(fields.into_iter().map(field).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cbor_there_and_back() {
        let value = json!({"a": [1, -2, 1.5, "x", true, null], "b": {"c": "d"}});
        let bytes = to_cbor(&value).unwrap();
        assert_eq!(&bytes[..3], [0xd9, 0xd9, 0xf7]);
        assert_eq!(from_cbor(&bytes).unwrap(), value);
        // What Go sends: a map of byte strings.
        assert_eq!(from_cbor(b"\xa1\x41a\x41b").unwrap(), json!({"a": "b"}));
        assert_eq!(from_cbor(b"\xa1\x41a\xd6\x42\x00\x01").unwrap(), json!({"a": "AAE="}));
        for rubbish in [&b""[..], b"\xff", b"\xa1\x01\x02", &[0x81; 1000]] {
            assert!(from_cbor(rubbish).is_err());
        }
    }

    #[test]
    fn yaml_has_its_fields_by_name() {
        let text = Encoding::Yaml.encode(&json!({"kind": "A", "apiVersion": "v1"})).unwrap();
        assert_eq!(text, b"apiVersion: v1\nkind: A\n");
    }

    #[tokio::test]
    async fn a_watch_becomes_a_sequence() {
        let lines = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{\"a\":1}\n{\"b\":2}\n"))]);
        let mut response = Response::new(Body::from_stream(lines));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = transcode(response, Encoding::Cbor, false).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/cbor-seq");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, [to_cbor(&json!({"a": 1})).unwrap(), to_cbor(&json!({"b": 2})).unwrap()].concat());
    }
}
