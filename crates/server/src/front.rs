//! What both front doors share: who asks, what they may, and what answers.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use balsa_model::Failure;
use balsa_rt::telemetry::MetricsHandle;
use http::HeaderMap;

use crate::authorize::{Attributes, Authorized, Authorizer};
use crate::engine::Engine;
use crate::fairness::Fairness;
use crate::identity::{
    Authenticated, Authenticator, Authority, Certificates, Credentials, SERVER_USER, SERVERS,
    ServiceAccountTokens, SharedSettings,
};
use crate::members::Members;
use crate::rest::Counted;
use crate::sessions::Sessions;

/// What the handlers of the front doors work with. Every request has one: cheap to clone.
#[derive(Clone)]
pub(crate) struct Front(Arc<Parts>);

/// What is in it.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: Arc<ServiceAccountTokens>,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Option<MetricsHandle>,
    pub(crate) members: Members,
    pub(crate) certificates: Certificates,
    pub(crate) fairness: Fairness,
    /// What all servers of the cluster agree on.
    pub(crate) shared: Arc<SharedSettings>,
    /// How requests are counted.
    pub(crate) counted: Counted,
}

impl Deref for Front {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The client certificate of a connection, put into every request by the listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    certificate: Option<Arc<Vec<u8>>>,
    /// Whom the certificate names: read once a connection, not once a request.
    user: Arc<OnceLock<Authenticated>>,
}

impl Peer {
    /// The other end of a connection, with its certificate in DER if it showed one.
    pub(crate) fn new(certificate: Option<&[u8]>) -> Self {
        Self { certificate: certificate.map(|der| Arc::new(der.to_vec())), user: Arc::default() }
    }
}

/// The server of a cluster that calls, put into every request by the listener if it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerServer {
    pub(crate) id: u64,
    pub(crate) cluster: String,
}

impl PeerServer {
    /// Out of a certificate that TLS has checked.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        if !subject.iter_organization().any(|group| group.as_str() == Ok(SERVERS)) {
            return None;
        }
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let cluster = subject.iter_organizational_unit().next()?.as_str().ok()?;
        Some(Self { id: name.strip_prefix(SERVER_USER)?.parse().ok()?, cluster: cluster.to_owned() })
    }
}

impl Front {
    /// A front of these parts.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Like [`Self::authenticate`]; what this server does not know yet, because it is behind, is not taken
    /// for unknown.
    pub(crate) async fn authenticate_fresh(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Authenticated, Failure> {
        match self.authenticate(peer, headers) {
            Err(failure)
                if failure.reason == balsa_model::Reason::Unauthorized
                    && !self.members.log().leadership().borrow().is_leader =>
            {
                self.engine
                    .store()
                    .read_barrier()
                    .await
                    .map_err(|error| crate::engine::read_failed(&error))?;
                self.authenticate(peer, headers)
            }
            outcome => outcome,
        }
    }

    /// The user of a request, after impersonation.
    pub(crate) fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Authenticated, Failure> {
        let bearer = bearer_token(headers);
        if let (None, Some(user)) = (&bearer, peer.user.get()) {
            return self.impersonate(user.clone(), headers);
        }
        let credentials = Credentials { certificate: peer.certificate.clone(), bearer };
        let user = self.authenticator.authenticate(&credentials)?;
        if credentials.bearer.is_none() {
            // Another request may have been faster: it read the same certificate.
            let _ = peer.user.set(user.clone());
        }
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
