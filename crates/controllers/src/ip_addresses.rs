//! An IPAddress for each address that a Service has, so that one can see whose an address is.
//!
//! Reads Services and IPAddresses; creates and deletes those that carry its label, which nobody else's
//! need fear. That no two Services have one address the log itself sees to: these objects only tell. One key
//! an address; a second call changes nothing. And ranges of Services are ready as soon as they are there.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, DeleteQuery, Informer, Next, Queue, Reconciler, feed};
use balsa_model::kind::kind_of;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Object, Precondition, Reason};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

use crate::caches::{Caches, settle};
use crate::index::{Index, feed_indexed};

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const OURS: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

struct Addresses {
    client: Client,
    /// Services by their addresses.
    owners: Index<String>,
    addresses: Informer,
}

/// Starts the controllers.
pub(crate) fn start(client: Client, caches: &Caches, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    let owners = feed_indexed(&caches.services, &queue, scope, addresses_of, |change| {
        let of = |object: &Option<Arc<Object>>| object.as_deref().map(addresses_of).unwrap_or_default();
        let mut keys = of(&change.old);
        keys.extend(of(&change.new));
        keys.into_iter().map(|address| Key::new("", address)).collect::<Vec<_>>()
    });
    feed(&caches.ip_addresses, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    let addresses = caches.ip_addresses.clone();
    let this = Addresses { client: client.clone(), owners, addresses };
    balsa_client::run(Arc::new(this), queue, 1, scope);
    let queue: Queue<Key> = Queue::new();
    feed(&caches.service_cidrs, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    let this = Ranges { client, ranges: caches.service_cidrs.clone(), clock };
    balsa_client::run(Arc::new(this), queue, 1, scope);
}

/// The addresses of a Service, in their canonical form.
fn addresses_of(object: &Object) -> Vec<String> {
    let service = object.typed::<Service>();
    let Some(spec) = service.as_ref().and_then(|service| service.spec.as_ref()) else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut all: Vec<String> =
        all.filter_map(|text| text.parse::<IpAddr>().ok()).map(|address| address.to_string()).collect();
    all.sort();
    all.dedup();
    all
}

/// The object for an address of a Service.
fn wanted(address: &str, service: &Key) -> IPAddress {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    IPAddress {
        metadata: ObjectMeta {
            name: Some(address.to_owned()),
            labels: Some([label(FAMILY, family), label(MANAGED_BY, OURS)].into()),
            ..ObjectMeta::default()
        },
        spec: Some(IPAddressSpec {
            parent_ref: ParentReference {
                resource: "services".to_owned(),
                namespace: Some(service.namespace.to_string()),
                name: service.name.to_string(),
                group: None,
            },
        }),
    }
}

#[async_trait]
impl Reconciler for Addresses {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ip_addresses"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let owner = self.owners.get(&key.name.to_string()).into_iter().next();
        let present = self.addresses.get(key);
        let wanted = owner.map(|service| wanted(&key.name, &service));
        if let Some(present) = &present {
            let labels = present.meta().labels.as_ref();
            let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == OURS);
            let right = wanted
                .as_ref()
                .is_some_and(|wanted| present.is(|present: &IPAddress| present.spec == wanted.spec));
            if right || !ours {
                return Ok(Next::Wait);
            }
            // Whose an address is never changes: another owner is another object.
            let precondition = Precondition { uid: Some(present.uid().to_owned()), revision: None };
            let query = DeleteQuery { precondition, ..DeleteQuery::default() };
            match self.client.backend().delete(kind_of::<IPAddress>(), key, &query).await {
                Err(failure) if failure.reason != Reason::NotFound => return Err(failure),
                _ => {}
            }
        }
        let Some(wanted) = wanted else { return Ok(Next::Wait) };
        match self.client.api::<IPAddress>().create(&wanted).await {
            Ok(written) => settle(&self.addresses, written.revision()).await,
            Err(failure) if failure.reason == Reason::AlreadyExists => {}
            Err(failure) => return Err(failure),
        }
        Ok(Next::Wait)
    }
}

struct Ranges {
    client: Client,
    ranges: Informer,
    clock: Clock,
}

#[async_trait]
impl Reconciler for Ranges {
    type Key = Key;

    fn name(&self) -> &'static str {
        "service_cidrs"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.ranges.get(key) else { return Ok(Next::Wait) };
        let Some(present) = object.typed::<ServiceCIDR>() else { return Ok(Next::Wait) };
        let is_ready = |condition: &Condition| condition.type_ == "Ready" && condition.status == "True";
        let conditions = present.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if conditions.into_iter().any(is_ready) {
            return Ok(Next::Wait);
        }
        let mut ready = ServiceCIDR::clone(&present);
        let conditions = ready.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "Ready");
        conditions.push(Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: String::new(),
            message: "Kubernetes Service CIDR is ready".to_owned(),
            last_transition_time: Time(self.clock.now_seconds()),
            observed_generation: None,
        });
        self.client.api::<ServiceCIDR>().update(&ready, Part::Status).await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whose_it_is() {
        let address = wanted("10.96.0.1", &Key::new("default", "kubernetes"));
        let labels = address.metadata.labels.unwrap_or_default();
        assert_eq!(labels[FAMILY], "IPv4");
        let parent = address.spec.map(|spec| spec.parent_ref).unwrap_or_default();
        assert_eq!((parent.resource.as_str(), parent.name.as_str()), ("services", "kubernetes"));
    }
}
