//! Bootstrap tokens: with one an agent or a server may join, and nothing else.
//!
//! Kept as Secrets `kube-system/bootstrap-token-<id>` of type `bootstrap.kubernetes.io/token`, as
//! Kubernetes does, with one difference: the Secret holds the hash of the secret part only.

use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key, Reason};
use balsa_state::State;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest as _, Sha256};

/// How tokens start.
pub(crate) const PREFIX: &str = "BALSA1.";
/// The group of whoever shows one for agents.
pub(crate) const JOIN_GROUP: &str = "system:bootstrappers";
/// The group of whoever shows one for servers.
pub(crate) const SERVER_GROUP: &str = "system:bootstrappers:servers";
/// In the Secret: that the token lets servers join.
const FOR_SERVERS: &str = "usage-balsa-server";
const NAMESPACE: &str = "kube-system";

/// What a token is for. Servers get the cluster's keys: a token for agents must not lead to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Agents,
    Servers,
}

impl Usage {
    /// The group of whoever shows such a token.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Agents => JOIN_GROUP,
            Self::Servers => SERVER_GROUP,
        }
    }
}

/// A token, as it is shown once.
#[derive(Clone, Debug)]
pub(crate) struct BootstrapToken {
    /// `BALSA1.<id>.<secret>.<fingerprint of the CA>`.
    pub text: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// A new token and the Secret that stands for it.
pub(crate) fn create_token(
    ca_fingerprint: &str,
    usage: Usage,
    now: Timestamp,
    seconds: u32,
) -> (BootstrapToken, Secret) {
    let id = balsa_rt::random_suffix(6);
    let secret = balsa_rt::random_suffix(32);
    let expires = now.saturating_add(jiff::SignedDuration::from_secs(i64::from(seconds))).unwrap_or(now);
    let text = format!("{PREFIX}{id}.{secret}.{ca_fingerprint}");
    let data = [
        ("token-id", id.clone()),
        ("token-secret-sha256", hash(&secret)),
        ("expiration", expires.to_string()),
        ("usage-bootstrap-authentication", (usage == Usage::Agents).to_string()),
        (FOR_SERVERS, (usage == Usage::Servers).to_string()),
    ];
    let stored = Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
        ..Secret::default()
    };
    (BootstrapToken { text, expires }, stored)
}

/// The id of a token that is good at `now`, and what it is for.
///
/// # Errors
/// `Unauthorized`, with words that tell a wrong token from one that has expired: who holds the right
/// secret may know.
pub(crate) fn verify(state: &State, token: &str, now: Timestamp) -> Result<(String, Usage), Failure> {
    let wrong = || {
        Failure::new(
            Reason::Unauthorized,
            "the bootstrap token is not known to this cluster; make one with `balsa token create`",
        )
    };
    let mut parts = token.strip_prefix(PREFIX).ok_or_else(wrong)?.split('.');
    let (id, secret) = (parts.next().ok_or_else(wrong)?, parts.next().ok_or_else(wrong)?);
    let key = Key::new(NAMESPACE, format!("bootstrap-token-{id}"));
    let view = state.view(kind_of::<Secret>());
    let stored = view.get(&key).ok_or_else(wrong)?;
    let data = stored.typed::<Secret>().and_then(|s| s.data.clone()).unwrap_or_default();
    let text = |field: &str| data.get(field).and_then(|b| std::str::from_utf8(&b.0).ok()).unwrap_or_default();
    if text("token-secret-sha256") != hash(secret) {
        return Err(wrong());
    }
    let expires: Timestamp = text("expiration").parse().map_err(|_| wrong())?;
    if expires <= now {
        let message =
            format!("the bootstrap token expired at {expires}; make a new one with `balsa token create`");
        return Err(Failure::new(Reason::Unauthorized, message));
    }
    let usage = if text(FOR_SERVERS) == "true" { Usage::Servers } else { Usage::Agents };
    Ok((id.to_owned(), usage))
}

fn hash(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}
