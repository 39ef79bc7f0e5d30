//! What both front doors share: who asks, what they may, and what answers.

use std::sync::Arc;

use balsa_model::Failure;
use balsa_rt::telemetry::MetricsHandle;
use http::HeaderMap;

use crate::authorize::{Attributes, Authorized, Authorizer};
use crate::engine::Engine;
use crate::identity::{Authenticated, Authenticator, Authority, Credentials, ServiceAccountTokens};
use crate::sessions::Sessions;

/// What the handlers of the front doors work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) engine: Engine,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: Arc<ServiceAccountTokens>,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Option<MetricsHandle>,
    /// Addresses of all servers, `host:port`, as agents are told.
    pub(crate) servers: Arc<Vec<String>>,
}

/// The client certificate of a connection, put into every request by the listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer(pub(crate) Option<Arc<Vec<u8>>>);

impl Front {
    /// The user of a request, after impersonation.
    pub(crate) fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Authenticated, Failure> {
        let bearer = bearer_token(headers);
        let credentials = Credentials { certificate: peer.0.clone(), bearer };
        let user = self.authenticator.authenticate(&credentials)?;
        self.impersonate(user, headers)
    }

    fn impersonate(&self, user: Authenticated, headers: &HeaderMap) -> Result<Authenticated, Failure> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(name) = text("impersonate-user") else { return Ok(user) };
        let groups: Vec<String> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let mut wanted = vec![("users", name)];
        wanted.extend(groups.iter().map(|group| ("groups", group.as_str())));
        for (resource, name) in wanted {
            let attributes = Attributes {
                verb: "impersonate".to_owned(),
                resource: resource.to_owned(),
                name: name.to_owned(),
                ..Attributes::default()
            };
            self.authorizer.authorize(&user, &attributes)?;
        }
        Ok(Authenticated::impersonated(name, groups))
    }

    /// The proof that a user may.
    pub(crate) fn authorize(&self, user: &Authenticated, wanted: &Attributes) -> Result<Authorized, Failure> {
        self.authorizer.authorize(user, wanted)
    }
}

/// The bearer token of a request: in its header, or, from WebSocket clients that cannot set headers, as
/// a sub-protocol.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
        return Some(token.trim().to_owned());
    }
    let offered = headers.get(http::header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded =
        offered.split(',').find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
    String::from_utf8(bytes).ok()
}
