//! Pod addresses of one node: a pure allocator over its pod CIDR.
//!
//! State is disposable: after a restart it is rebuilt from the interfaces that exist. Addresses
//! are handed out next-fit, so that one that was just freed (and may still be in somebody's
//! connection table or DNS cache) is the last to be used again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::NetError;

/// Hands out the addresses of a pod CIDR, without network, gateway and broadcast address.
#[derive(Clone, Debug)]
pub struct Ipam {
    cidr: Ipv4Net,
    used: BTreeSet<u32>,
    next: u32,
}

impl Ipam {
    /// An allocator with nothing handed out.
    pub fn new(cidr: Ipv4Net) -> Self {
        let cidr = cidr.trunc();
        let mut ipam = Self { cidr, used: BTreeSet::new(), next: 0 };
        ipam.next = ipam.first();
        ipam
    }

    /// An allocator that knows what runs; addresses of other CIDRs are ignored. It goes on after
    /// the highest address in use, which is the best guess at what was handed out last.
    pub fn rebuild(cidr: Ipv4Net, in_use: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let mut ipam = Self::new(cidr);
        for address in in_use {
            // A foreign address does not keep any of ours busy.
            let _ = ipam.reserve(address);
        }
        if let Some(highest) = ipam.used.last() {
            ipam.next = ipam.after(*highest);
        }
        ipam
    }

    /// The gateway address of a pod CIDR: its first host address, which the bridge has.
    pub fn gateway(cidr: Ipv4Net) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(cidr.network()).saturating_add(1))
    }

    /// The CIDR it allocates from.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// A free address.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, NetError> {
        if self.first() > self.last() {
            return Err(NetError::Exhausted(self.cidr));
        }
        let free = |from: u32, to: u32| (from..=to).find(|address| !self.used.contains(address));
        let start = self.next;
        let found = free(start, self.last()).or_else(|| free(self.first(), start.saturating_sub(1)));
        let address = found.ok_or(NetError::Exhausted(self.cidr))?;
        self.used.insert(address);
        self.next = self.after(address);
        Ok(Ipv4Addr::from(address))
    }

    /// Marks an address as taken; true if it was free.
    pub fn reserve(&mut self, address: Ipv4Addr) -> Result<bool, NetError> {
        let number = u32::from(address);
        if number < self.first() || number > self.last() {
            return Err(NetError::NotInCidr { address, cidr: self.cidr });
        }
        Ok(self.used.insert(number))
    }

    /// Gives an address back; true if it was taken.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        self.used.remove(&u32::from(address))
    }

    /// How many are handed out.
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    fn first(&self) -> u32 {
        u32::from(self.cidr.network()).saturating_add(2)
    }

    fn last(&self) -> u32 {
        u32::from(self.cidr.broadcast()).saturating_sub(1)
    }

    fn after(&self, address: u32) -> u32 {
        if address >= self.last() { self.first() } else { address + 1 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cidr(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn skips_network_gateway_and_broadcast() {
        let mut ipam = Ipam::new(cidr("10.1.0.0/29"));
        let all: Vec<_> = std::iter::from_fn(|| ipam.allocate().ok()).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        assert!(matches!(ipam.allocate(), Err(NetError::Exhausted(_))));
        assert_eq!(Ipam::gateway(cidr("10.1.0.0/29")).to_string(), "10.1.0.1");
    }

    #[test]
    fn a_freed_address_is_the_last_to_come_back() {
        let mut ipam = Ipam::new(cidr("10.1.0.0/29"));
        let first = ipam.allocate().unwrap();
        assert!(ipam.release(first) && !ipam.release(first));
        let next: Vec<_> = std::iter::from_fn(|| ipam.allocate().ok()).collect();
        assert_eq!(next.len(), 5);
        assert_eq!(next.last(), Some(&first));
    }

    #[test]
    fn is_rebuilt_from_what_runs() {
        let used = ["10.1.0.2", "10.1.0.4", "10.9.9.9"].map(|a| a.parse().unwrap());
        let mut ipam = Ipam::rebuild(cidr("10.1.0.0/29"), used);
        assert_eq!(ipam.in_use(), 2);
        assert_eq!(ipam.allocate().unwrap().to_string(), "10.1.0.5");
        assert!(!ipam.reserve("10.1.0.4".parse().unwrap()).unwrap());
        assert!(ipam.reserve("10.1.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn tiny_cidrs_have_no_addresses() {
        for text in ["10.1.0.0/32", "10.1.0.0/31", "10.1.0.0/30"] {
            let mut ipam = Ipam::new(cidr(text));
            let count = std::iter::from_fn(|| ipam.allocate().ok()).count();
            assert_eq!(count, usize::from(text.ends_with("/30")), "{text}");
        }
    }
}
