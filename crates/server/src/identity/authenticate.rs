//! From a connection's certificate or a bearer token to a user.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_model::{Failure, Reason};
use balsa_state::State;

use super::bootstrap_token;
use super::service_account::ServiceAccountTokens;

/// A user who is who they say. Only this module, and the server for its own parts, make one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authenticated {
    user: Arc<str>,
    groups: Arc<[String]>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Authenticated {
    /// A part of the server itself, with all rights: controllers, scheduler, bootstrap.
    pub(crate) fn component(name: &str) -> Self {
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        Self { user: name.into(), groups: groups.into(), ..Self::default() }
    }

    fn known(user: &str, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        Self { user: user.into(), groups: groups.into(), ..Self::default() }
    }

    fn anonymous() -> Self {
        Self {
            user: "system:anonymous".into(),
            groups: ["system:unauthenticated".to_owned()].into(),
            ..Self::default()
        }
    }

    /// The user who `self` asked to be taken for; the caller has checked that it may.
    pub(crate) fn impersonated(user: &str, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|g| g == "system:authenticated") && user != "system:anonymous" {
            groups.push("system:authenticated".to_owned());
        }
        Self { user: user.into(), groups: groups.into(), ..Self::default() }
    }

    /// The user's name.
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The user's groups.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node whose agent this is.
    pub fn node(&self) -> Option<&str> {
        self.user.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }
}

/// What a client showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// The certificate of the connection, DER, checked against the CA by TLS.
    pub certificate: Option<Arc<Vec<u8>>>,
    /// The token of the request.
    pub bearer: Option<String>,
}

/// Knows users by their credentials.
#[derive(Clone)]
pub(crate) struct Authenticator {
    tokens: Arc<ServiceAccountTokens>,
    state: State,
    clock: balsa_rt::Clock,
}

impl Authenticator {
    /// An authenticator that looks service accounts and bootstrap tokens up in `state`.
    pub(crate) fn new(tokens: Arc<ServiceAccountTokens>, state: State, clock: balsa_rt::Clock) -> Self {
        Self { tokens, state, clock }
    }

    /// The user with these credentials; without any it is `system:anonymous`.
    ///
    /// # Errors
    /// `Unauthorized` when credentials were shown that are not good.
    pub(crate) fn authenticate(&self, credentials: &Credentials) -> Result<Authenticated, Failure> {
        if let Some(token) = &credentials.bearer {
            return self.by_token(token);
        }
        match &credentials.certificate {
            Some(der) => by_certificate(der),
            None => Ok(Authenticated::anonymous()),
        }
    }

    fn by_token(&self, token: &str) -> Result<Authenticated, Failure> {
        let now = self.clock.now();
        if token.starts_with(bootstrap_token::PREFIX) {
            let (id, usage) = bootstrap_token::verify(&self.state, token, now)?;
            let groups = vec![usage.group().to_owned()];
            return Ok(Authenticated::known(&format!("system:bootstrap:{id}"), groups));
        }
        let claims = self.tokens.verify(token, &self.state, now)?;
        let groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", claims.namespace)];
        let user = format!("system:serviceaccount:{}:{}", claims.namespace, claims.name);
        Ok(Authenticated { uid: claims.uid, ..Authenticated::known(&user, groups) })
    }
}

fn by_certificate(der: &[u8]) -> Result<Authenticated, Failure> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| unauthorized())?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).ok_or_else(unauthorized)?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Ok(Authenticated::known(user, groups))
}

/// The answer to credentials that are not good. It does not say why: that would help only those who guess.
pub(crate) fn unauthorized() -> Failure {
    Failure::new(Reason::Unauthorized, "Unauthorized")
}
