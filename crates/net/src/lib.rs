//! Pod network, service proxy and DNS: pure rules, then what applies them.
//!
//! ```text
//!            what the agent knows (plain structs)
//!      │                  │                     │
//!  NodeNetworkConfig  ProxyInput             DnsView
//!      │              rules() → RuleSet         │
//!      │              diff() → one transaction  answer()
//!  PodNetwork         ServiceProxy           DnsServer
//!  bridge, veth       nftables | listeners   UDP and TCP on the gateway address
//! ```
//!
//! Nothing here knows the API: the agent translates objects into the structs above. What is in
//! the kernel is found by name and alias, so that a restarted agent adopts it and `teardown` leaves
//! nothing behind. IPv4 only, as long as the cluster is.
//!
//! What an agent does, in order: [`PodNetwork::ensure`] with the cluster DNS address in its
//! configuration; [`DnsServer::start`] on the gateway address, port 53; [`Ipam::rebuild`] from
//! [`PodNetworking::interfaces`]; then `attach` and `detach` as pods come and go, and
//! [`ServiceProxy::sync`] and [`DnsServer::update`] whenever services or endpoints change.

pub mod dns;
mod error;
mod hash;
mod ipam;
mod lease;
pub mod metrics;
mod netns;
pub mod pod;
pub mod proxy;

pub use dns::{DnsServer, DnsView};
pub use error::NetError;
pub use ipam::Ipam;
pub use lease::Lease;
pub use netns::Netns;
pub use pod::{NodeNetworkConfig, PodInterface, PodNetwork, PodNetworking};
pub use proxy::{ProxyInput, ProxyMode, ServiceProxy};
