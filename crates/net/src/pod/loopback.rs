//! Service addresses on `lo`, for a proxy that has to listen on them.
//!
//! What a process that died had put there stays until the next one that has the same service.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::link;
use crate::error::NetError;
use crate::netns::Netns;

/// The addresses that this process put on `lo`.
pub(crate) struct LoopbackAddresses {
    netns: Netns,
    present: BTreeSet<Ipv4Addr>,
    refused: bool,
}

impl LoopbackAddresses {
    pub(crate) fn new(netns: Netns) -> Self {
        Self { netns, present: BTreeSet::new(), refused: false }
    }

    /// Whether an address can be listened on.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.present.contains(&address)
    }

    /// Makes `wanted` what is there; true if that changed anything. Without the right to do so
    /// nothing is there, which is said once in the log.
    pub(crate) async fn set(&mut self, wanted: BTreeSet<Ipv4Addr>) -> Result<bool, NetError> {
        let added: Vec<_> = wanted.difference(&self.present).copied().collect();
        let removed: Vec<_> = self.present.difference(&wanted).copied().collect();
        if self.refused || (added.is_empty() && removed.is_empty()) {
            return Ok(false);
        }
        let work = move || {
            added.into_iter().try_for_each(link::add_loopback)?;
            removed.into_iter().try_for_each(link::remove_loopback)
        };
        if let Err(error) = self.netns.run(work).await {
            if self.present.is_empty() {
                tracing::warn!(%error, "cluster IPs cannot be served on this node");
                self.refused = true;
                return Ok(false);
            }
            return Err(error);
        }
        self.present = wanted;
        Ok(true)
    }
}
