//! What is not an object: discovery, OpenAPI, version, whose tokens there are, metrics.

use axum::body::Body;
use axum::response::Response;
use std::sync::LazyLock;

use balsa_model::discovery::{self, GroupVersion, Root};
use balsa_model::{Failure, KUBERNETES_VERSION, Reason, openapi};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Call, health, respond};
use crate::authorize::Attributes;

/// What is served, group by group.
static GROUPS: LazyLock<Vec<GroupVersion>> = LazyLock::new(discovery::built_in);

/// What a request wants that is for no object.
pub(super) fn attributes(call: &Call) -> Attributes {
    let path = call.uri.path().trim_end_matches('/');
    Attributes {
        verb: call.method.as_str().to_lowercase(),
        path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        ..Attributes::default()
    }
}

/// Serves a request for anything but objects.
pub(super) async fn serve(call: Call, _body: Body) -> Result<Response, Failure> {
    let path = call.uri.path().trim_end_matches('/').to_owned();
    call.front.authorize(&call.user, &attributes(&call))?;
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(Failure::generic(Reason::MethodNotAllowed));
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        [""] => Ok(respond::value(StatusCode::OK, &json!({"paths": PATHS}))),
        ["version"] => Ok(respond::value(StatusCode::OK, &version())),
        [probe @ ("healthz" | "livez" | "readyz")] => Ok(health::all(&call, probe).await),
        [probe @ ("healthz" | "livez" | "readyz"), check] => {
            Ok(health::one(&call, probe, check).await.unwrap_or_else(no_such_path))
        }
        [".well-known", "openid-configuration"] => Ok(issuer(&call)),
        ["openid", "v1", "jwks"] => issuer_keys(&call),
        ["metrics"] => metrics(&call).await,
        ["api"] => {
            let server = call.front.members.address();
            Ok(aggregated_or(&call, Root::Core, || discovery::api_versions(server)))
        }
        ["apis"] => Ok(aggregated_or(&call, Root::Groups, || discovery::api_group_list(&GROUPS))),
        ["api", "v1"] => found(discovery::api_resource_list(&GROUPS, "", "v1")),
        ["apis", group, ..] if discovery::api_group(&GROUPS, group).is_none() => Ok(no_such_page()),
        ["apis", group] => found(discovery::api_group(&GROUPS, group)),
        ["apis", group, version] => found(discovery::api_resource_list(&GROUPS, group, version)),
        ["openapi", "v3"] => Ok(respond::value(StatusCode::OK, &openapi::v3_index(openapi::v3_built_in()))),
        ["openapi", "v3", rest @ ..] => openapi_v3(&call, &rest.join("/")),
        ["openapi", "v2"] => Ok(openapi_v2(&call)),
        ["api", ..] => Err(not_found()),
        _ => Ok(no_such_path()),
    }
}

fn no_such_path() -> Response {
    respond::value(StatusCode::NOT_FOUND, &json!({"paths": PATHS}))
}

/// Where others learn to check the tokens of service accounts.
const ISSUER_KEYS: &str = "/openid/v1/jwks";

