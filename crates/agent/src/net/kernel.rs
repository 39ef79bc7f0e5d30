//! The seam on balsa-net: bridge and veths, nftables or listeners, the resolver.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use async_trait::async_trait;
use balsa_net::dns::{DnsConfig, HostResolv};
use balsa_net::pod::{bridge_name, host_ports_table};
use balsa_net::proxy::{detect, table_of};
use balsa_net::{
    DnsServer, DnsView, Ipam, NetError, Netns, NodeNetworkConfig, PodNetwork, PodNetworking, ProxyInput,
    ProxyMode, ServiceProxy,
};
use ipnet::Ipv4Net;
use tokio::sync::{Mutex, OnceCell};

use super::health::{HealthCheck, HealthPorts};

/// What the network of a node is made from.
#[derive(Clone, Debug)]
pub struct KernelNetworkConfig {
    /// The cluster's name; the services' rules are named after it.
    pub cluster: String,
    /// The node's name; the bridge is named after it and the cluster.
    pub node_name: String,
    /// Addresses of all pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of services.
    pub service_cidr: Option<Ipv4Net>,
    /// The cluster DNS service's address.
    pub cluster_dns: Option<Ipv4Addr>,
    /// Whether the node runs a resolver of its own.
    pub serve_dns: bool,
}

impl KernelNetworkConfig {
    /// The usual configuration.
    pub fn new(cluster: &str, node_name: &str, cluster_cidr: Ipv4Net) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node_name: node_name.to_owned(),
            cluster_cidr,
            service_cidr: None,
            cluster_dns: None,
            serve_dns: true,
        }
    }
}

struct Started {
    pods: PodNetwork,
    ipam: Ipam,
    known: HashMap<String, Ipv4Addr>,
    dns: Option<DnsServer>,
}

/// A node's network in the kernel.
pub struct KernelNetwork {
    config: KernelNetworkConfig,
    started: Mutex<Option<Started>>,
    /// What names led to when the resolver was not there yet.
    view: Mutex<DnsView>,
    proxy: OnceCell<(ServiceProxy, String)>,
    host_ports: OnceCell<ServiceProxy>,
    health: Mutex<HealthPorts>,
}

impl KernelNetwork {
    /// Nothing is touched before [`super::NodeNetwork::start`].
    pub fn new(config: KernelNetworkConfig) -> Self {
        Self {
            config,
            started: Mutex::default(),
            view: Mutex::default(),
            proxy: OnceCell::new(),
            host_ports: OnceCell::new(),
            health: Mutex::default(),
        }
    }

    /// Host ports are each node's own, so each node has a proxy for them.
    async fn host_ports(&self) -> &ServiceProxy {
        let mode = self.proxy().await.0.mode();
        let bridge = bridge_name(&self.config.cluster, &self.config.node_name);
        let make = async || ServiceProxy::new(mode, &host_ports_table(&bridge), Netns::Current);
        self.host_ports.get_or_init(make).await
    }

    async fn proxy(&self) -> &(ServiceProxy, String) {
        self.proxy
            .get_or_init(|| async {
                let found = detect(&Netns::Current).await;
                let text = match found.mode {
                    ProxyMode::Nftables => found.mode.name().to_owned(),
                    ProxyMode::Userspace => format!("{} ({})", found.mode.name(), found.reason),
                };
                (ServiceProxy::new(found.mode, &table_of(&self.config.cluster), Netns::Current), text)
            })
            .await
    }

    async fn serve_dns(&self, pods: &PodNetwork) -> Option<DnsServer> {
        if !self.config.serve_dns {
            return None;
        }
        let gateway = SocketAddr::from((pods.config().gateway(), 53));
        let loopback = pods.report().dns_on_loopback.map(|address| SocketAddr::from((address, 53)));
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let config = DnsConfig {
            listen: std::iter::once(gateway).chain(loopback).collect(),
            upstreams: HostResolv::parse(&host).upstreams(),
            ..DnsConfig::default()
        };
        let view = self.view.lock().await.clone();
        let alone = DnsConfig { listen: vec![gateway], ..config.clone() };
        let started = match DnsServer::start(config, view.clone()).await {
            // Another node of this machine answers at the address that they share.
            Err(NetError::Listen { address, .. }) if Some(address) == loopback => {
                DnsServer::start(alone, view).await
            }
            other => other,
        };
        match started {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::error!(%error, "the node has no resolver");
                None
            }
        }
    }
}

