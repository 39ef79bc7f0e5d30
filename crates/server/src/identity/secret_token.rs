//! Tokens in Secrets: of an account, without an end of their own. They are good while the Secret holds them.

use std::collections::BTreeMap;

use balsa_controllers::token_secrets::TokenSource;
use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key};
use balsa_state::State;
use jsonwebtoken::{Algorithm, Validation};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde::{Deserialize, Serialize};

use super::service_account::{AccountClaims, NotGood, ServiceAccountTokens};

/// The issuer of all such tokens, in every cluster.
const ISSUER: &str = "kubernetes/serviceaccount";

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl TokenSource for ServiceAccountTokens {
    fn token(&self, account: &ServiceAccount, secret: &str) -> Result<String, Failure> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &account.metadata;
        let (namespace, name) = (text(&meta.namespace), text(&meta.name));
        self.sign(&Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            namespace,
            secret: secret.to_owned(),
            account: name,
            uid: text(&meta.uid),
        })
    }
}

impl ServiceAccountTokens {
    /// The account of a token that a Secret holds. It names no audience: it may be shown to all.
    pub(super) fn verify_in_secret(
        &self,
        token: &str,
        audiences: &[String],
        state: &State,
    ) -> Result<AccountClaims, NotGood> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[ISSUER]);
        let claims: Claims = self.read(token, &validation)?;
        let key = |name: &str| Key::new(claims.namespace.as_str(), name);
        let secret = state.get(kind_of::<Secret>(), &key(&claims.secret));
        let holds = |secret: &Secret| {
            let data = secret.data.as_ref().and_then(|data| data.get("token"));
            data.is_some_and(|held| held.0 == token.as_bytes())
        };
        let held = secret.filter(|secret| !secret.is_deleting() && secret.is(holds));
        let account = state.get(kind_of::<ServiceAccount>(), &key(&claims.account));
        let there = account.is_some_and(|account| !account.is_deleting() && account.uid() == claims.uid);
        let Some(held) = held.filter(|_| there) else {
            return Err(NotGood::Token);
        };
        let Claims { namespace, account: name, uid, .. } = claims;
        let (audiences, extra) = (audiences.to_vec(), BTreeMap::new());
        Ok(AccountClaims { namespace, name, uid, audiences, extra, secret: Some(held) })
    }
}
