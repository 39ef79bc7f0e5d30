//! What every namespace has: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` with
//! the certificate by which pods know the server.
//!
//! Reads namespaces and the two kinds; creates what is missing, and alone writes that ConfigMap's data.
//! A second call does nothing; a namespace that is being deleted gets nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Reason};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::caches::{Caches, settle};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct NamespaceObjects {
    client: Client,
    caches: Caches,
    root_ca: String,
}

/// Starts the controller. Without a certificate there are no ConfigMaps.
pub(crate) fn start(client: Client, caches: &Caches, root_ca: String, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.namespaces, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    for (informer, name) in [(&caches.service_accounts, ACCOUNT), (&caches.config_maps, ROOT_CA)] {
        feed(informer, &queue, scope, move |change| {
            let object = change.object().filter(|object| &*object.key().name == name)?;
            Some(Key::new("", object.key().namespace.clone()))
        });
    }
    let this = NamespaceObjects { client, caches: caches.clone(), root_ca };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

/// The ConfigMap that a namespace should have; `None` when `existing` is it already.
fn root_ca(namespace: &str, certificate: &str, existing: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data: BTreeMap<String, String> = [("ca.crt".to_owned(), certificate.to_owned())].into();
    let Some(existing) = existing else {
        let mut metadata = named(namespace, ROOT_CA);
        metadata.annotations =
            Some([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())].into());
        return Some(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
    };
    let wanted = ConfigMap { data: Some(data), ..existing.clone() };
    (wanted != *existing).then_some(wanted)
}

impl NamespaceObjects {
    async fn create<K: Kind>(&self, informer: &balsa_client::Informer, object: &K) -> Result<(), Failure> {
        match self.client.api::<K>().create(object).await {
            Ok(written) => settle(informer, written.revision()).await,
            Err(failure) if failure.reason == Reason::AlreadyExists => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for NamespaceObjects {
    type Key = Key;

    fn name(&self) -> &'static str {
        "namespace_objects"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(namespace) = self.caches.namespaces.get(key) else { return Ok(Next::Wait) };
        if namespace.is_deleting() {
            return Ok(Next::Wait);
        }
        let name = &*key.name;
        if self.caches.service_accounts.get(&Key::new(name, ACCOUNT)).is_none() {
            let account = ServiceAccount { metadata: named(name, ACCOUNT), ..ServiceAccount::default() };
            self.create(&self.caches.service_accounts, &account).await?;
        }
        if self.root_ca.is_empty() {
            return Ok(Next::Wait);
        }
        let existing = self.caches.config_maps.get(&Key::new(name, ROOT_CA));
        let existing = existing.and_then(|object| object.typed::<ConfigMap>());
        match (root_ca(name, &self.root_ca, existing.as_deref()), existing) {
            (Some(wanted), None) => self.create(&self.caches.config_maps, &wanted).await?,
            (Some(wanted), Some(_)) => {
                self.client.api::<ConfigMap>().update(&wanted, Part::Main).await?;
            }
            (None, _) => {}
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_certificate_is_put_right() {
        let fresh = root_ca("n", "PEM", None).unwrap();
        assert_eq!(root_ca("n", "PEM", Some(&fresh)), None);
        let mut spoilt = fresh.clone();
        spoilt.data = None;
        assert_eq!(root_ca("n", "PEM", Some(&spoilt)), Some(fresh));
    }
}
