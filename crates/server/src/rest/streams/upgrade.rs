//! From HTTP/1.1 to something else: what the client wants to speak, and the answer after which it does.

use axum::body::Body;
use axum::response::Response;
use balsa_model::Failure;
use balsa_rt::TaskKind;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use http::{HeaderMap, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The client's connection after it.
pub(super) type Io = TokioIo<Upgraded>;

/// Versions of what is spoken inside SPDY, offered and chosen.
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// A token may travel as a sub-protocol; it is none.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// What a client wants to speak.
pub(super) enum Upgrade {
    WebSocket(WebSocketUpgrade),
    Spdy(SpdyUpgrade),
}

pub(super) struct WebSocketUpgrade {
    /// The sub-protocols that the client speaks, best first.
    pub(super) offered: Vec<String>,
    key: HeaderValue,
    switch: OnUpgrade,
}

pub(super) struct SpdyUpgrade {
    offered: Vec<String>,
    switch: OnUpgrade,
}

impl Upgrade {
    /// What a request asks for.
    ///
    /// # Errors
    /// `BadRequest` when it asks for nothing that is known, or over HTTP/2, which has no upgrade.
    pub(super) fn wanted(headers: &HeaderMap, switch: Option<OnUpgrade>) -> Result<Self, Failure> {
        let required = || Failure::bad_request("Upgrade request required");
        let switch = switch.ok_or_else(required)?;
        let wanted = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if wanted.eq_ignore_ascii_case("websocket") {
            let key = headers.get(SEC_WEBSOCKET_KEY).cloned().ok_or_else(required)?;
            let mut offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
            offered.retain(|protocol| !protocol.starts_with(BEARER));
            return Ok(Self::WebSocket(WebSocketUpgrade { offered, key, switch }));
        }
        if wanted.eq_ignore_ascii_case("SPDY/3.1") {
            return Ok(Self::Spdy(SpdyUpgrade { offered: list(headers, &STREAM_VERSION), switch }));
        }
        Err(required())
    }
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl WebSocketUpgrade {
    pub(super) fn offers(&self, protocol: &str) -> bool {
        self.offered.iter().any(|offered| offered == protocol)
    }

    /// Answers that `protocol` (none when empty) is spoken from here on, and lets `serve` speak it.
    pub(super) fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        protocol: &str,
        serve: impl FnOnce(Io) -> F + Send + 'static,
    ) -> Response {
        let mut response = switching("websocket", self.switch, serve);
        let headers = response.headers_mut();
        if !protocol.is_empty()
            && let Ok(protocol) = HeaderValue::from_str(protocol)
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(self.key.as_bytes())) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

impl SpdyUpgrade {
    /// The first that the client offers and that is served. A client that offers none means the oldest,
    /// which is served last.
    pub(super) fn choose(&self, served: &[&'static str]) -> Option<&'static str> {
        if self.offered.is_empty() {
            return served.last().copied();
        }
        self.offered.iter().find_map(|offered| served.iter().find(|known| *known == offered)).copied()
    }

    /// Answers that SPDY with `version` inside is spoken from here on, and lets `serve` speak it.
    pub(super) fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        version: &'static str,
        serve: impl FnOnce(Io) -> F + Send + 'static,
    ) -> Response {
        let mut response = switching("SPDY/3.1", self.switch, serve);
        response.headers_mut().insert(STREAM_VERSION, HeaderValue::from_static(version));
        response
    }

    /// Answers that there is nothing in common.
    pub(super) fn refuse(&self, served: &[&'static str]) -> Response {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {:?}, server accepts {served:?}",
            self.offered
        );
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::FORBIDDEN;
        for version in served {
            response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(version));
        }
        response
    }
}

fn switching<F: Future<Output = ()> + Send + 'static>(
    protocol: &'static str,
    switch: OnUpgrade,
    serve: impl FnOnce(Io) -> F + Send + 'static,
) -> Response {
    balsa_rt::spawn(TaskKind::Connection, async move {
        match switch.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "the client went away during the upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}
