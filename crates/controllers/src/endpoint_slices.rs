//! EndpointSlices of Services: what proxies and DNS read.
//!
//! Reads Services, pods and slices; alone writes the slices that carry its label. An endpoint stays in
//! the slice where it is, so that one changed pod changes one slice. A second call without a change
//! does nothing; slices of a deleted Service go through the garbage collector.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::caches::{Caches, settle};
use crate::endpoint_plan::{Backing, Port, backings, is_headless, is_managed};
use crate::endpoints::services_of;
use crate::owner::{controller_reference, key_of};

/// The most endpoints of a slice.
const MAX_ENDPOINTS: usize = 100;
/// Names the Service that a slice is of.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Names who writes a slice.
pub(crate) const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

struct EndpointSlices {
    client: Client,
    caches: Caches,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.services, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let services = caches.services.clone();
    feed(&caches.pods, &queue, scope, move |change| services_of(change, &services));
    feed(&caches.endpoint_slices, &queue, scope, |change| {
        let slice = change.object()?;
        let service = slice.meta().labels.as_ref()?.get(SERVICE_LABEL)?;
        Some(Key::new(slice.key().namespace.clone(), service.as_str()))
    });
    balsa_client::run(Arc::new(EndpointSlices { client, caches: caches.clone() }), queue, 4, scope);
}

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<EndpointSlice>,
}

/// Endpoints that may share a slice: of one family (whether it is IPv6), with the same ports.
pub(crate) type Groups = BTreeMap<(bool, Vec<Port>), Vec<Endpoint>>;

/// The slices that a Service should have, as changes of those that it has. `zone` tells the zone of a node.
fn plan(
    service: &Service,
    backings: &[Backing],
    existing: &[EndpointSlice],
    zone: impl Fn(&str) -> Option<String>,
) -> Plan {
    let mut groups = Groups::new();
    for backing in backings {
        let group = (backing.address.is_ipv6(), backing.ports.clone());
        groups.entry(group).or_default().push(endpoint(backing, &zone));
    }
    if groups.is_empty() {
        // A Service without pods keeps an empty slice, which says that somebody looked.
        groups.insert((false, Vec::new()), Vec::new());
    }
    arrange(groups, existing, |family, ports| blank(service, family, ports))
}

/// Puts endpoints into slices, as changes of those that are there; `blank` makes a new one of a family, with these ports.
pub(crate) fn arrange(
    groups: Groups,
    existing: &[EndpointSlice],
    blank: impl Fn(&'static str, &[Port]) -> EndpointSlice,
) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<&EndpointSlice> = existing.iter().collect();
    for ((ipv6, ports), endpoints) in groups {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let blank = blank(family, &ports);
        let (same, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|slice| {
            slice.address_type == family
                && slice.ports.clone().unwrap_or_default() == blank.ports.clone().unwrap_or_default()
        });
        left = rest;
        distribute(&blank, endpoints, &same, &mut plan);
    }
    plan.delete.extend(left.into_iter().cloned());
    plan
}

/// Leaves endpoints in the slices where they are, fills up the room, and opens new slices for the rest.
fn distribute(blank: &EndpointSlice, endpoints: Vec<Endpoint>, existing: &[&EndpointSlice], plan: &mut Plan) {
    let mut wanted: Vec<Option<Endpoint>> = endpoints.into_iter().map(Some).collect();
    let mut slices: Vec<EndpointSlice> = Vec::new();
    for slice in existing {
        let mut next =
            EndpointSlice { endpoints: Vec::new(), ports: blank.ports.clone(), ..(*slice).clone() };
        next.metadata.labels.clone_from(&blank.metadata.labels);
        next.metadata.owner_references.clone_from(&blank.metadata.owner_references);
        for old in &slice.endpoints {
            let same = |new: &&mut Option<Endpoint>| new.as_ref().is_some_and(|new| is_same(new, old));
            next.endpoints.extend(wanted.iter_mut().find(same).and_then(Option::take));
        }
        slices.push(next);
    }
    let mut rest = wanted.into_iter().flatten().peekable();
    for slice in &mut slices {
        while slice.endpoints.len() < MAX_ENDPOINTS
            && let Some(endpoint) = rest.next()
        {
            slice.endpoints.push(endpoint);
        }
    }
    let mut kept = 0;
    for (next, old) in slices.into_iter().zip(existing) {
        let needed = !next.endpoints.is_empty();
        if !needed && (kept > 0 || rest.peek().is_some()) {
            plan.delete.push((*old).clone());
            continue;
        }
        kept += 1;
        if next != **old {
            plan.update.push(next);
        }
    }
    while kept == 0 || rest.peek().is_some() {
        kept += 1;
        let endpoints = rest.by_ref().take(MAX_ENDPOINTS).collect();
        plan.create.push(EndpointSlice { endpoints, ..blank.clone() });
    }
}

fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|target| target.uid.clone());
    a.addresses == b.addresses && uid(a) == uid(b)
}

fn endpoint(backing: &Backing, zone: &impl Fn(&str) -> Option<String>) -> Endpoint {
    Endpoint {
        addresses: vec![backing.address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(backing.ready),
            serving: Some(backing.serving),
            terminating: Some(backing.terminating),
        }),
        hostname: backing.hostname.clone(),
        node_name: backing.node.clone(),
        target_ref: Some(backing.reference.clone()),
        zone: backing.node.as_deref().and_then(zone),
        ..Endpoint::default()
    }
}

