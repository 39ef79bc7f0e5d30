//! Secrets that hold the token of a service account: what somebody asks for by making a Secret of that type.
//!
//! Reads accounts and such Secrets; alone writes their `token`, `ca.crt` and `namespace`. A Secret goes when its
//! account does, and the account names none that is gone. A second call does nothing; who signs is told by
//! [`TokenSource`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::kinds::secret::{SERVICE_ACCOUNT_NAME, SERVICE_ACCOUNT_TOKEN, SERVICE_ACCOUNT_UID};
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Failure, Key, Object};
use balsa_rt::Scope;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::caches::Caches;

const TOKEN: &str = "token";

/// Signs tokens that last as long as the Secret they are in.
pub trait TokenSource: Send + Sync + 'static {
    /// The token of `account` for a Secret of its namespace.
    ///
    /// # Errors
    /// When signing fails.
    fn token(&self, account: &ServiceAccount, secret: &str) -> Result<String, Failure>;
}

struct TokenSecrets {
    client: Client,
    caches: Caches,
    source: Arc<dyn TokenSource>,
    root_ca: String,
}

/// Starts the controller.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    source: Arc<dyn TokenSource>,
    root_ca: String,
    scope: &Scope,
) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.secrets, &queue, scope, |change| {
        change.object().filter(|object| object.is(holds_token)).map(|object| object.key().clone())
    });
    let secrets = caches.secrets.clone();
    feed(&caches.service_accounts, &queue, scope, move |change| {
        let Some(account) = change.object() else { return Vec::new() };
        let named = |secret: &Secret| {
            holds_token(secret) && annotation(secret, SERVICE_ACCOUNT_NAME) == &*account.key().name
        };
        let all = secrets.list_in(&account.key().namespace).into_iter();
        all.filter(|secret| secret.is(named)).map(|secret| secret.key().clone()).collect()
    });
    let this = TokenSecrets { client, caches: caches.clone(), source, root_ca };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

fn holds_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(SERVICE_ACCOUNT_TOKEN)
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(name)).map_or("", String::as_str)
}

/// The Secret as it should be: what it lacks is added, what somebody has put for a token stays. `None`: it is that
/// already.
fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca: &str,
    token: impl FnOnce() -> Result<String, Failure>,
) -> Result<Option<Secret>, Failure> {
    let mut wanted = secret.clone();
    let (namespace, name, uid) = (&account.metadata.namespace, &account.metadata.name, &account.metadata.uid);
    let data = wanted.data.get_or_insert_default();
    let mut put = |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.into()));
    put("namespace", namespace.as_deref().unwrap_or_default());
    if !root_ca.is_empty() {
        put("ca.crt", root_ca);
    }
    if data.get(TOKEN).is_none_or(|token| token.0.is_empty()) {
        data.insert(TOKEN.to_owned(), ByteString(token()?.into_bytes()));
    }
    let annotations: &mut BTreeMap<String, String> = wanted.metadata.annotations.get_or_insert_default();
    annotations.insert(SERVICE_ACCOUNT_NAME.to_owned(), name.clone().unwrap_or_default());
    annotations.insert(SERVICE_ACCOUNT_UID.to_owned(), uid.clone().unwrap_or_default());
    Ok((wanted != *secret).then_some(wanted))
}

impl TokenSecrets {
    /// The account that a Secret is for, if it is there still. What the cache does not show may be younger than it.
    async fn account(&self, namespace: &str, secret: &Secret) -> Result<Option<ServiceAccount>, Failure> {
        let key = Key::new(namespace, annotation(secret, SERVICE_ACCOUNT_NAME));
        let cached = self.caches.service_accounts.get(&key);
        let account = match cached.and_then(|object| object.to_typed()) {
            Some(account) => Some(account),
            None => self.client.api::<ServiceAccount>().find(&key).await?,
        };
        let uid = annotation(secret, SERVICE_ACCOUNT_UID);
        Ok(account.filter(|account| uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)))
    }

    /// Takes a Secret that is gone out of the accounts that name it.
    async fn forget(&self, gone: &Key) -> Result<(), Failure> {
        let names = |account: &ServiceAccount| {
            let mut secrets = account.secrets.iter().flatten();
            secrets.any(|secret| secret.name.as_deref() == Some(&*gone.name))
        };
        let accounts = self.caches.service_accounts.list_in(&gone.namespace);
        for account in accounts.iter().filter(|account| account.is(names)) {
            if self.client.api::<Secret>().find(gone).await?.is_some() {
                return Ok(());
            }
            let forget = |account: &mut ServiceAccount| {
                let secrets = account.secrets.get_or_insert_default();
                let before = secrets.len();
                secrets.retain(|secret| secret.name.as_deref() != Some(&*gone.name));
                secrets.len() != before
            };
            self.client.api::<ServiceAccount>().modify(account.key(), Part::Main, forget).await?;
        }
        Ok(())
    }

    async fn fill(&self, object: &Object, secret: &Secret) -> Result<(), Failure> {
        let (key, secrets) = (object.key(), self.client.api::<Secret>());
        let Some(account) = self.account(&key.namespace, secret).await? else {
            return secrets.delete(key, object.uid(), DeleteOptions::default()).await;
        };
        let token = || self.source.token(&account, &key.name);
        if let Some(wanted) = filled(secret, &account, &self.root_ca, token)? {
            secrets.update(&wanted, Part::Main).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for TokenSecrets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "token_secrets"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.secrets.get(key) else {
            self.forget(key).await?;
            return Ok(Next::Wait);
        };
        let Some(secret) = object.typed::<Secret>().filter(|secret| holds_token(secret)) else {
            return Ok(Next::Wait);
        };
        // What may not be changed stays as it was made.
        if !object.is_deleting() && secret.immutable != Some(true) {
            self.fill(&object, &secret).await?;
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_is_filled_once() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "n", "uid": "u"}}))
                .unwrap();
        let secret: Secret = serde_json::from_value(json!({"type": SERVICE_ACCOUNT_TOKEN,
            "metadata": {"name": "s", "namespace": "n", "annotations": {SERVICE_ACCOUNT_NAME: "robot"}},
            "data": {"mine": "eA=="}}))
        .unwrap();
        let token = || Ok("signed".to_owned());
        let first = filled(&secret, &account, "PEM", token).unwrap().unwrap();
        let text = |key: &str| String::from_utf8(first.data.as_ref().unwrap()[key].0.clone()).unwrap();
        assert_eq!(["token", "ca.crt", "namespace", "mine"].map(text), ["signed", "PEM", "n", "x"]);
        assert_eq!(annotation(&first, SERVICE_ACCOUNT_UID), "u");
        let again = || panic!("the token that is there is good");
        assert_eq!(filled(&first, &account, "PEM", again).unwrap(), None);
        let renewed = filled(&first, &account, "ANOTHER", again).unwrap().unwrap();
        assert_eq!(renewed.data.unwrap()["ca.crt"].0, b"ANOTHER");
    }
}
