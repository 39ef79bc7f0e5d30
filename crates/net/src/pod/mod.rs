//! The pod network of one node: a bridge with the gateway address, a veth pair for each pod.
//!
//! ```text
//!   pod A                 pod B            pod of another agent on this machine
//!   eth0 10.1.0.2/32      eth0 10.1.0.3    eth0 10.1.1.2
//!     │ veth                │ veth             │
//!   ──┴──── balsa-1a… ──────┴──             ───┴── balsa-7c… ──
//!            10.1.0.1 (gateway, DNS)               10.1.1.1
//!                 └────────── routed by the kernel ─────┘
//! ```
//!
//! Design notes:
//! - A pod's address is a /32 and everything goes through the gateway, also to a pod on the same
//!   bridge. So every packet crosses the kernel's routing and connection tracking, and replies of
//!   a service's endpoint are translated back without `br_netfilter`.
//! - The alias of a pod's host link is written last; it carries the pod's UID and address. A link
//!   without it is what a crash left of an `attach`, and is made anew.
//! - MAC addresses are made from IP addresses: when an address is used again, what neighbours
//!   remember is still right.
//! - Docker drops forwarded traffic by default. Another table cannot overrule a drop, so the
//!   accept rules go into `DOCKER-USER`, or into `FORWARD` where there is no Docker.
//! - Other machines will be reached by routes to their pod CIDRs, or over VXLAN with the same
//!   bridge; nothing here assumes that the cluster CIDR ends at this machine.

mod filter;
mod link;
mod loopback;
mod routes;

use std::net::Ipv4Addr;

use async_trait::async_trait;
use ipnet::Ipv4Net;

use crate::error::NetError;
use crate::hash::short;
use crate::ipam::Ipam;
use crate::netns::Netns;

pub use filter::host_ports_table;
pub(crate) use loopback::LoopbackAddresses;
pub use routes::{Occupied, occupied};

/// Prefix of every bridge that Balsa makes.
pub const BRIDGE_PREFIX: &str = "balsa-";
/// Prefix of the host end of every pod's link.
pub const LINK_PREFIX: &str = "blv";

/// What the node's network is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetworkConfig {
    /// The cluster's name: a machine may have nodes of several, with the same names.
    pub cluster: String,
    /// The node's name.
    pub node_name: String,
    /// Name of its bridge, at most 15 characters ([`bridge_name`]).
    pub bridge: String,
    /// The node's pod CIDR; its first host address is the gateway.
    pub pod_cidr: Ipv4Net,
    /// All pods' addresses: traffic from pods to elsewhere is masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Cluster IPs. A route to them through the bridge lets the host's own programs reach
    /// services on a machine without a default route.
    pub service_cidr: Option<Ipv4Net>,
    /// The cluster DNS address, led to the gateway's port 53 ([`crate::DnsServer`] listens there).
    pub cluster_dns: Option<Ipv4Addr>,
    /// MTU of pods and bridge.
    pub mtu: u32,
    /// Where the bridge lives; anything but `Current` is for tests.
    pub netns: Netns,
}

impl NodeNetworkConfig {
    /// The usual configuration of a node.
    pub fn new(cluster: &str, node_name: &str, pod_cidr: Ipv4Net, cluster_cidr: Ipv4Net) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node_name: node_name.to_owned(),
            bridge: bridge_name(cluster, node_name),
            pod_cidr: pod_cidr.trunc(),
            cluster_cidr: cluster_cidr.trunc(),
            service_cidr: None,
            cluster_dns: None,
            mtu: 1500,
            netns: Netns::Current,
        }
    }

    /// The bridge's address, which is the pods' gateway and where DNS listens.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipam::gateway(self.pod_cidr)
    }
}

/// The bridge of a cluster's node: 14 characters, the same after every restart.
pub fn bridge_name(cluster: &str, node_name: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", short(&format!("{cluster} {node_name}"), 8))
}

/// A pod's end of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// The pod's UID.
    pub pod_uid: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The link on the host.
    pub host_link: String,
}

/// What `ensure` found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkReport {
    /// Rules are in nftables; if not, iptables does the masquerading.
    pub nftables: bool,
    /// nftables is not there, so the cluster DNS address was put on `lo`: the resolver has to
    /// listen on it as well as on the gateway.
    pub dns_on_loopback: Option<Ipv4Addr>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A bridge that Balsa made, whoever runs it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedBridge {
    /// Its name.
    pub bridge: String,
    /// The cluster it belongs to.
    pub cluster: String,
    /// The node it belongs to.
    pub node_name: String,
}

/// Gives sandboxes their network. The agent uses it as a trait object, so that a simulated node
/// needs no kernel.
#[async_trait]
pub trait PodNetworking: Send + Sync {
    /// Connects a sandbox; done again for the same pod, sandbox and address it changes nothing.
    async fn attach(
        &self,
        sandbox: &Netns,
        address: Ipv4Addr,
        pod_uid: &str,
    ) -> Result<PodInterface, NetError>;

