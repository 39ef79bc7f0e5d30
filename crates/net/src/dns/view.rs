//! What the resolver answers from: an immutable picture of services and their endpoints.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use crate::proxy::Protocol;

/// One service, as DNS sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsService {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// What its name leads to.
    pub target: DnsTarget,
    /// Its ports; those with a name have SRV records.
    pub ports: Vec<DnsPort>,
    /// The endpoints of a headless service; others need none.
    pub endpoints: Vec<DnsEndpoint>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
}

/// What a service's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsTarget {
    /// `spec.clusterIPs`.
    ClusterIps(Vec<IpAddr>),
    /// `clusterIP: None`: its endpoints.
    Headless,
    /// `type: ExternalName`: another name.
    ExternalName(String),
}

impl Default for DnsTarget {
    fn default() -> Self {
        Self::ClusterIps(Vec::new())
    }
}

/// A port, of a service or of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// `hostname` of the EndpointSlice's endpoint (the pod's `spec.hostname` under a `subdomain`).
    pub hostname: Option<String>,
    /// `conditions.ready`.
    pub ready: bool,
    /// The slice's ports (target ports).
    pub ports: Vec<DnsPort>,
}

impl DnsEndpoint {
    /// The label of the endpoint's own name: its host name, or its address with dashes.
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
            _ => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}

/// Seconds that answers may be kept: as in Kubernetes, few, because pods come and go.
pub(crate) const TTL: u32 = 5;

/// Services by name and by address.
#[derive(Clone, Debug)]
pub struct DnsView {
    pub(crate) domain: String,
    pub(crate) serial: u32,
    pub(crate) dns_service: Option<IpAddr>,
    pub(crate) services: HashMap<(String, String), DnsService>,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) names_by_address: HashMap<IpAddr, Vec<String>>,
}

impl DnsView {
    /// A view of `services` under `domain` (`cluster.local`). `namespaces` are those that exist,
    /// with or without services; `serial` goes into the SOA record and should grow.
    pub fn new(
        domain: &str,
        serial: u32,
        namespaces: impl IntoIterator<Item = String>,
        services: Vec<DnsService>,
    ) -> Self {
        let mut view = Self {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            serial,
            dns_service: None,
            services: HashMap::with_capacity(services.len()),
            namespaces: namespaces.into_iter().collect(),
            names_by_address: HashMap::new(),
        };
        for service in services {
            view.insert(service);
        }
        view
    }

    /// Sets the address of the cluster DNS service, which the zone's name server record names.
    pub fn with_dns_service(mut self, address: Ipv4Addr) -> Self {
        self.dns_service = Some(IpAddr::V4(address));
        self
    }

    fn insert(&mut self, service: DnsService) {
        let base = format!("{}.{}.svc.{}", service.name, service.namespace, self.domain);
        match &service.target {
            DnsTarget::ClusterIps(addresses) => {
                for address in addresses {
                    self.names_by_address.entry(*address).or_default().push(base.clone());
                }
            }
            DnsTarget::Headless => {
                for endpoint in service.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
                    let name = format!("{}.{base}", endpoint.label());
                    self.names_by_address.entry(endpoint.address).or_default().push(name);
                }
            }
            DnsTarget::ExternalName(_) => {}
        }
        self.namespaces.insert(service.namespace.clone());
        self.services.insert((service.namespace.clone(), service.name.clone()), service);
    }
}

impl Default for DnsView {
    fn default() -> Self {
        Self::new("cluster.local", 1, [], Vec::new())
    }
}
