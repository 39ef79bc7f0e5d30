//! What can go wrong below the agent, said so that an operator knows what to do.

use std::net::{Ipv4Addr, SocketAddr};

/// An error of the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A namespace could not be entered; usually the sandbox is gone.
    #[error("cannot enter network namespace {netns}: {source}")]
    EnterNamespace {
        /// Which one.
        netns: String,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused a link, address or route.
    #[error("cannot {action}: {message}")]
    Netlink {
        /// What was tried.
        action: String,
        /// What the kernel said.
        message: String,
    },
    /// A tool is missing or failed.
    #[error("{program} failed while trying to {action}: {message}")]
    Tool {
        /// Its name.
        program: String,
        /// What it was to do.
        action: String,
        /// What it said.
        message: String,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {setting}: {source}")]
    Setting {
        /// Its path.
        setting: String,
        /// Why.
        source: std::io::Error,
    },
    /// The pod CIDR is used up.
    #[error("no free address in {0}; give the node a larger pod CIDR")]
    Exhausted(ipnet::Ipv4Net),
    /// An address that is not this node's to give.
    #[error("address {address} is not a pod address of {cidr}")]
    NotInCidr {
        /// The address.
        address: Ipv4Addr,
        /// The node's pod CIDR.
        cidr: ipnet::Ipv4Net,
    },
    /// Somebody else has the port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration that cannot work.
    #[error("{0}")]
    Config(String),
    /// A helper thread or task ended without an answer.
    #[error("the network worker ended early")]
    WorkerGone,
}

impl NetError {
    pub(crate) fn netlink(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        Self::Netlink { action: action.into(), message: error.to_string() }
    }
}
