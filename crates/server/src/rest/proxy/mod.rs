//! `proxy` of pods, services and nodes: HTTP (and what it upgrades to) to what runs in the cluster, through
//! the streams of the agents, so that nothing has to be able to reach a pod.
//!
//! The name in the URL may say more than a name: `https:web:8443` is port 8443 of `web`, spoken to with
//! TLS. Whose certificate that is nobody can know, so it is not asked, as in Kubernetes.

mod backend;
mod pass;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, Key, Reason};
use balsa_rt::TaskKind;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, LOCATION};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::ResourceCall;
use crate::front::Front;

/// Bytes of an answer of a node that are read.
const LARGEST_ANSWER: usize = 16 << 20;

/// Marks an answer that is somebody else's: it goes out as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verbatim;

/// What a name in the URL of a proxy says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    https: bool,
    name: String,
    /// A number or a name; empty: the only one.
    port: String,
}

impl Address {
    /// Takes `name`, `name:port` or `scheme:name:port` apart.
    fn parse(text: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        if !matches!(scheme, "" | "http" | "https") || name.is_empty() {
            return Err(Failure::bad_request(format!("invalid proxy target \"{text}\"")));
        }
        Ok(Self { https: scheme == "https", name: name.to_owned(), port: port.to_owned() })
    }
}

/// Serves a request for a proxy.
pub(super) async fn serve(
    call: ResourceCall,
    body: Body,
    switch: Option<OnUpgrade>,
) -> Result<Response, Failure> {
    let verb = match call.call.method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "",
        _ => return Err(call.not_allowed()),
    };
    call.authorize(verb)?;
    let (prefix, path) = split(call.call.uri.path());
    if path.is_empty() && matches!(call.call.method, Method::GET | Method::HEAD) {
        return Ok(with_slash(&call));
    }
    let address = Address::parse(&call.path.name)?;
    let key = Key::new(call.path.namespace.as_str(), address.name.as_str());
    let front = &call.call.front;
    let backend = match (call.path.group.as_str(), call.path.plural.as_str()) {
        ("", "pods") => backend::pod(front, &key, &address).await?,
        ("", "services") => backend::service(front, &key, &address).await?,
        ("", "nodes") => backend::node(front, &address).await?,
        _ => return Err(Failure::generic(Reason::NotFound)),
    };
    let mut response = pass::pass(&call, &prefix, &path, backend, body, switch).await?;
    response.extensions_mut().insert(Verbatim);
    Ok(response)
}

/// What a node's own endpoint answers to a GET.
///
/// # Errors
/// When the node cannot be reached, or does not answer as it should.
pub(crate) async fn get_from_node(front: &Front, node: &str, path: &str) -> Result<Bytes, Failure> {
    let failed = |why: String| {
        Failure::new(Reason::ServiceUnavailable, format!("error trying to reach node \"{node}\": {why}"))
    };
    let address = Address { https: false, name: node.to_owned(), port: String::new() };
    let backend::Backend { io, host, .. } = backend::node(front, &address).await?;
    let handshake = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(|error| failed(error.to_string()))?;
    balsa_rt::spawn(TaskKind::Connection, async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a node ended");
        }
    });
    let request = Request::get(path).header(HOST, host).body(Body::empty()).map_err(Failure::internal)?;
    let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    if answer.status() != StatusCode::OK {
        return Err(failed(format!("it answers {} to {path}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
    Ok(body.map_err(|error| failed(error.to_string()))?.to_bytes())
}

/// The part of a path up to `proxy`, and what follows it; both as they came.
fn split(path: &str) -> (String, String) {
    let namespaced = path.split('/').nth(3) == Some("namespaces");
    // `/api/v1/namespaces/n/pods/p/proxy` or `/api/v1/nodes/n/proxy`, with an empty part before.
    let parts = if namespaced { 8 } else { 6 };
    let at = path.match_indices('/').nth(parts - 1).map_or(path.len(), |(at, _)| at);
    (path[..at].to_owned(), path[at..].to_owned())
}

/// Relative links need a slash at the end.
fn with_slash(call: &ResourceCall) -> Response {
    let uri = &call.call.uri;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_say_more_than_a_name() {
        let parsed = |text| Address::parse(text).map(|a| (a.https, a.name, a.port)).ok();
        let is = |https, name: &str, port: &str| Some((https, name.to_owned(), port.to_owned()));
        assert_eq!(parsed("web"), is(false, "web", ""));
        assert_eq!(parsed("web:80"), is(false, "web", "80"));
        assert_eq!(parsed("https:web:"), is(true, "web", ""));
        assert_eq!(parsed("http:web:http"), is(false, "web", "http"));
        for wrong in ["", ":80", "ftp:web:1", "a:b:c:d"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_stay_as_they_came() {
        let cases = [
            ("/api/v1/namespaces/n/pods/p/proxy", "/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/", "/api/v1/namespaces/n/pods/p/proxy", "/"),
            (
                "/api/v1/namespaces/n/services/s:80/proxy/a%2Fb//c/",
                "/api/v1/namespaces/n/services/s:80/proxy",
                "/a%2Fb//c/",
            ),
            ("/api/v1/nodes/n/proxy/metrics", "/api/v1/nodes/n/proxy", "/metrics"),
        ];
        for (path, prefix, rest) in cases {
            assert_eq!(split(path), (prefix.to_owned(), rest.to_owned()), "{path}");
        }
    }
}
