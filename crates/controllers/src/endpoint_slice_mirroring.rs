//! EndpointSlices of Endpoints that somebody wrote by hand, for a Service that selects no pods: proxies and DNS read slices only.
//!
//! Reads Services, Endpoints and slices; alone writes the slices that carry its label. Their owner is the Endpoints object. A
//! second call without a change does nothing.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use crate::caches::Caches;
use crate::endpoint_plan::Port;
use crate::endpoint_slices::{
    Groups, MANAGER_LABEL, Plan, SERVICE_LABEL, arrange, blank_of, carry_out, slices_of,
};
use crate::owner::controller_reference;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Who writes slices, too, says so with it.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are no more than a lock of an election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of a subset that are mirrored.
const MAX_ADDRESSES: usize = 1000;

struct Mirroring {
    client: Client,
    caches: Caches,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    for informer in [&caches.endpoints, &caches.services] {
        feed(informer, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    }
    feed(&caches.endpoint_slices, &queue, scope, |change| {
        let slice = change.object()?;
        let labels = slice.meta().labels.as_ref()?;
        // Those of Services that select pods change with every pod, and are none of ours.
        labels.get(MANAGER_LABEL).filter(|manager| *manager == MANAGER)?;
        let service = labels.get(SERVICE_LABEL)?;
        Some(Key::new(slice.key().namespace.clone(), service.as_str()))
    });
    balsa_client::run(Arc::new(Mirroring { client, caches: caches.clone() }), queue, 2, scope);
}

/// Whether somebody has to be told in slices what stands in these Endpoints.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|skip| skip == "true");
    let is_lock = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    let by_hand =
        service.and_then(|service| service.spec.as_ref()).is_some_and(|spec| spec.selector.is_none());
    by_hand && !skipped && !is_lock && meta.deletion_timestamp.is_none()
}

/// The slices that Endpoints should have, as changes of those that they have.
fn plan(endpoints: &Endpoints, existing: &[EndpointSlice]) -> Plan {
    let mut groups = Groups::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let addresses = |list: &Option<Vec<EndpointAddress>>, ready| {
            list.iter().flatten().filter_map(move |address| mirror(address, ready)).collect::<Vec<_>>()
        };
        let all =
            [addresses(&subset.addresses, true), addresses(&subset.not_ready_addresses, false)].concat();
        for (ipv6, endpoint) in all.into_iter().take(MAX_ADDRESSES) {
            groups.entry((ipv6, ports.clone())).or_default().push(endpoint);
        }
    }
    let name = endpoints.metadata.name.as_deref().unwrap_or_default();
    let labels = endpoints.metadata.labels.clone().unwrap_or_default();
    let namespace = endpoints.metadata.namespace.clone();
    let owner = controller_reference(endpoints);
    arrange(groups, existing, |family, ports| {
        blank_of((name, namespace.clone()), (labels.clone(), MANAGER), owner.clone(), (family, ports))
    })
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        number: port.port,
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports: Vec<Port> = subset.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

/// An address as slices have it, and whether it is one of IPv6.
fn mirror(address: &EndpointAddress, ready: bool) -> Option<(bool, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((ip.is_ipv6(), endpoint))
}

#[async_trait]
impl Reconciler for Mirroring {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint_slice_mirroring"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let existing = slices_of(&self.caches, key, MANAGER);
        let endpoints = self.caches.endpoints.get(key).and_then(|object| object.typed::<Endpoints>());
        let service = self.caches.services.get(key).and_then(|object| object.typed::<Service>());
        let wanted = match endpoints.filter(|endpoints| is_mirrored(endpoints, service.as_deref())) {
            Some(endpoints) => plan(&endpoints, &existing),
            None => Plan { delete: existing, ..Plan::default() },
        };
        carry_out(&self.client, &self.caches, wanted).await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn endpoints(labels: &Value, subsets: &Value) -> Endpoints {
        let meta = json!({"name": "db", "namespace": "n", "uid": "e", "labels": labels});
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).unwrap()
    }

    #[test]
    fn addresses_become_slices_by_family_and_ports() {
        let subsets = json!([
            {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
             "ports": [{"name": "sql", "port": 5432}]},
            {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 6432}]}]);
        let endpoints = endpoints(&json!({"team": "a"}), &subsets);
        let made = plan(&endpoints, &[]).create;
        let told = |slice: &EndpointSlice| {
            let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap();
            let all: Vec<_> = slice.endpoints.iter().map(|e| (e.addresses[0].clone(), ready(e))).collect();
            (slice.address_type.clone(), slice.ports.as_ref().unwrap()[0].port.unwrap(), all)
        };
        let of = |ip: &str, ready| (ip.to_owned(), ready);
        assert_eq!(
            made.iter().map(told).collect::<Vec<_>>(),
            [
                ("IPv4".to_owned(), 6432, vec![of("192.0.2.3", true)]),
                ("IPv4".to_owned(), 5432, vec![of("192.0.2.1", true), of("192.0.2.2", false)]),
                ("IPv6".to_owned(), 5432, vec![of("2001:db8::1", true)]),
            ]
        );
        let labels = made[0].metadata.labels.as_ref().unwrap();
        assert_eq!((labels[SERVICE_LABEL].as_str(), labels["team"].as_str()), ("db", "a"));
        assert_eq!(plan(&endpoints, &made), Plan::default(), "a second time there is nothing to do");
        assert_eq!(plan(&self::endpoints(&json!({}), &json!([])), &made).delete.len(), 3);
    }

    #[test]
    fn only_what_is_written_by_hand_for_a_service_is_mirrored() {
        let service = |spec: Value| serde_json::from_value::<Service>(json!({"spec": spec})).unwrap();
        let (plain, by_selector) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        let ours = endpoints(&json!({}), &json!([]));
        assert!(is_mirrored(&ours, Some(&plain)));
        assert!(!is_mirrored(&ours, Some(&by_selector)) && !is_mirrored(&ours, None));
        assert!(!is_mirrored(&endpoints(&json!({SKIP: "true"}), &json!([])), Some(&plain)));
    }
}
