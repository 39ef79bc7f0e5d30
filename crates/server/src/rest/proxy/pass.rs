//! One request passed on, and its answer back; and what follows when both sides then speak something else.

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, Reason};
use balsa_rt::TaskKind;
use http::header::{
    self, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Request, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::backend::Backend;
use crate::rest::ResourceCall;

/// Said to the next hop alone.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];
/// A token may travel as a sub-protocol, to us alone.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Passes a request on.
pub(super) async fn pass(
    call: &ResourceCall,
    prefix: &str,
    path: &str,
    backend: Backend,
    body: Body,
    switch: Option<OnUpgrade>,
) -> Result<Response, Failure> {
    let Backend { io, https, host, why } = backend;
    let failed = |error: hyper::Error| {
        let why = why.get().cloned().unwrap_or_else(|| error.to_string());
        Failure::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"))
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(io)).await.map_err(failed)?;
    // Ends with the answer, or when whoever reads that goes.
    balsa_rt::spawn(TaskKind::Connection, async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let request = outgoing(call, prefix, path, &host, body)?;
    let mut response = sender.send_request(request).await.map_err(failed)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switched(response, switch);
    }
    let headers = response.headers_mut();
    strip(headers);
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|location| moved(location, prefix, &host, https)) {
        headers.insert(LOCATION, location);
    }
    let (mut parts, body) = response.into_parts();
    // It may go out over another version than it came in.
    parts.version = Version::default();
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn outgoing(
    call: &ResourceCall,
    prefix: &str,
    path: &str,
    host: &str,
    body: Body,
) -> Result<Request<Body>, Failure> {
    let query = call.call.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| Failure::bad_request("invalid path"))?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Failure::bad_request("invalid path"));
    let mut request = Request::new(body);
    *request.method_mut() = call.call.method.clone();
    let mut headers = call.call.headers.clone();
    let upgrade = headers.get(UPGRADE).cloned();
    let original = headers.get(HOST).cloned();
    strip(&mut headers);
    without_credentials(&mut headers);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    headers.insert(HOST, value(host)?);
    headers.insert("x-forwarded-uri", value(&format!("{prefix}{uri}"))?);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Some(original) = original {
        headers.insert("x-forwarded-host", original);
    }
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Takes out what is for the next hop alone, and what `Connection` says is.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Who asks is our business; a pod that learnt a user's token could be that user.
fn without_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let Some(offered) = offered.filter(|offered| offered.contains(BEARER)) else { return };
    let kept: Vec<&str> =
        offered.split(',').map(str::trim).filter(|name| !name.starts_with(BEARER)).collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, value)),
        _ => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
    }
}

/// A redirection within what is proxied stays there; `None` where it leads elsewhere.
fn moved(location: &str, prefix: &str, host: &str, https: bool) -> Option<HeaderValue> {
    let scheme = if https { "https" } else { "http" };
    let path = match location.strip_prefix(&format!("{scheme}://{host}")) {
        Some("") => "/",
        Some(path) => path,
        None => location,
    };
    let within = path.starts_with('/') && !path.starts_with("//") && !path.starts_with(prefix);
    within.then(|| HeaderValue::from_str(&format!("{prefix}{path}")).ok()).flatten()
}

/// Both sides speak something else from here on.
fn switched(
    response: hyper::Response<hyper::body::Incoming>,
    switch: Option<OnUpgrade>,
) -> Result<Response, Failure> {
    let switch = switch.ok_or_else(|| Failure::bad_request("Upgrade request required"))?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().clone_from(response.headers());
    let far = hyper::upgrade::on(response);
    balsa_rt::spawn(TaskKind::Connection, async move {
        let both = tokio::try_join!(switch, far);
        let Ok((near, far)) = both else { return };
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
            tracing::debug!(%error, "an upgraded proxied connection ended");
        }
    });
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_and_hops_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "me"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("accept", "text/html"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.eA, chat"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip(&mut headers);
        without_credentials(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("accept", "text/html"), ("sec-websocket-protocol", "chat")]);
    }

    #[test]
    fn redirections_stay_inside() {
        let to =
            |location| moved(location, "/p", "web:80", false).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(to("/login").as_deref(), Some("/p/login"));
        assert_eq!(to("http://web:80/a").as_deref(), Some("/p/a"));
        assert_eq!(to("https://elsewhere/a"), None);
        assert_eq!(to("//elsewhere/a"), None);
        assert_eq!(to("login"), None);
        assert_eq!(to("/p/a"), None);
    }
}
