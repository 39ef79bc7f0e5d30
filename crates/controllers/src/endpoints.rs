//! Endpoints of Services: the older form of what EndpointSlices say, for clients that still read it.
//!
//! Reads Services, pods and Endpoints; alone writes the Endpoints of Services that select pods. A
//! second call without a change does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Changed, Client, Informer, Next, Queue, Reconciler, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Object};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::caches::{Caches, settle};
use crate::endpoint_plan::{Backing, Port, backings, is_headless, is_managed};

/// The most addresses of one object; more are cut off and said to be.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGER_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

struct EndpointsOfServices {
    client: Client,
    caches: Caches,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.services, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    feed(&caches.endpoints, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let services = caches.services.clone();
    feed(&caches.pods, &queue, scope, move |change| services_of(change, &services));
    balsa_client::run(Arc::new(EndpointsOfServices { client, caches: caches.clone() }), queue, 4, scope);
}

/// The Services that select a pod, as it is or as it was.
pub(crate) fn services_of(change: &Changed, services: &Informer) -> Vec<Key> {
    let Some(pod) = change.object() else { return Vec::new() };
    let mut keys = Vec::new();
    for service in services.list_in(&pod.key().namespace) {
        let selects_it = |service: &Service| {
            let spec = service.spec.as_ref().filter(|spec| is_managed(spec));
            let Some(selector) = spec.and_then(|spec| spec.selector.as_ref()) else { return false };
            let selects = |pod: &Object| {
                let labels = pod.meta().labels.as_ref();
                selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
            };
            [&change.old, &change.new].into_iter().flatten().any(|pod| selects(pod))
        };
        if service.is(selects_it) {
            keys.push(service.key().clone());
        }
    }
    keys
}

/// The object that a Service should have; `existing` gives what is not ours to decide.
fn plan(service: &Service, backings: &[Backing], existing: Option<&Endpoints>) -> Endpoints {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let fresh = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    };
    let mut metadata = existing.map_or(fresh, |existing| existing.metadata.clone());
    metadata.labels = Some(labels);
    let usable: Vec<&Backing> =
        backings.iter().filter(|backing| backing.ready || !backing.terminating).collect();
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if usable.len() > MAX_ADDRESSES {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    let subsets = pack(&usable[..usable.len().min(MAX_ADDRESSES)]);
    Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

/// Addresses with the same ports make one subset.
fn pack(backings: &[&Backing]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<&[Port], (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for backing in backings {
        let group = groups.entry(&backing.ports).or_default();
        let address = EndpointAddress {
            ip: backing.address.to_string(),
            hostname: backing.hostname.clone(),
            node_name: backing.node.clone(),
            target_ref: Some(backing.reference.clone()),
        };
        if backing.ready { group.0.push(address) } else { group.1.push(address) }
    }
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let subsets = groups.into_iter().map(|(ports, (ready, not_ready))| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
    });
    subsets.collect()
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

#[async_trait]
impl Reconciler for EndpointsOfServices {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let api = self.client.api::<Endpoints>();
        let existing = self.caches.endpoints.get(key);
        let Some(object) = self.caches.services.get(key) else {
            // Endpoints carry no owner reference; those that somebody else made stay.
            let ours = |o: &Arc<Object>| {
                o.meta().labels.as_ref().is_some_and(|labels| labels.contains_key(MANAGER_LABEL))
            };
            if let Some(left) = existing.filter(ours) {
                api.delete_in_background(key, left.uid()).await?;
            }
            return Ok(Next::Wait);
        };
        let Some(service) = object.typed::<Service>() else { return Ok(Next::Wait) };
        let Some(spec) = service.spec.as_ref().filter(|spec| is_managed(spec)) else { return Ok(Next::Wait) };
        if object.is_deleting() {
            return Ok(Next::Wait);
        }
        let selector = spec.selector.as_ref().map_or_else(LabelSelector::nothing, LabelSelector::from_map);
        let pods = self.caches.pods.list_in(&key.namespace);
        let chosen = pods.iter().filter(|pod| selector.matches(pod.meta().labels.as_ref()));
        let chosen: Vec<Arc<Pod>> = chosen.filter_map(|pod| pod.typed()).collect();
        let existing = existing.as_ref().and_then(|object| object.typed());
        let wanted = plan(&service, &backings(&service, &chosen), existing.as_deref());
        let written = match existing {
            Some(existing) if *existing == wanted => return Ok(Next::Wait),
            Some(_) => api.update(&wanted, Part::Main).await?,
            None => api.create(&wanted).await?,
        };
        settle(&self.caches.endpoints, written.revision()).await;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::endpoint_plan::tests::{pod, service};

    #[test]
    fn ready_and_not_ready_share_a_subset() {
        let service = service(json!({"ports": [{"port": 80, "targetPort": "http"}]}));
        let pods = [pod("b", "10.0.0.2", true), pod("a", "10.0.0.1", true), pod("c", "10.0.0.3", false)];
        let endpoints = plan(&service, &backings(&service, &pods), None);
        let subsets = endpoints.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 1);
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.3"]);
        assert_eq!(plan(&service, &backings(&service, &pods), Some(&endpoints)), endpoints);
    }
}