/// A new slice without endpoints.
fn blank(service: &Service, family: &str, ports: &[Port]) -> EndpointSlice {
    let meta = &service.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let owner = controller_reference(service);
    blank_of((&name, meta.namespace.clone()), (labels, MANAGER), owner, (family, ports))
}

/// A new slice without endpoints: of which Service in which namespace, with which labels by whom, whose, and what is in it.
pub(crate) fn blank_of(
    (service, namespace): (&str, Option<String>),
    (mut labels, manager): (BTreeMap<String, String>, &str),
    owner: OwnerReference,
    (family, ports): (&str, &[Port]),
) -> EndpointSlice {
    labels.insert(SERVICE_LABEL.to_owned(), service.to_owned());
    labels.insert(MANAGER_LABEL.to_owned(), manager.to_owned());
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<EndpointPort> = ports.collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{service}-")),
            namespace,
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Vec::new(),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// The slices of a Service that `manager` has written.
pub(crate) fn slices_of(caches: &Caches, service: &Key, manager: &str) -> Vec<EndpointSlice> {
    let all = caches.endpoint_slices.list_in(&service.namespace);
    let ours = all.iter().filter(|object| {
        let labels = object.meta().labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        label(SERVICE_LABEL) == Some(&*service.name)
            && label(MANAGER_LABEL) == Some(manager)
            && !object.is_deleting()
    });
    ours.filter_map(|object| object.to_typed()).collect()
}

/// Writes what a plan says.
pub(crate) async fn carry_out(client: &Client, caches: &Caches, plan: Plan) -> Result<(), Failure> {
    let api = client.api::<EndpointSlice>();
    // What is new is written first: an address in two slices for a moment is one address, an
    // address in none is a refused connection.
    for slice in &plan.create {
        let written = api.create(slice).await?;
        settle(&caches.endpoint_slices, written.revision()).await;
    }
    for slice in &plan.update {
        let written = api.update(slice, Part::Main).await?;
        settle(&caches.endpoint_slices, written.revision()).await;
    }
    for slice in &plan.delete {
        let uid = slice.metadata.uid.as_deref().unwrap_or_default();
        api.delete_in_background(&key_of(&slice.metadata), uid).await?;
    }
    Ok(())
}

impl EndpointSlices {
    fn zone(&self, node: &str) -> Option<String> {
        let node = self.caches.nodes.get(&Key::new("", node))?;
        node.meta().labels.as_ref()?.get(ZONE_LABEL).cloned()
    }
}

#[async_trait]
impl Reconciler for EndpointSlices {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint_slice"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.services.get(key) else { return Ok(Next::Wait) };
        let Some(service) = object.typed::<Service>() else { return Ok(Next::Wait) };
        let Some(spec) = service.spec.as_ref().filter(|spec| is_managed(spec)) else { return Ok(Next::Wait) };
        if object.is_deleting() {
            return Ok(Next::Wait);
        }
        let selector = spec.selector.as_ref().map_or_else(LabelSelector::nothing, LabelSelector::from_map);
        let pods = self.caches.pods.list_in(&key.namespace);
        let chosen = pods.iter().filter(|pod| selector.matches(pod.meta().labels.as_ref()));
        let chosen: Vec<Arc<Pod>> = chosen.filter_map(|pod| pod.typed()).collect();
        let backings = backings(&service, &chosen);
        let existing = slices_of(&self.caches, key, MANAGER);
        let wanted = plan(&service, &backings, &existing, |node| self.zone(node));
        carry_out(&self.client, &self.caches, wanted).await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::endpoint_plan::tests::{pod, service};

    fn run(pods: &[Arc<Pod>], existing: &[EndpointSlice]) -> Plan {
        let service = service(json!({"ports": [{"port": 80, "targetPort": "http"}]}));
        plan(&service, &backings(&service, pods), existing, |_| Some("z".to_owned()))
    }

    fn many(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|i| pod(&format!("p{i}"), &format!("10.0.{}.{}", i / 200, i % 200), true)).collect()
    }

    #[test]
    fn slices_hold_a_hundred() {
        let plan = run(&many(250), &[]);
        let sizes: Vec<usize> = plan.create.iter().map(|slice| slice.endpoints.len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
        assert_eq!(plan.create[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(plan.create[0].endpoints[0].zone.as_deref(), Some("z"));
    }

    #[test]
    fn one_changed_pod_changes_one_slice() {
        let mut pods = many(150);
        let existing = run(&pods, &[]).create;
        assert_eq!(run(&pods, &existing), Plan::default());
        let first = existing[0].endpoints[3].target_ref.as_ref().unwrap().name.clone();
        let changed = pods.iter_mut().find(|p| p.metadata.name == first).unwrap();
        *changed = pod(first.as_ref().unwrap(), &existing[0].endpoints[3].addresses[0], false);
        let plan = run(&pods, &existing);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(plan.update[0].endpoints[3].conditions.as_ref().unwrap().ready, Some(false));
    }

    #[test]
    fn without_pods_one_empty_slice_is_kept() {
        let full = run(&many(1), &[]).create;
        let plan = run(&[], &full);
        assert_eq!((plan.create.len(), plan.delete.len()), (1, 1));
        assert!(plan.create[0].endpoints.is_empty());
        assert_eq!(run(&[], &plan.create), Plan::default());
    }
}
