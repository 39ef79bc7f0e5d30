//! Tokens of service accounts: signed by the cluster's key, bound to an account and perhaps to a pod, a secret or
//! a node.
//!
//! A token is good while its signature is, its time has not passed, and the account (and what it is bound to)
//! still exist with the same UID. Those in Secrets are told apart by their issuer: `secret_token`.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key, KindRef, Object};
use balsa_state::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::IdentityError;

/// Shortest and longest life of a token, in seconds.
const LIFE: (i64, i64) = (600, 365 * 86_400);
/// The life of a token that names none.
const HOUR: i64 = 3600;

/// What a token is asked for.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    /// Whom it may be shown to; empty: the API itself.
    pub audiences: Vec<String>,
    /// How long it is good for, in seconds.
    pub seconds: i64,
    /// What it is bound to.
    pub bound: Option<Bound>,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self { audiences: Vec::new(), seconds: HOUR, bound: None }
    }
}

/// An object with which a token ends.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// One of [`bindable`].
    pub kind: KindRef,
    /// Of the object.
    pub name: String,
    /// Of the object: another one of the same name is not meant.
    pub uid: String,
}

/// The kind of that name that a token can be bound to.
pub(crate) fn bindable(kind: &str) -> Option<KindRef> {
    let kinds = [kind_of::<Pod>(), kind_of::<Secret>(), kind_of::<Node>()];
    kinds.into_iter().find(|one| one.descriptor().kind == kind)
}

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Clone, Serialize, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl TokenRequest {
    fn bound_to(&self, kind: KindRef) -> Option<Named> {
        let bound = self.bound.as_ref().filter(|bound| bound.kind == kind)?;
        Some(Named { name: bound.name.clone(), uid: bound.uid.clone() })
    }
}

/// The account that a token stands for.
#[derive(Clone, Debug)]
pub(crate) struct AccountClaims {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Whom the token may be shown to, of those who were asked about.
    pub(crate) audiences: Vec<String>,
    /// What tells about the token itself, by the names that Kubernetes has for it.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
    /// The Secret that holds the token, if one does.
    pub(crate) secret: Option<Arc<Object>>,
}

/// Why a token is none of an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotGood {
    /// It is no token, is too old, or what it stands for is gone.
    #[error("invalid bearer token")]
    Token,
    /// It is good, and for others.
    #[error(
        "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
        quoted(.0),
        quoted(.1)
    )]
    Audiences(Vec<String>, Vec<String>),
    /// One with which machines join; whoever shows it to the API itself is told why.
    #[error("invalid bearer token")]
    Bootstrap(Failure),
}

/// A list as Kubernetes writes it.
fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|one| format!("{one:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// What is told about a token: its own name, and what it is bound to.
fn extra(jti: &str, pod: Option<&Named>, node: Option<&Named>) -> BTreeMap<String, Vec<String>> {
    let mut told = vec![("credential-id".to_owned(), format!("JTI={jti}"))];
    for (kind, named) in [("pod", pod), ("node", node)] {
        let Some(named) = named else { continue };
        told.push((format!("{kind}-name"), named.name.clone()));
        told.push((format!("{kind}-uid"), named.uid.clone()));
    }
    let named = |(name, text)| (format!("authentication.kubernetes.io/{name}"), vec![text]);
    told.into_iter().map(named).collect()
}

/// Signs and checks tokens.
pub(crate) struct ServiceAccountTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    issuer: String,
    /// The public key. Its name is the hash of what it is in certificates, as in Kubernetes.
    published: Jwk,
}