/// Whose tokens those of service accounts are, as OpenID Connect Discovery 1.0 has it.
fn issuer(call: &Call) -> Response {
    let document = json!({
        "issuer": call.front.tokens.issuer(),
        "jwks_uri": format!("https://{}{ISSUER_KEYS}", call.front.members.address()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    kept_for_an_hour(respond::value(StatusCode::OK, &document))
}

fn issuer_keys(call: &Call) -> Result<Response, Failure> {
    let keys = serde_json::to_vec(&call.front.tokens.public_keys()).map_err(Failure::internal)?;
    Ok(kept_for_an_hour(respond::typed(StatusCode::OK, "application/jwk-set+json", keys)))
}

fn kept_for_an_hour(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

const PATHS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    ISSUER_KEYS,
    "/readyz",
    "/version",
];

fn not_found() -> Failure {
    Failure::generic(Reason::NotFound)
}

/// The answer about groups that are not served.
fn no_such_page() -> Response {
    respond::typed(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

fn found(document: Option<Value>) -> Result<Response, Failure> {
    document.map(|document| respond::value(StatusCode::OK, &document)).ok_or_else(not_found)
}

/// `/version`: what clients compare with their own.
pub(crate) fn version() -> Value {
    let (major, minor, patch) = KUBERNETES_VERSION;
    json!({
        "major": major.to_string(), "minor": minor.to_string(),
        "emulationMajor": major.to_string(), "emulationMinor": minor.to_string(),
        "minCompatibilityMajor": major.to_string(), "minCompatibilityMinor": (minor - 1).to_string(),
        "gitVersion": format!("v{major}.{minor}.{patch}+balsa.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": option_env!("BALSA_COMMIT").unwrap_or_default(), "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none (Rust)", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

/// The aggregated document when the client asks for it by its parameters, else the one of old.
fn aggregated_or(call: &Call, root: Root, legacy: impl Fn() -> Value) -> Response {
    let accepts = call.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for entry in accepts.flat_map(|value| value.split(',')) {
        let entry = entry.replace(' ', "");
        for version in ["v2", "v2beta1"] {
            let wanted = format!("v={version}");
            if entry.contains("as=APIGroupDiscoveryList") && entry.split(';').any(|p| p == wanted) {
                return aggregated(call, root, version);
            }
        }
        if entry.starts_with("application/json") && !entry.contains("as=") {
            break;
        }
    }
    respond::value(StatusCode::OK, &legacy())
}

/// A document that clients keep on disk and ask for again with its hash.
fn aggregated(call: &Call, root: Root, version: &'static str) -> Response {
    let document = serde_json::to_vec(&discovery::aggregated(&GROUPS, root, version)).unwrap_or_default();
    let hash = discovery::hash(&document);
    let mut response = tagged(call, "application/json", document.into(), &hash);
    let headers = response.headers_mut();
    if let Ok(media_type) = HeaderValue::from_str(&discovery::aggregated_content_type(version)) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn openapi_v3(call: &Call, path: &str) -> Result<Response, Failure> {
    let document = openapi::v3_built_in().iter().find(|document| document.path == path);
    let document = document.ok_or_else(not_found)?;
    let wanted = call.query.get("hash");
    if !wanted.is_empty() && wanted != document.hash {
        // It was replaced by another one since the client read the index.
        let mut response =
            respond::typed(StatusCode::MOVED_PERMANENTLY, "application/json", bytes::Bytes::new());
        let location = format!("/openapi/v3/{path}?hash={}", document.hash);
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(LOCATION, location);
        }
        return Ok(response);
    }
    let mut response = tagged(call, "application/json", document.bytes.clone(), &document.hash);
    if !wanted.is_empty() {
        // What has its hash in its address never changes.
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let expires =
            call.front.engine.clock().now().saturating_add(jiff::SignedDuration::from_hours(24 * 365));
        let expires =
            expires.map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap_or_default();
        if let Ok(expires) = HeaderValue::from_str(&expires) {
            headers.insert(EXPIRES, expires);
        }
    }
    Ok(response)
}

fn openapi_v2(call: &Call) -> Response {
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let document = openapi::v2_built_in();
    if accept.contains("com.github.proto-openapi.spec.v2") {
        let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return tagged(call, media_type, document.protobuf.clone(), &document.hash);
    }
    tagged(call, "application/json", document.json.clone(), &document.hash)
}

fn tagged(call: &Call, media_type: &'static str, body: bytes::Bytes, etag: &str) -> Response {
    let quoted = format!("\"{etag}\"");
    let known = call.headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let known = known.flat_map(|v| v.split(',')).any(|known| known.trim().trim_start_matches("W/") == quoted);
    let mut response = if known {
        respond::typed(StatusCode::NOT_MODIFIED, media_type, bytes::Bytes::new())
    } else {
        respond::typed(StatusCode::OK, media_type, body)
    };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

async fn metrics(call: &Call) -> Result<Response, Failure> {
    let handle = call.front.metrics.as_ref().ok_or_else(not_found)?;
    call.front.engine.store().log().measure().await;
    call.front.engine.quota().measure();
    Ok(respond::typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", handle.render()))
}
