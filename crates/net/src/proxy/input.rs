//! What the service proxy has to know, as plain values.
//!
//! The kernel's rules belong to the machine (to a network namespace, to be exact), not to a node:
//! several agents on one machine see the same services, and only "local" differs. So an endpoint
//! is local when it runs on any node of this machine.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

/// Everything the rules are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyInput {
    /// Where pods are: traffic from elsewhere to a service is masqueraded.
    pub cluster_cidr: Option<Ipv4Net>,
    /// Addresses that answer node ports; empty: every address of the machine.
    pub node_addresses: Vec<Ipv4Addr>,
    /// The cluster DNS address, which the pod network leads to the node's resolver.
    pub resolver: Option<Ipv4Addr>,
    /// The services, in any order. Leave out the cluster DNS service when it is reached through
    /// the pod network ([`crate::NodeNetworkConfig::cluster_dns`]); headless and ExternalName services have no rules.
    pub services: Vec<ProxyService>,
}

/// A service with an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyService {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`, the IPv4 ones.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of `status.loadBalancer.ingress` (those with `ipMode: VIP`).
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `spec.loadBalancerSourceRanges`; empty: everybody.
    pub source_ranges: Vec<Ipv4Net>,
    /// Its ports.
    pub ports: Vec<ProxyPort>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`: only local endpoints, and the client's address is kept.
    pub external_local: bool,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyPort {
    /// Its name; empty when the service has but one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the service's addresses.
    pub port: u16,
    /// The port at the nodes' addresses.
    pub node_port: Option<u16>,
    /// The one address of the node that has it; none: all of them.
    pub node_address: Option<Ipv4Addr>,
    /// Where it leads: each endpoint with the resolved target port.
    pub endpoints: Vec<ProxyEndpoint>,
}

/// One endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyEndpoint {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The target port.
    pub port: u16,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// It runs on a node of this machine.
    pub local: bool,
}

impl ProxyEndpoint {
    /// A ready endpoint on this machine.
    pub fn ready(address: Ipv4Addr, port: u16) -> Self {
        Self { address, port, ready: true, serving: true, terminating: false, local: true }
    }
}

/// A transport protocol of a service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The name in rules and in DNS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// From `spec.ports[].protocol`; what is unknown or absent is TCP.
    pub fn from_spec(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// The endpoints that get traffic: the ready ones, or if there is none, those that still serve
/// while they terminate.
pub fn usable(endpoints: &[ProxyEndpoint]) -> Vec<&ProxyEndpoint> {
    let ready: Vec<_> = endpoints.iter().filter(|e| e.ready && !e.terminating).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|e| e.serving && e.terminating).collect()
}
