//! The service proxy: packets for a service's address go to one of its endpoints.
//!
//! ```text
//!   ProxyInput ── rules() ──▶ RuleSet ── diff(old, new) ──▶ one nft transaction
//!        └──────────────────▶ plan() ─────────────────────▶ listeners (userspace)
//! ```
//!
//! Rules belong to the network namespace, not to a node. Where several agents share one machine,
//! the first to ask programs the rules; the others stand by and take over when it is gone. Who is
//! first is decided by a [`Lease`](crate::Lease) named after the table.

mod input;
mod kernel;
pub(crate) mod nft;
mod rules;
mod ruleset;
mod userspace;

use std::time::Duration;

pub use input::{Protocol, ProxyEndpoint, ProxyInput, ProxyPort, ProxyService, usable};
pub use rules::{StaleFlow, rules, stale_udp};
pub use ruleset::{Chain, RuleSet, Set, diff};
pub use userspace::{Backend, Frontend, plan};
pub(crate) use userspace::{bind_tcp, bind_udp};

use crate::error::NetError;
use crate::netns::Netns;

/// The table of a cluster's service proxy: each cluster on a machine has its own.
pub fn table_of(cluster: &str) -> String {
    format!("balsa_services_{}", cluster.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// How services are reached on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// By rules in the kernel.
    Nftables,
    /// By listening sockets in the agent.
    Userspace,
}

impl ProxyMode {
    /// The name in the node's info.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Userspace => "userspace",
        }
    }
}

/// Which mode can be used, and why: for the node's info.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The mode.
    pub mode: ProxyMode,
    /// Why this one, in words.
    pub reason: String,
}

/// Finds out whether this process may change nftables rules in `netns`.
pub async fn detect(netns: &Netns) -> Detection {
    match netns.run(nft::check_permitted).await {
        Ok(()) => Detection { mode: ProxyMode::Nftables, reason: "nftables can be changed".into() },
        Err(error) => Detection { mode: ProxyMode::Userspace, reason: error.to_string() },
    }
}

/// What a sync did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// The kernel (or the listeners) had to change, by this many commands.
    Changed(usize),
    /// Everything was right already.
    Unchanged,
    /// Another agent of this machine programs the rules.
    Standby,
}

/// Brings services into effect on this machine.
pub struct ServiceProxy {
    mode: ProxyMode,
    way: tokio::sync::Mutex<Way>,
}

enum Way {
    Kernel(kernel::Kernel),
    Userspace(userspace::Userspace),
}

impl ServiceProxy {
    /// How often to call [`ServiceProxy::sync`] when nothing changes.
    pub const PERIOD: Duration = Duration::from_secs(5);

    /// A proxy that has not programmed anything yet. `table` is [`table_of`] the cluster.
    pub fn new(mode: ProxyMode, table: &str, netns: Netns) -> Self {
        let way = match mode {
            ProxyMode::Nftables => Way::Kernel(kernel::Kernel::new(table, netns)),
            ProxyMode::Userspace => Way::Userspace(userspace::Userspace::new(table, netns)),
        };
        Self { mode, way: tokio::sync::Mutex::new(way) }
    }

    /// The mode it was made for.
    pub fn mode(&self) -> ProxyMode {
        self.mode
    }

    /// Makes `input` true. Call it on every change, and every [`ServiceProxy::PERIOD`] without one:
    /// a standby takes over then. The first call and the one after an error replace everything.
    pub async fn sync(&self, input: &ProxyInput) -> Result<Synced, NetError> {
        match &mut *self.way.lock().await {
            Way::Kernel(kernel) => kernel.sync(input).await,
            Way::Userspace(userspace) => userspace.sync(input).await,
        }
    }

    /// Removes the rules of a machine (or closes the listeners): for `balsa down`. An agent that
    /// just stops leaves them, so that services go on.
    pub async fn remove(&self) -> Result<(), NetError> {
        match &mut *self.way.lock().await {
            Way::Kernel(kernel) => kernel.remove().await,
            Way::Userspace(userspace) => userspace.remove().await,
        }
    }

    /// Removes a table also when its agent is long gone.
    pub async fn remove_table(netns: &Netns, table: &str) -> Result<(), NetError> {
        let table = table.to_owned();
        netns.run(move || nft::remove_table(&table)).await
    }
}
