//! The node's network as the agent sees it: a seam with an implementation on balsa-net and one that
//! only counts addresses, for simulated nodes and tests.

mod health;
mod kernel;
pub(crate) mod shown;
pub(crate) mod wiring;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use balsa_net::{DnsView, Ipam, NetError, ProxyInput};
use ipnet::Ipv4Net;

pub use health::HealthCheck;
pub use kernel::{KernelNetwork, KernelNetworkConfig};

/// The network of a node.
#[async_trait]
pub trait NodeNetwork: Send + Sync {
    /// Prepares the node for pods with addresses of `pod_cidr`. Safe to call again.
    async fn start(&self, pod_cidr: Ipv4Net) -> Result<(), NetError>;

    /// Gives a pod's sandbox its address; the same one when it has one. `netns` is none where no
    /// process stands behind a sandbox.
    async fn attach(&self, pod_uid: &str, netns: Option<&Path>) -> Result<Ipv4Addr, NetError>;

    /// Takes a pod's address back.
    async fn detach(&self, pod_uid: &str) -> Result<(), NetError>;

    /// The pods that have an address.
    async fn attached(&self) -> Vec<String>;

    /// Makes services true on this machine.
    async fn sync_services(&self, input: &ProxyInput) -> Result<(), NetError>;

    /// Makes the host ports of this node's pods true.
    async fn sync_host_ports(&self, input: &ProxyInput) -> Result<(), NetError>;

    /// Answers those who ask at these ports whether there are pods of a service on this machine.
    async fn sync_health(&self, checks: &BTreeMap<u16, HealthCheck>) -> Result<(), NetError>;

    /// What names lead to, from now on.
    async fn sync_dns(&self, view: DnsView);

    /// How services are reached, for the node's info: `nftables`, or `userspace (reason)`.
    async fn proxy_mode(&self) -> String;

    /// Takes away what only serves while the agent runs. Pods keep their network.
    async fn stop(&self);
}

/// The network that an agent is given.
pub type NetworkSeam = Arc<dyn NodeNetwork>;

/// Hands out addresses and does nothing else.
#[derive(Default)]
pub struct CountedNetwork {
    state: Mutex<Option<(Ipam, HashMap<String, Ipv4Addr>)>>,
}

impl CountedNetwork {
    fn lock(&self) -> MutexGuard<'_, Option<(Ipam, HashMap<String, Ipv4Addr>)>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl NodeNetwork for CountedNetwork {
    async fn start(&self, pod_cidr: Ipv4Net) -> Result<(), NetError> {
        self.lock().get_or_insert_with(|| (Ipam::new(pod_cidr), HashMap::new()));
        Ok(())
    }

    async fn attach(&self, pod_uid: &str, _netns: Option<&Path>) -> Result<Ipv4Addr, NetError> {
        let mut state = self.lock();
        let not_started = || NetError::Config("the pod network has not started".to_owned());
        let (ipam, known) = state.as_mut().ok_or_else(not_started)?;
        if let Some(address) = known.get(pod_uid) {
            return Ok(*address);
        }
        let address = ipam.allocate()?;
        known.insert(pod_uid.to_owned(), address);
        Ok(address)
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        if let Some((ipam, known)) = self.lock().as_mut()
            && let Some(address) = known.remove(pod_uid)
        {
            ipam.release(address);
        }
        Ok(())
    }

    async fn attached(&self) -> Vec<String> {
        self.lock().as_ref().map(|(_, known)| known.keys().cloned().collect()).unwrap_or_default()
    }

    async fn sync_services(&self, _input: &ProxyInput) -> Result<(), NetError> {
        Ok(())
    }

    async fn sync_host_ports(&self, _input: &ProxyInput) -> Result<(), NetError> {
        Ok(())
    }

    async fn sync_health(&self, _checks: &BTreeMap<u16, HealthCheck>) -> Result<(), NetError> {
        Ok(())
    }

    async fn sync_dns(&self, _view: DnsView) {}

    async fn proxy_mode(&self) -> String {
        "none (simulated)".to_owned()
    }

    async fn stop(&self) {}
}
