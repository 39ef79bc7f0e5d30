//! Bridge networks that the engine itself keeps, for agents that leave the pod network to it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A bridge network to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Its name, unique on the machine.
    pub name: String,
    /// The name of the bridge interface, at most 15 letters.
    pub bridge: String,
    /// `10.244.1.0/24`.
    pub subnet: String,
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// What [`crate::Runtime::list_networks`] finds it by.
    pub labels: BTreeMap<String, String>,
    /// The interfaces' MTU, else the engine's.
    pub mtu: Option<u32>,
    /// Containers of this network may talk to each other.
    pub inter_container: bool,
    /// The engine rewrites the source address of what leaves the network. A pod network wants this
    /// off: pods see each other's own addresses.
    pub masquerade: bool,
}

/// A network that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its driver: `bridge`.
    pub driver: String,
    /// The name of the bridge interface, when one was given.
    pub bridge: String,
    /// Its subnet, or empty.
    pub subnet: String,
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}