    /// Removes a pod's link, if there is one.
    async fn detach(&self, pod_uid: &str) -> Result<(), NetError>;

    /// The pods that are connected, from the kernel.
    async fn interfaces(&self) -> Result<Vec<PodInterface>, NetError>;
}

/// The network of this node.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    config: NodeNetworkConfig,
    report: NetworkReport,
}

impl PodNetwork {
    /// Makes or repairs bridge, gateway address, forwarding and rules. Safe to call again at any
    /// time; agents do so periodically, because firewall tools flush what they do not know.
    pub async fn ensure(config: NodeNetworkConfig) -> Result<Self, NetError> {
        if config.bridge.is_empty() || config.bridge.len() > 15 {
            return Err(NetError::Config(format!(
                "bridge name {:?} must have 1 to 15 characters",
                config.bridge
            )));
        }
        if config.pod_cidr.prefix_len() > 30 {
            return Err(NetError::Config(format!("pod CIDR {} has no room for pods", config.pod_cidr)));
        }
        let wanted = config.clone();
        let report = config
            .netns
            .run(move || {
                link::ensure_bridge(&wanted)?;
                filter::ensure(&wanted)
            })
            .await?;
        Ok(Self { config, report })
    }

    /// Its configuration.
    pub fn config(&self) -> &NodeNetworkConfig {
        &self.config
    }

    /// What `ensure` found out.
    pub fn report(&self) -> &NetworkReport {
        &self.report
    }

    /// Removes the bridge, the links of its pods, and its rules.
    pub async fn teardown(&self) -> Result<(), NetError> {
        Self::remove(&self.config.netns, &self.config.bridge).await
    }

    /// Removes everything that belongs to a bridge, also when its agent is long gone.
    pub async fn remove(netns: &Netns, bridge: &str) -> Result<(), NetError> {
        let bridge = bridge.to_owned();
        netns
            .run(move || {
                filter::remove(&bridge)?;
                link::remove_bridge(&bridge)
            })
            .await
    }

    /// The bridges that Balsa made in a namespace; `balsa down` removes those of its cluster's nodes.
    pub async fn owned(netns: &Netns) -> Result<Vec<OwnedBridge>, NetError> {
        netns.run(link::owned_bridges).await
    }
}

#[async_trait]
impl PodNetworking for PodNetwork {
    async fn attach(
        &self,
        sandbox: &Netns,
        address: Ipv4Addr,
        pod_uid: &str,
    ) -> Result<PodInterface, NetError> {
        if !self.config.pod_cidr.contains(&address) || address == self.config.gateway() {
            return Err(NetError::NotInCidr { address, cidr: self.config.pod_cidr });
        }
        let interface = PodInterface {
            pod_uid: pod_uid.to_owned(),
            address,
            host_link: link_name(&self.config.bridge, pod_uid),
        };
        let target = sandbox.open()?;
        let (config, wanted) = (self.config.clone(), interface.clone());
        let made = self.config.netns.run(move || link::make_pair(&config, &wanted, &target)).await?;
        let (gateway, mtu) = (self.config.gateway(), self.config.mtu);
        if !made && sandbox.run(move || link::is_configured(address)).await? {
            return Ok(interface);
        }
        sandbox.run(move || link::configure_pod(address, gateway, mtu)).await?;
        let (config, wanted) = (self.config.clone(), interface.clone());
        self.config.netns.run(move || link::plug_in(&config, &wanted)).await?;
        Ok(interface)
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        let name = link_name(&self.config.bridge, pod_uid);
        self.config.netns.run(move || link::remove_link(&name)).await
    }

    async fn interfaces(&self) -> Result<Vec<PodInterface>, NetError> {
        let bridge = self.config.bridge.clone();
        self.config.netns.run(move || link::pod_links(&bridge)).await
    }
}

fn link_name(bridge: &str, pod_uid: &str) -> String {
    format!("{LINK_PREFIX}{}", short(&format!("{bridge} {pod_uid}"), 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_do_not_collide() {
        let names: Vec<_> =
            ["node", "node-1", "a-very-long-node-name.example.org"].map(|node| bridge_name("c", node)).into();
        assert!(names.iter().all(|name| name.len() == 14));
        assert_ne!(names[0], names[1]);
        assert_eq!(names[0], bridge_name("c", "node"), "names survive restarts");
        assert_ne!(names[0], bridge_name("d", "node"), "another cluster's node of that name");
        assert!(link_name(&names[0], "uid").len() <= 15);
        assert_ne!(link_name(&names[0], "uid"), link_name(&names[1], "uid"));
    }
}
