//! From a connection's certificate or a bearer token to a user.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_model::{Failure, Reason};
use balsa_state::State;
use k8s_openapi::api::core::v1::Secret;

use super::bootstrap_token;
use super::last_use::LastUse;
use super::service_account::{NotGood, ServiceAccountTokens};

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

    /// What the user is by, among all that ever had the name; empty where nobody says.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// What else is known of the user.
    pub(crate) fn extra(&self) -> &BTreeMap<String, Vec<String>> {
        &self.extra
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
    last_use: LastUse,
    state: State,
    clock: balsa_rt::Clock,
}

impl Authenticator {
    /// An authenticator that looks service accounts and bootstrap tokens up in `state`.
    pub(crate) fn new(
        tokens: Arc<ServiceAccountTokens>,
        last_use: LastUse,
        state: State,
        clock: balsa_rt::Clock,
    ) -> Self {
        Self { tokens, last_use, state, clock }
    }

    /// The user with these credentials; without any it is `system:anonymous`.
    ///
    /// # Errors
    /// `Unauthorized` when credentials were shown that are not good.
    pub(crate) fn authenticate(&self, credentials: &Credentials) -> Result<Authenticated, Failure> {
        if let Some(token) = &credentials.bearer {
            let api = [self.tokens.issuer().to_owned()];
            let why = |not_good| match not_good {
                NotGood::Bootstrap(failure) => failure,
                NotGood::Token | NotGood::Audiences(..) => unauthorized(),
            };
            return self.by_token(token, &api).map(|(user, _)| user).map_err(why);
        }
        match &credentials.certificate {
            Some(der) => by_certificate(der),
            None => Ok(Authenticated::anonymous()),
        }
    }

    /// The user of a token that may be shown to one of `audiences` (none: to the API), and to which of them.
    ///
    /// # Errors
    /// Why it is not good.
    pub(crate) fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(Authenticated, Vec<String>), NotGood> {
        match audiences {
            [] => self.by_token(token, &[self.tokens.issuer().to_owned()]),
            audiences => self.by_token(token, audiences),
        }
    }

    fn by_token(&self, token: &str, audiences: &[String]) -> Result<(Authenticated, Vec<String>), NotGood> {
        let now = self.clock.now();
        if token.starts_with(bootstrap_token::PREFIX) {
            let api: Vec<String> =
                audiences.iter().filter(|one| *one == self.tokens.issuer()).cloned().collect();
            if api.is_empty() {
                return Err(NotGood::Token);
            }
            let (id, usage) = bootstrap_token::verify(&self.state, token, now).map_err(NotGood::Bootstrap)?;
            let groups = vec![usage.group().to_owned()];
            return Ok((Authenticated::known(&format!("system:bootstrap:{id}"), groups), api));
        }
        let claims = self.tokens.verify(token, audiences, &self.state, now)?;
        if let Some(object) = &claims.secret
            && let Some(secret) = object.typed::<Secret>()
        {
            self.last_use.note(object.key(), &secret, now);
        }
        let groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", claims.namespace)];
        let user = format!("system:serviceaccount:{}:{}", claims.namespace, claims.name);
        let user =
            Authenticated { uid: claims.uid, extra: claims.extra, ..Authenticated::known(&user, groups) };
        Ok((user, claims.audiences))
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
