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
        let Some((name, groups)) = impersonated(headers)? else { return Ok(user) };
        for attributes in needed_to_impersonate(&name, &groups) {
            self.authorizer.authorize(&user, &attributes)?;
        }
        Ok(Authenticated::impersonated(&name, with_own_groups(&name, groups)))
    }

    /// The proof that a user may.
    pub(crate) fn authorize(&self, user: &Authenticated, wanted: &Attributes) -> Result<Authorized, Failure> {
        self.authorizer.authorize(user, wanted)
    }
}

/// Whom a request wants to be taken for, and in which groups. Groups, a UID or more without a user are
/// refused: passed over, they would leave the caller with rights that it wanted to be without.
fn impersonated(headers: &HeaderMap) -> Result<Option<(String, Vec<String>)>, Failure> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    if let Some(name) = texts("impersonate-user").into_iter().next() {
        return Ok(Some((name, texts("impersonate-group"))));
    }
    match headers.keys().find(|name| name.as_str().starts_with("impersonate-")) {
        Some(name) => Err(Failure::bad_request(format!("requested {name} without impersonating a user"))),
        None => Ok(None),
    }
}

/// A service account has a right of its own: who may impersonate users may not impersonate it.
fn needed_to_impersonate(name: &str, groups: &[String]) -> Vec<Attributes> {
    let right = |resource: &str, namespace: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let first = match service_account(name) {
        Some((namespace, account)) => right("serviceaccounts", namespace, account),
        None => right("users", "", name),
    };
    std::iter::once(first).chain(groups.iter().map(|group| right("groups", "", group))).collect()
}

/// Who names a service account and no groups means those that it has.
fn with_own_groups(name: &str, groups: Vec<String>) -> Vec<String> {
    match service_account(name) {
        Some((namespace, _)) if groups.is_empty() => {
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
        }
        _ => groups,
    }
}

/// Namespace and name, when the user is a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':').filter(|(_, name)| !name.contains(':'))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_user_and_its_groups_are_impersonated() {
        assert_eq!(impersonated(&headers(&[("accept", "x")])), Ok(None));
        let asked =
            headers(&[("impersonate-user", "kim"), ("impersonate-group", "a"), ("impersonate-group", "b")]);
        let (name, groups) = impersonated(&asked).unwrap().unwrap();
        let needed = needed_to_impersonate(&name, &groups);
        let needed: Vec<_> = needed.iter().map(|a| (a.resource.as_str(), a.name.as_str())).collect();
        assert_eq!(needed, [("users", "kim"), ("groups", "a"), ("groups", "b")]);
        assert_eq!(with_own_groups(&name, groups), ["a", "b"]);
        for lone in ["impersonate-group", "impersonate-uid", "impersonate-extra-scopes"] {
            let refused = impersonated(&headers(&[(lone, "x")])).unwrap_err();
            assert_eq!(refused.message, format!("requested {lone} without impersonating a user"));
        }
    }

    #[test]
    fn service_accounts_are_impersonated_by_a_right_of_their_own() {
        let name = "system:serviceaccount:zoo:keeper";
        let needed = needed_to_impersonate(name, &[]);
        assert_eq!((needed.len(), needed[0].resource.as_str()), (1, "serviceaccounts"));
        assert_eq!((needed[0].namespace.as_str(), needed[0].name.as_str()), ("zoo", "keeper"));
        let groups = ["system:serviceaccounts", "system:serviceaccounts:zoo"];
        assert_eq!(with_own_groups(name, Vec::new()), groups);
        assert_eq!(with_own_groups(name, vec!["a".to_owned()]), ["a"]);
    }
}
