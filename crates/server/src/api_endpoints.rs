//! Where pods find the API: the Service `default/kubernetes` with its Endpoints and EndpointSlices, kept by the leader.
//!
//! All servers that are well are in them, each with the address at which pods reach it. Servers with the same
//! port share an EndpointSlice. A server that is not well is taken out after the second look; when none
//! is well, what there is stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use balsa_client::Client;
use balsa_model::selector::Filter;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as Port, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::MissedTickBehavior;

use crate::bootstrap::{self, Seed};
use crate::members::{MemberHealth, Members};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PORT_NAME: &str = "https";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Our objects say themselves what is in them; nobody derives one from the other.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Between two looks at all servers.
const LOOK: Duration = Duration::from_secs(2);
/// Looks in a row at which a server is not well until it is taken out.
const DOUBTS: u32 = 2;

/// Keeps them for ever, and the Service itself: somebody may have deleted it.
pub(crate) async fn run(client: Client, members: Members, seed: Seed) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut servers = Servers::default();
    loop {
        ticks.tick().await;
        if let Err(failure) = bootstrap::services(&client, &seed).await {
            tracing::warn!(%failure, "a Service that pods need is missing; trying again");
        }
        servers.look(&members.health().await);
        let addresses = servers.addresses();
        if addresses.is_empty() {
            continue;
        }
        if let Err(failure) = publish(&client, &addresses, seed.port).await {
            tracing::warn!(%failure, "where pods find the API is not up to date; trying again");
        }
    }
}

/// The servers that were well lately: where pods reach them, and looks at which they were not well since.
#[derive(Default)]
struct Servers(BTreeMap<u64, (SocketAddr, u32)>);

impl Servers {
    fn look(&mut self, health: &[MemberHealth]) {
        self.0.retain(|id, _| health.iter().any(|member| member.id == *id));
        for member in health {
            let told = member.said.as_ref().and_then(|said| said.pods_address.parse().ok());
            match (member.is_healthy(), told) {
                (true, Some(address)) => drop(self.0.insert(member.id, (address, 0))),
                (true, None) => drop(self.0.remove(&member.id)),
                (false, _) => {
                    if let Some((_, doubts)) = self.0.get_mut(&member.id) {
                        *doubts += 1;
                    }
                }
            }
        }
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        let well = self.0.values().filter(|(_, doubts)| *doubts < DOUBTS);
        well.map(|(address, _)| *address).collect()
    }
}

/// `port` is that of the servers, whose EndpointSlice has the Service's own name.
async fn publish(client: &Client, addresses: &BTreeSet<SocketAddr>, port: u16) -> Result<(), Failure> {
    let wanted = endpoints(addresses);
    put(client, &wanted, |present: &mut Endpoints| {
        let same = present.subsets == wanted.subsets;
        present.subsets.clone_from(&wanted.subsets);
        !same
    })
    .await?;
    let slices = slices(addresses, port);
    for wanted in &slices {
        put(client, wanted, |present: &mut EndpointSlice| {
            let same = present.endpoints == wanted.endpoints && present.ports == wanted.ports;
            present.endpoints.clone_from(&wanted.endpoints);
            present.ports.clone_from(&wanted.ports);
            !same
        })
        .await?;
    }
    remove_others(client, &slices).await
}

/// Creates `wanted`, or brings what is there up to date by `change`, which answers whether it changed anything.
async fn put<K: Kind>(
    client: &Client,
    wanted: &K,
    change: impl FnMut(&mut K) -> bool + Send,
) -> Result<(), Failure> {
    let api = client.api::<K>();
    let key = Key::new(NAMESPACE, wanted.metadata().name.as_deref().unwrap_or_default());
    match api.find(&key).await? {
        None => api.create(wanted).await.map(|_| ()),
        Some(_) => api.modify(&key, Part::Main, change).await.map(|_| ()),
    }
}

/// Removes slices of ports at which no server is any more.
async fn remove_others(client: &Client, wanted: &[EndpointSlice]) -> Result<(), Failure> {
    let api = client.api::<EndpointSlice>();
    for object in api.list(Filter::namespaced(NAMESPACE)).await? {
        let meta = object.meta();
        let label = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let is_wanted = wanted.iter().any(|wanted| wanted.metadata.name == meta.name);
        if label.map(String::as_str) == Some(NAME) && !is_wanted {
            api.delete_in_background(object.key(), object.uid()).await?;
        }
    }
    Ok(())
}