#[async_trait]
impl super::NodeNetwork for KernelNetwork {
    async fn start(&self, pod_cidr: Ipv4Net) -> Result<(), NetError> {
        let (cluster, node) = (&self.config.cluster, &self.config.node_name);
        let mut config = NodeNetworkConfig::new(cluster, node, pod_cidr, self.config.cluster_cidr);
        config.service_cidr = self.config.service_cidr;
        config.cluster_dns = self.config.cluster_dns;
        let pods = PodNetwork::ensure(config).await?;
        for warning in &pods.report().warnings {
            tracing::warn!(warning, "pod network");
        }
        let mut started = self.started.lock().await;
        if let Some(started) = started.as_mut() {
            started.pods = pods;
            return Ok(());
        }
        let links = pods.interfaces().await?;
        let ipam = Ipam::rebuild(pod_cidr, links.iter().map(|link| link.address));
        let known = links.into_iter().map(|link| (link.pod_uid, link.address)).collect();
        let dns = self.serve_dns(&pods).await;
        *started = Some(Started { pods, ipam, known, dns });
        Ok(())
    }

    async fn attach(&self, pod_uid: &str, netns: Option<&Path>) -> Result<Ipv4Addr, NetError> {
        let path =
            netns.ok_or_else(|| NetError::Config("the sandbox has no network namespace".to_owned()))?;
        let (address, pods) = {
            let mut started = self.started.lock().await;
            let not_started = || NetError::Config("the pod network has not started".to_owned());
            let started = started.as_mut().ok_or_else(not_started)?;
            let address = match started.known.get(pod_uid) {
                Some(address) => *address,
                None => {
                    let address = started.ipam.allocate()?;
                    started.known.insert(pod_uid.to_owned(), address);
                    address
                }
            };
            (address, started.pods.clone())
        };
        pods.attach(&Netns::Path(path.to_owned()), address, pod_uid).await?;
        Ok(address)
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        let pods = match self.started.lock().await.as_ref() {
            Some(started) => started.pods.clone(),
            None => return Ok(()),
        };
        pods.detach(pod_uid).await?;
        if let Some(started) = self.started.lock().await.as_mut()
            && let Some(address) = started.known.remove(pod_uid)
        {
            started.ipam.release(address);
        }
        Ok(())
    }

    async fn attached(&self) -> Vec<String> {
        self.started.lock().await.as_ref().map(|s| s.known.keys().cloned().collect()).unwrap_or_default()
    }

    async fn sync_services(&self, input: &ProxyInput) -> Result<(), NetError> {
        self.proxy().await.0.sync(input).await.map(drop)
    }

    async fn sync_host_ports(&self, input: &ProxyInput) -> Result<(), NetError> {
        let proxy = self.host_ports().await;
        if input.services.is_empty() {
            // Also what an earlier run of the agent left.
            return proxy.remove().await;
        }
        proxy.sync(input).await.map(drop)
    }

    async fn sync_health(&self, checks: &BTreeMap<u16, HealthCheck>) -> Result<(), NetError> {
        let lease = format!("health/{}", table_of(&self.config.cluster));
        self.health.lock().await.sync(&lease, checks).await
    }

    async fn sync_dns(&self, view: DnsView) {
        if let Some(dns) = self.started.lock().await.as_ref().and_then(|started| started.dns.as_ref()) {
            dns.update(view.clone());
        }
        *self.view.lock().await = view;
    }

    async fn proxy_mode(&self) -> String {
        self.proxy().await.1.clone()
    }

    async fn stop(&self) {
        self.health.lock().await.close();
        let dns = self.started.lock().await.as_mut().and_then(|started| started.dns.take());
        if let Some(dns) = dns {
            dns.shutdown().await;
        }
    }
}
