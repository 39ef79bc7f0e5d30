//! Service addresses on `lo`, for a proxy that has to listen on them.
//!
//! They carry a label of their owner, by which the next process finds what one that died had put there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::link;
use crate::error::NetError;
use crate::netns::Netns;

/// The addresses of one owner on `lo`.
pub(crate) struct LoopbackAddresses {
    owner: String,
    netns: Netns,
    /// What is there; none: not looked yet.
    known: Option<BTreeSet<Ipv4Addr>>,
    refused: bool,
}

impl LoopbackAddresses {
    pub(crate) fn new(owner: &str, netns: Netns) -> Self {
        Self { owner: owner.to_owned(), netns, known: None, refused: false }
    }

    /// Whether an address can be listened on.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.known.as_ref().is_some_and(|known| known.contains(&address))
    }

    /// Makes `wanted` what is there; true if that changed anything. Without the right to do so
    /// nothing is there, which is said once in the log.
    pub(crate) async fn set(&mut self, wanted: BTreeSet<Ipv4Addr>) -> Result<bool, NetError> {
        if self.refused {
            return Ok(false);
        }
        let present = match &self.known {
            Some(known) => known.clone(),
            None => self.present().await?,
        };
        let added: Vec<_> = wanted.difference(&present).copied().collect();
        let removed: Vec<_> = present.difference(&wanted).copied().collect();
        if added.is_empty() && removed.is_empty() {
            self.known = Some(wanted);
            return Ok(false);
        }
        let owner = self.owner.clone();
        let work = move || {
            added.into_iter().try_for_each(|address| link::add_loopback(&owner, address))?;
            removed.into_iter().try_for_each(link::remove_loopback)
        };
        if let Err(error) = self.netns.run(work).await {
            if present.is_empty() {
                tracing::warn!(%error, "cluster IPs cannot be served on this node");
                self.refused = true;
                return Ok(false);
            }
            self.known = None;
            return Err(error);
        }
        self.known = Some(wanted);
        Ok(true)
    }

    async fn present(&self) -> Result<BTreeSet<Ipv4Addr>, NetError> {
        let owner = self.owner.clone();
        Ok(self.netns.run(move || link::loopback_of(&owner)).await?.into_iter().collect())
    }
}