fn by_port(addresses: &BTreeSet<SocketAddr>) -> BTreeMap<u16, Vec<SocketAddr>> {
    let mut ports: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    for address in addresses {
        ports.entry(address.port()).or_default().push(*address);
    }
    ports
}

fn metadata(name: String, label: (&str, &str)) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(BTreeMap::from([(label.0.to_owned(), label.1.to_owned())])),
        ..ObjectMeta::default()
    }
}

fn endpoints(addresses: &BTreeSet<SocketAddr>) -> Endpoints {
    let subset = |(port, servers): (u16, Vec<SocketAddr>)| EndpointSubset {
        addresses: Some(
            servers
                .iter()
                .map(|server| EndpointAddress { ip: server.ip().to_string(), ..EndpointAddress::default() })
                .collect(),
        ),
        ports: Some(vec![Port {
            name: Some(PORT_NAME.to_owned()),
            port: i32::from(port),
            protocol: Some("TCP".to_owned()),
            ..Port::default()
        }]),
        ..EndpointSubset::default()
    };
    Endpoints {
        metadata: metadata(NAME.to_owned(), (SKIP_MIRROR, "true")),
        subsets: Some(by_port(addresses).into_iter().map(subset).collect()),
    }
}

fn slices(addresses: &BTreeSet<SocketAddr>, usual: u16) -> Vec<EndpointSlice> {
    let slice = |(port, servers): (u16, Vec<SocketAddr>)| EndpointSlice {
        metadata: metadata(
            if port == usual { NAME.to_owned() } else { format!("{NAME}-{port}") },
            (SERVICE_LABEL, NAME),
        ),
        address_type: if servers.iter().all(SocketAddr::is_ipv4) { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: servers
            .iter()
            .map(|server| Endpoint {
                addresses: vec![server.ip().to_string()],
                conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
                ..Endpoint::default()
            })
            .collect(),
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    };
    by_port(addresses).into_iter().map(slice).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use balsa_proto::peer::InspectResponse;

    use super::*;

    fn member(id: u64, pods_address: &str, problem: Option<&str>) -> MemberHealth {
        let said = InspectResponse { pods_address: pods_address.to_owned(), ..InspectResponse::default() };
        let problem = problem.map(str::to_owned);
        MemberHealth { id, said: problem.is_none().then_some(said), problem, ..MemberHealth::default() }
    }

    fn set(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn a_server_that_is_not_well_is_taken_out_after_the_second_look() {
        let mut servers = Servers::default();
        let (one, two) = ("10.0.0.1:6443", "10.0.0.2:6443");
        servers.look(&[member(1, one, None), member(2, two, None), member(3, "", None)]);
        assert_eq!(servers.addresses(), set(&[one, two]), "the third is not to be reached by pods");
        servers.look(&[member(1, one, None), member(2, "", Some("it does not answer"))]);
        assert_eq!(servers.addresses(), set(&[one, two]));
        servers.look(&[member(1, one, None), member(2, "", Some("it does not answer"))]);
        assert_eq!(servers.addresses(), set(&[one]));
        servers.look(&[member(1, one, None), member(2, two, None)]);
        assert_eq!(servers.addresses(), set(&[one, two]));
        servers.look(&[member(2, two, None)]);
        assert_eq!(servers.addresses(), set(&[two]), "the first is no member any more");
    }

    #[test]
    fn servers_with_one_port_share_a_slice_and_a_subset() {
        let addresses = set(&["10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.1:7443"]);
        let slices = slices(&addresses, 6443);
        let names: Vec<_> = slices.iter().map(|slice| slice.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443"]);
        assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [2, 1]);
        let subsets = endpoints(&addresses).subsets.unwrap();
        let ports = |subset: &EndpointSubset| subset.ports.as_ref().unwrap()[0].port;
        assert_eq!(subsets.iter().map(ports).collect::<Vec<_>>(), [6443, 7443]);
    }
}
