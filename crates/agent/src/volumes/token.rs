//! Service account tokens for projected volumes, renewed after four fifths of their life.
//!
//! Kept in memory only: after a restart of the agent new ones are asked for; where no server answers,
//! the volume goes on showing the old one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;

use super::{Job, VolumeError};

/// Lifetime when the pod does not say.
const DEFAULT_SECONDS: i64 = 3600;

/// What a token is to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// Who shall accept it; empty: the API.
    pub audiences: Vec<String>,
    /// For how long.
    pub expiration_seconds: i64,
    /// The pod that it is bound to.
    pub pod_name: String,
    /// The pod's uid.
    pub pod_uid: String,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// What the pod sends.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Makes service account tokens: `POST serviceaccounts/NAME/token`, whoever carries that out.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token, or why there is none.
    async fn token(&self, request: &TokenRequest) -> Result<ServiceAccountToken, String>;
}

/// A node whose cluster makes no tokens.
pub struct NoTokens;

#[async_trait]
impl TokenSource for NoTokens {
    async fn token(&self, _request: &TokenRequest) -> Result<ServiceAccountToken, String> {
        Err("this cluster makes no service account tokens".to_owned())
    }
}

/// By pod uid, volume and path: the token, and when to renew it.
type Known = HashMap<(String, String, String), (ServiceAccountToken, Timestamp)>;

/// The tokens of this node's pods.
pub(crate) struct Tokens {
    source: Arc<dyn TokenSource>,
    known: Mutex<Known>,
}

impl Tokens {
    pub(crate) fn new(source: Arc<dyn TokenSource>) -> Self {
        Self { source, known: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|(of, _, _), _| of != uid);
    }

    /// The token of one projection.
    pub(super) async fn token(
        &self,
        job: &Job<'_>,
        source: &ServiceAccountTokenProjection,
    ) -> Result<String, VolumeError> {
        let meta = &job.pod.metadata;
        let uid = meta.uid.clone().unwrap_or_default();
        let key = (uid.clone(), job.volume.name.clone(), source.path.clone());
        let now = job.shared.clock.now();
        let known = self.lock().get(&key).cloned();
        if let Some((token, _)) = known.as_ref().filter(|(_, renew)| now < *renew) {
            return Ok(token.token.clone());
        }
        let spec = job.pod.spec.as_ref();
        let request = TokenRequest {
            namespace: job.namespace().to_owned(),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            audiences: source.audience.iter().filter(|audience| !audience.is_empty()).cloned().collect(),
            expiration_seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
            pod_name: meta.name.clone().unwrap_or_default(),
            pod_uid: uid,
        };
        match self.source.token(&request).await {
            Ok(token) => {
                let text = token.token.clone();
                self.lock().insert(key, (token.clone(), renewal(now, token.expires)));
                Ok(text)
            }
            // The old one is better than none for as long as it is good.
            Err(error) => match known.filter(|(token, _)| now < token.expires) {
                Some((token, _)) => Ok(token.token),
                None => self
                    .shown(job, source)
                    .ok_or(VolumeError::Source(format!("failed to fetch token: {error}"))),
            },
        }
    }

    /// What the volume shows from before this agent's start.
    fn shown(&self, job: &Job<'_>, source: &ServiceAccountTokenProjection) -> Option<String> {
        std::fs::read_to_string(job.directory("projected").join(&source.path)).ok()
    }
}

/// After four fifths of its life.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs().max(0);
    now.checked_add(SignedDuration::from_secs(life / 5 * 4)).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_renewed_well_before_their_end() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(100), at(50)), at(100));
    }

    /// Counts what it is asked, and fails when told to.
    #[derive(Default)]
    struct Issuer {
        asked: Mutex<Vec<TokenRequest>>,
        gone: std::sync::atomic::AtomicBool,
        clock: Mutex<Option<balsa_rt::Clock>>,
    }

    #[async_trait]
    impl TokenSource for Issuer {
        async fn token(&self, request: &TokenRequest) -> Result<ServiceAccountToken, String> {
            if self.gone.load(std::sync::atomic::Ordering::Relaxed) {
                return Err("no server answers".to_owned());
            }
            let mut asked = self.asked.lock().unwrap();
            asked.push(request.clone());
            let now = self.clock.lock().unwrap().as_ref().unwrap().now();
            let expires = now + SignedDuration::from_secs(request.expiration_seconds);
            Ok(ServiceAccountToken { token: format!("token {}", asked.len()), expires })
        }
    }

    struct NoObjects;

    #[async_trait]
    impl crate::objects::ObjectSource for NoObjects {
        async fn handler(&self, _class: &str) -> Result<Option<String>, String> {
            Ok(None)
        }

        async fn config_map(&self, _: &str, _: &str) -> Result<Option<crate::objects::Data>, String> {
            Ok(None)
        }

        async fn secret(&self, _: &str, _: &str) -> Result<Option<crate::objects::Data>, String> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn a_volume_shows_a_token_that_is_always_good() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let time = balsa_rt::ManualClock::at(Timestamp::from_second(1_000_000).unwrap());
        let issuer = Arc::new(Issuer::default());
        *issuer.clock.lock().unwrap() = Some(time.clock());
        let config = crate::AgentConfig::new("n", root.path(), std::net::Ipv4Addr::LOCALHOST.into());
        let cluster = balsa_client::memory::MemoryBackend::new(time.clock());
        let shared = super::super::Shared {
            config: Arc::new(config),
            client: balsa_client::Client::new(cluster, "test"),
            objects: Arc::new(NoObjects),
            tokens: Tokens::new(issuer.clone()),
            clock: time.clock(),
            simulated: true,
        };
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "zoo", "uid": "u"},
            "spec": {"serviceAccountName": "phippy", "containers": [], "volumes": [{"name": "t", "projected": {
                "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 1000, "audience": "vault"}}]}}]},
        }))
        .unwrap();
        let facts = crate::pod::fields::PodFacts::default();
        let shown = async || {
            let places =
                super::super::set_up(&pod, &facts, &shared).await.map_err(|(_, error)| error).unwrap();
            let path = places["t"].join("token");
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            (std::fs::read_to_string(path).unwrap(), mode)
        };
        assert_eq!(shown().await, ("token 1".to_owned(), 0o644));
        assert_eq!(shown().await.0, "token 1", "a good token is kept");
        let asked = issuer.asked.lock().unwrap()[0].clone();
        assert_eq!((asked.namespace.as_str(), asked.service_account.as_str()), ("zoo", "phippy"));
        assert_eq!((asked.pod_name.as_str(), asked.pod_uid.as_str()), ("p", "u"));
        assert_eq!((asked.audiences, asked.expiration_seconds), (vec!["vault".to_owned()], 1000));

        time.advance(std::time::Duration::from_secs(801));
        assert_eq!(shown().await.0, "token 2", "renewed after four fifths of its life");
        issuer.gone.store(true, std::sync::atomic::Ordering::Relaxed);
        time.advance(std::time::Duration::from_secs(900));
        assert_eq!(shown().await.0, "token 2", "where nobody answers the old one stays");
    }
}
