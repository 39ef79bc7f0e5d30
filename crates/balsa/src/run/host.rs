//! What is found out about this machine: its name and its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Interfaces that containers and clusters make, whose addresses nobody outside can reach.
const INNER: [&str; 7] = ["docker", "br-", "veth", "virbr", "cni", "balsa-", "blv"];

/// The machine's name, as a node's name.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// The address at which others reach this machine: that of its default route, else its first, else
/// loopback.
pub(crate) fn address() -> IpAddr {
    by_route().or_else(by_interface).unwrap_or(Ipv4Addr::LOCALHOST).into()
}

/// Where a packet to the outside would come from. Nothing is sent.
fn by_route() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback()),
        SocketAddr::V6(_) => None,
    }
}

fn by_interface() -> Option<Ipv4Addr> {
    let usable = |name: &str| !INNER.iter().any(|prefix| name.starts_with(prefix));
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|interface| usable(&interface.interface_name))
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_can_be_a_node() {
        assert!(balsa_model::meta::dns1123_subdomain(&super::name()).is_empty());
        assert!(super::address().is_ipv4());
    }
}
