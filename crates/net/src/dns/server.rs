//! The resolver's sockets.

use std::net::SocketAddr;

use super::view::DnsView;
use crate::error::NetError;
use crate::netns::Netns;

/// Where the resolver listens, and whom it asks.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Addresses for UDP and TCP: the gateway address with port 53. Port 0 takes the same free
    /// port for both.
    pub listen: Vec<SocketAddr>,
    /// Name servers for names that are not the cluster's ([`super::HostResolv::upstreams`]). Those
    /// that are the resolver itself are left out.
    pub upstreams: Vec<SocketAddr>,
    /// Where the sockets are; anything but `Current` is for tests.
    pub netns: Netns,
}

/// A running resolver. Dropping it stops it.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
}

impl DnsServer {
    /// Listens and answers from `view`.
    pub async fn start(_config: DnsConfig, _view: DnsView) -> Result<Self, NetError> {
        Err(NetError::Config("the resolver is still being written".into()))
    }

    /// Answers from another view from now on.
    pub fn update(&self, _view: DnsView) {}

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening and lets answers in flight go out.
    pub async fn shutdown(self) {}
}
