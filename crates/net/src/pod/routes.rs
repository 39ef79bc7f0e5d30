//! Which addresses a machine uses already, so that a new cluster takes others.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::link::{all_links, name_of, netlink, owner_of, routes};
use crate::error::NetError;
use crate::netns::Netns;

/// Routes wider than this gather networks and are none themselves; a narrower one inside of them wins.
const WIDEST: u8 = 9;
/// The kernel's own table, of addresses and not of networks.
const LOCAL_TABLE: u8 = 255;

/// A range of addresses that a route of this machine leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The range.
    pub range: Ipv4Net,
    /// The link it leads to.
    pub link: String,
    /// The cluster whose bridge that is; none if it is nobody's we know.
    pub cluster: Option<String>,
}

/// The ranges in use in a namespace.
///
/// # Errors
/// When the kernel does not tell its routes.
pub async fn occupied(netns: &Netns) -> Result<Vec<Occupied>, NetError> {
    netns.run(read).await
}

fn read() -> Result<Vec<Occupied>, NetError> {
    netlink(async |handle| {
        let links = all_links(&handle).await?;
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut found = Vec::new();
        for route in routes(&handle, query).await? {
            let Some((range, index)) = leads(&route) else { continue };
            let link = links.iter().find(|link| link.header.index == index);
            found.push(Occupied {
                range,
                link: link.map(|link| name_of(link).to_owned()).unwrap_or_default(),
                cluster: link.and_then(owner_of).map(|owned| owned.cluster),
            });
        }
        Ok(found)
    })
}

/// Where a route leads, and by which link.
fn leads(route: &RouteMessage) -> Option<(Ipv4Net, u32)> {
    let length = route.header.destination_prefix_length;
    if length < WIDEST || route.header.table == LOCAL_TABLE {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    let link = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some((Ipv4Net::new(destination, length).ok()?.trunc(), link.unwrap_or_default()))
}