impl ServiceAccountTokens {
    /// With the cluster's signing key.
    ///
    /// # Errors
    /// When that is not of P-256.
    pub(crate) fn new(key: &KeyPair, issuer: &str) -> Result<Self, IdentityError> {
        let encoding = EncodingKey::from_ec_der(&key.serialize_der());
        let mut published = Jwk::from_encoding_key(&encoding, Algorithm::ES256)
            .map_err(|error| IdentityError::Malformed(format!("the service accounts' key: {error}")))?;
        published.common.public_key_use = Some(PublicKeyUse::Signature);
        published.common.key_id = Some(URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())));
        Ok(Self {
            encoding,
            decoding: DecodingKey::from_ec_der(key.public_key_raw()),
            issuer: issuer.to_owned(),
            published,
        })
    }

    /// Whose tokens they are.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What others check a token with: a set of keys as RFC 7517 has it.
    pub(crate) fn public_keys(&self) -> JwkSet {
        JwkSet { keys: vec![self.published.clone()] }
    }

    /// A token for an account; the time at which it ends.
    ///
    /// # Errors
    /// When signing fails.
    pub(crate) fn issue(
        &self,
        account: &ServiceAccount,
        request: &TokenRequest,
        now: Timestamp,
    ) -> Result<(String, Timestamp), Failure> {
        let meta = &account.metadata;
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let seconds = request.seconds.clamp(LIFE.0, LIFE.1);
        let expires = now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
        let audiences =
            if request.audiences.is_empty() { vec![self.issuer.clone()] } else { request.audiences.clone() };
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            aud: audiences,
            exp: expires.as_second(),
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: balsa_rt::new_uid(),
            kubernetes: KubernetesClaims {
                namespace,
                serviceaccount: Named { name, uid: meta.uid.clone().unwrap_or_default() },
                pod: request.bound_to(kind_of::<Pod>()),
                secret: request.bound_to(kind_of::<Secret>()),
                node: request.bound_to(kind_of::<Node>()),
            },
        };
        Ok((self.sign(&claims)?, expires))
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, Failure> {
        let header = Header { kid: self.published.common.key_id.clone(), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(Failure::internal)
    }

    /// What a token says, if it is signed with the cluster's key.
    pub(super) fn read<C: DeserializeOwned + Clone>(
        &self,
        token: &str,
        validation: &Validation,
    ) -> Result<C, NotGood> {
        let read = jsonwebtoken::decode::<C>(token, &self.decoding, validation);
        read.map(|token| token.claims).map_err(|_| NotGood::Token)
    }

    /// The account of a token that is good, and may be shown to one of `audiences`.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        state: &State,
        now: Timestamp,
    ) -> Result<AccountClaims, NotGood> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Told apart from a token that is not good, below.
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        // Our own clock decides, below.
        validation.validate_exp = false;
        let Ok(claims) = self.read::<Claims>(token, &validation) else {
            return self.verify_in_secret(token, audiences, state);
        };
        if claims.exp <= now.as_second() || claims.nbf > now.as_second() + 60 {
            return Err(NotGood::Token);
        }
        let shared: Vec<String> = claims.aud.iter().filter(|one| audiences.contains(one)).cloned().collect();
        if shared.is_empty() {
            return Err(NotGood::Audiences(claims.aud, audiences.to_vec()));
        }
        let KubernetesClaims { namespace, serviceaccount: account, pod, secret, node } = claims.kubernetes;
        let exists = |kind: KindRef, named: &Named| {
            let namespace = if kind.descriptor().is_namespaced() { namespace.as_str() } else { "" };
            let view = state.view(kind);
            view.get(&Key::new(namespace, named.name.as_str())).is_some_and(|o| o.uid() == named.uid)
        };
        if !exists(kind_of::<ServiceAccount>(), &account) {
            return Err(NotGood::Token);
        }
        let extra = extra(&claims.jti, pod.as_ref(), node.as_ref());
        let bound = [(kind_of::<Pod>(), pod), (kind_of::<Secret>(), secret), (kind_of::<Node>(), node)];
        if bound.iter().any(|(kind, named)| named.as_ref().is_some_and(|named| !exists(*kind, named))) {
            return Err(NotGood::Token);
        }
        Ok(AccountClaims {
            namespace,
            name: account.name,
            uid: account.uid,
            audiences: shared,
            extra,
            secret: None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn others_check_a_token_with_the_key_that_it_names() {
        let issuer = "https://issuer";
        let tokens = ServiceAccountTokens::new(&KeyPair::generate().unwrap(), issuer).unwrap();
        let (name, namespace) = (Some("robot".to_owned()), Some("factory".to_owned()));
        let metadata = ObjectMeta { name, namespace, ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let request = TokenRequest { audiences: vec!["vault".to_owned()], ..TokenRequest::default() };
        let (token, _) = tokens.issue(&account, &request, Timestamp::UNIX_EPOCH).unwrap();

        let published: JwkSet =
            serde_json::from_value(serde_json::to_value(tokens.public_keys()).unwrap()).unwrap();
        let named = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(published.find(&named).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["vault"]);
        validation.set_issuer(&[issuer]);
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(&token, &key, &validation).unwrap().claims;
        assert_eq!(claims.sub, "system:serviceaccount:factory:robot");
    }

    #[test]
    fn refusals_name_the_audiences() {
        let list = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let why = NotGood::Audiences(list(&["a", "b"]), list(&["c"])).to_string();
        let told = r#"token audiences ["a" "b"] is invalid for the target audiences ["c"]"#;
        assert_eq!(why, format!("[invalid bearer token, {told}]"));
        let pod = Named { name: "p".to_owned(), uid: "u".to_owned() };
        let told = extra("x", Some(&pod), None);
        assert_eq!(told["authentication.kubernetes.io/credential-id"], ["JTI=x"]);
        assert_eq!(told["authentication.kubernetes.io/pod-uid"], ["u"]);
    }
}
