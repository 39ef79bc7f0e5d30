//! What only one process of a machine may have at a time.
//!
//! A lease is an abstract Unix socket: such sockets are private to a network namespace, as rules and
//! addresses are, and vanish with their process, so nothing stale can be left behind.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::error::NetError;
use crate::netns::Netns;

/// The right to something of the machine; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    _socket: UnixListener,
}

impl Lease {
    /// Takes what `name` says; `None` when another process (or another part of this one) has it.
    ///
    /// # Errors
    /// When the machine refuses for another reason.
    pub async fn take(netns: &Netns, name: &str) -> Result<Option<Self>, NetError> {
        let name = format!("balsa/{name}");
        netns.run(move || take(&name)).await
    }
}

fn take(name: &str) -> Result<Option<Lease>, NetError> {
    let failed = |source: std::io::Error| NetError::Config(format!("cannot take the lease {name}: {source}"));
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Ok(Some(Lease { _socket: socket })),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_has_it_at_a_time() {
        let name = format!("test-{}", std::process::id());
        let lease = Lease::take(&Netns::Current, &name).await.unwrap();
        assert!(lease.is_some());
        assert!(Lease::take(&Netns::Current, &name).await.unwrap().is_none());
        drop(lease);
        assert!(Lease::take(&Netns::Current, &name).await.unwrap().is_some());
    }
}
