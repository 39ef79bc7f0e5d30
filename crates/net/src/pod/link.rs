//! Links, addresses and routes through rtnetlink.
//!
//! Every function works in the namespace of the calling thread and blocks it; callers are
//! threads of [`crate::Netns::run`]. A netlink connection lives as long as one call.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{
    Error, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::{BRIDGE_PREFIX, LINK_PREFIX, NodeNetworkConfig, OwnedBridge, PodInterface};
use crate::error::NetError;
use crate::hash::{fnv, short};

const BRIDGE_ALIAS: &str = "balsa node ";
const POD_ALIAS: &str = "balsa pod ";
const POD_LINK: &str = "eth0";

/// Bridge, gateway address, forwarding, and the route to services.
pub(super) fn ensure_bridge(config: &NodeNetworkConfig) -> Result<(), NetError> {
    set("net/ipv4/ip_forward", "1")?;
    netlink(async |handle| {
        let name = &config.bridge;
        if find(&handle, name).await?.is_none() {
            let bridge = LinkBridge::new(name).mcast_snooping(false).address(bridge_mac(name));
            check(handle.link().add(bridge.build()).execute().await, || format!("make bridge {name}"))?;
        }
        let index = must_find(&handle, name).await?;
        let alias = format!("{BRIDGE_ALIAS}{} {}", config.cluster, config.node_name);
        let change = LinkUnspec::new_with_index(index).mtu(config.mtu).alias(alias).up();
        check(handle.link().set(change.build()).execute().await, || format!("set up bridge {name}"))?;
        let gateway = IpAddr::V4(config.gateway());
        let add = handle.address().add(index, gateway, config.pod_cidr.prefix_len()).replace();
        check(add.execute().await, || format!("give {gateway} to bridge {name}"))?;
        if let Some(services) = config.service_cidr {
            // The metric keeps the routes of several nodes on one machine apart.
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(services.network(), services.prefix_len())
                .output_interface(index)
                .scope(RouteScope::Link)
                .priority(1000 + index);
            let added = handle.route().add(route.build()).replace().execute().await;
            check(added, || format!("route {services} to bridge {name}"))?;
        }
        Ok(())
    })?;
    set(&format!("net/ipv4/conf/{}/route_localnet", config.bridge), "1")?;
    set(&format!("net/ipv4/conf/{}/send_redirects", config.bridge), "0")?;
    set_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", config.bridge), "1")
}

/// The bridge and every link in it.
pub(super) fn remove_bridge(bridge: &str) -> Result<(), NetError> {
    netlink(async |handle| {
        let Some(index) = find(&handle, bridge).await?.map(|link| link.header.index) else { return Ok(()) };
        for link in all_links(&handle).await? {
            if controller(&link) == Some(index) && name_of(&link).starts_with(LINK_PREFIX) {
                delete(&handle, &link).await?;
            }
        }
        match find(&handle, bridge).await? {
            Some(link) => delete(&handle, &link).await,
            None => Ok(()),
        }
    })
}

/// The bridges with our prefix and our alias.
pub(super) fn owned_bridges() -> Result<Vec<OwnedBridge>, NetError> {
    netlink(async |handle| {
        let links = all_links(&handle).await?;
        Ok(links.iter().filter_map(owner_of).collect())
    })
}

/// Whose bridge a link is, if it has our prefix and our alias.
pub(super) fn owner_of(link: &LinkMessage) -> Option<OwnedBridge> {
    let (cluster, node_name) = alias(link)?.strip_prefix(BRIDGE_ALIAS)?.split_once(' ')?;
    let bridge = name_of(link).to_owned();
    let (cluster, node_name) = (cluster.to_owned(), node_name.to_owned());
    bridge.starts_with(BRIDGE_PREFIX).then_some(OwnedBridge { bridge, cluster, node_name })
}

/// Makes the veth pair with the pod's end in the namespace `sandbox` stands for. False if the
/// pair is there already.
pub(super) fn make_pair(
    config: &NodeNetworkConfig,
    pod: &PodInterface,
    sandbox: &File,
) -> Result<bool, NetError> {
    netlink(async |handle| {
        if let Some(link) = find(&handle, &pod.host_link).await? {
            if alias(&link) == Some(pod_alias(pod).as_str()) {
                return Ok(false);
            }
            delete(&handle, &link).await?;
        }
        let peer = LinkUnspec::new_with_name(POD_LINK)
            .address(pod_mac(pod.address))
            .mtu(config.mtu)
            .setns_by_fd(sandbox.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pod.host_link.clone())
            .mtu(config.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        check(handle.link().add(pair).execute().await, || format!("make the link of pod {}", pod.pod_uid))?;
        Ok(true)
    })
}

/// In the pod's namespace: whether it has its address.
pub(super) fn is_configured(address: Ipv4Addr) -> Result<bool, NetError> {
    netlink(async |handle| {
        let Some(link) = find(&handle, POD_LINK).await? else { return Ok(false) };
        let request = handle.address().get().set_link_index_filter(link.header.index);
        let addresses: Vec<_> =
            request.execute().try_collect().await.map_err(|e| NetError::netlink("list addresses", &e))?;
        let wanted = AddressAttribute::Local(IpAddr::V4(address));
        Ok(addresses.iter().any(|found| found.attributes.contains(&wanted)))
    })
}

/// In the pod's namespace: loopback, address and routes.
pub(super) fn configure_pod(address: Ipv4Addr, gateway: Ipv4Addr, mtu: u32) -> Result<(), NetError> {
    netlink(async |handle| {
        let lo = must_find(&handle, "lo").await?;
        let up = handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await;
        check(up, || "bring lo up".into())?;
        let index = must_find(&handle, POD_LINK).await?;
        let up = handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).up().build()).execute().await;
        check(up, || format!("bring {POD_LINK} up"))?;
        let added = handle.address().add(index, IpAddr::V4(address), 32).replace().execute().await;
        check(added, || format!("give the pod {address}"))?;
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(index)
            .scope(RouteScope::Link);
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index);
        for route in [to_gateway.build(), default.build()] {
            let added = handle.route().add(route).replace().execute().await;
            check(added, || format!("route the pod through {gateway}"))?;
        }
        Ok(())
    })?;
    // A redirect would lead the pod past the gateway, and so past the service proxy.
    set_if_there("net/ipv4/conf/all/accept_redirects", "0")?;
    set_if_there(&format!("net/ipv4/conf/{POD_LINK}/accept_redirects"), "0")
}

/// Connects the host end to the bridge, and marks it as complete.
pub(super) fn plug_in(config: &NodeNetworkConfig, pod: &PodInterface) -> Result<(), NetError> {
    netlink(async |handle| {
        let bridge = must_find(&handle, &config.bridge).await?;
        let index = must_find(&handle, &pod.host_link).await?;
        let change = LinkUnspec::new_with_index(index).controller(bridge).up();
        let action = || format!("connect pod {} to bridge {}", pod.pod_uid, config.bridge);
        check(handle.link().set(change.build()).execute().await, action)?;
        let port = LinkBridgePort::new(index).hairpin(true);
        check(handle.link().set_port(port.build()).execute().await, action)?;
        let alias = LinkUnspec::new_with_index(index).alias(pod_alias(pod));
        check(handle.link().set(alias.build()).execute().await, action)
    })
}

/// Removes one link, if it is there.
pub(super) fn remove_link(name: &str) -> Result<(), NetError> {
    netlink(async |handle| match find(&handle, name).await? {
        Some(link) => delete(&handle, &link).await,
        None => Ok(()),
    })
}

/// The complete pod links of a bridge.
pub(super) fn pod_links(bridge: &str) -> Result<Vec<PodInterface>, NetError> {
    netlink(async |handle| {
        let index = must_find(&handle, bridge).await?;
        let links = all_links(&handle).await?;
        Ok(links.iter().filter(|link| controller(link) == Some(index)).filter_map(pod_of).collect())
    })
}

/// The label of the addresses that belong to an owner's services. The kernel wants the link's name in
/// front of it.
fn loopback_label(owner: &str) -> String {
    format!("lo:{}", short(owner, 8))
}

/// Puts an owner's address on `lo`.
pub(super) fn add_loopback(owner: &str, address: Ipv4Addr) -> Result<(), NetError> {
    netlink(async |handle| {
        let lo = must_find(&handle, "lo").await?;
        let mut request = handle.address().add(lo, IpAddr::V4(address), 32).replace();
        request.message_mut().attributes.push(AddressAttribute::Label(loopback_label(owner)));
        check(request.execute().await, || format!("put {address} on lo"))
    })
}

/// The addresses on `lo` that belong to an owner, whoever put them there.
pub(super) fn loopback_of(owner: &str) -> Result<Vec<Ipv4Addr>, NetError> {
    let label = AddressAttribute::Label(loopback_label(owner));
    netlink(async |handle| {
        let lo = must_find(&handle, "lo").await?;
        let request = handle.address().get().set_link_index_filter(lo);
        let found: Vec<_> =
            request.execute().try_collect().await.map_err(|e| NetError::netlink("list addresses", &e))?;
        let ours = found.iter().filter(|message| message.attributes.contains(&label));
        let address = |message: &AddressMessage| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })
        };
        Ok(ours.filter_map(address).collect())
    })
}

/// Takes an address off `lo`, if it is there.
pub(super) fn remove_loopback(address: Ipv4Addr) -> Result<(), NetError> {
    netlink(async |handle| {
        let lo = must_find(&handle, "lo").await?;
        let request =
            handle.address().get().set_link_index_filter(lo).set_address_filter(IpAddr::V4(address));
        let found: Vec<_> =
            request.execute().try_collect().await.map_err(|e| NetError::netlink("list addresses", &e))?;
        for message in found {
            check(handle.address().del(message).execute().await, || format!("take {address} off lo"))?;
        }
        Ok(())
    })
}

fn pod_of(link: &LinkMessage) -> Option<PodInterface> {
    let (pod_uid, address) = alias(link)?.strip_prefix(POD_ALIAS)?.split_once(' ')?;
    Some(PodInterface {
        pod_uid: pod_uid.to_owned(),
        address: address.parse().ok()?,
        host_link: name_of(link).to_owned(),
    })
}

fn pod_alias(pod: &PodInterface) -> String {
    format!("{POD_ALIAS}{} {}", pod.pod_uid, pod.address)
}

fn pod_mac(address: Ipv4Addr) -> Vec<u8> {
    [&[0x0a, 0xba][..], &address.octets()[..]].concat()
}

// Without an address of its own a bridge takes that of a pod's link, and changes it with the pods.
fn bridge_mac(name: &str) -> Vec<u8> {
    [&[0x0e, 0xba][..], &fnv(name).to_be_bytes()[..4]].concat()
}

pub(super) fn netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, NetError>) -> Result<T, NetError> {
    let failed = |source: std::io::Error| NetError::Netlink {
        action: "open a netlink connection".into(),
        message: source.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(failed)?;
        let done: std::pin::Pin<Box<dyn Future<Output = Result<T, NetError>>>> = Box::pin(work(handle));
        tokio::select! {
            result = done => result,
            () = connection => Err(NetError::WorkerGone),
        }
    })
}

fn check(result: Result<(), Error>, action: impl FnOnce() -> String) -> Result<(), NetError> {
    result.map_err(|error| NetError::netlink(action(), &error))
}

pub(super) async fn all_links(handle: &Handle) -> Result<Vec<LinkMessage>, NetError> {
    handle.link().get().execute().try_collect().await.map_err(|e| NetError::netlink("list links", &e))
}

/// The routes that a query asks for.
pub(super) async fn routes(handle: &Handle, query: RouteMessage) -> Result<Vec<RouteMessage>, NetError> {
    handle.route().get(query).execute().try_collect().await.map_err(|e| NetError::netlink("list routes", &e))
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(Error::NetlinkError(error)) if is_absent(error.raw_code()) => Ok(None),
        Err(error) => Err(NetError::netlink(format!("look up link {name}"), &error)),
    }
}

async fn must_find(handle: &Handle, name: &str) -> Result<u32, NetError> {
    let link = find(handle, name).await?;
    link.map(|link| link.header.index).ok_or_else(|| NetError::Netlink {
        action: format!("look up link {name}"),
        message: "there is none".into(),
    })
}

async fn delete(handle: &Handle, link: &LinkMessage) -> Result<(), NetError> {
    match handle.link().del(link.header.index).execute().await {
        Ok(()) => Ok(()),
        // The pod's end went away with its namespace, and took this one with it.
        Err(Error::NetlinkError(error)) if is_absent(error.raw_code()) => Ok(()),
        Err(error) => Err(NetError::netlink(format!("remove link {}", name_of(link)), &error)),
    }
}

fn is_absent(code: i32) -> bool {
    code == -(nix::errno::Errno::ENODEV as i32)
}

pub(super) fn name_of(link: &LinkMessage) -> &str {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
        .unwrap_or("")
}

fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfAlias(alias) = a { Some(alias.as_str()) } else { None })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::Controller(index) = a { Some(*index) } else { None })
}

fn set(setting: &str, value: &str) -> Result<(), NetError> {
    let path = format!("/proc/sys/{setting}");
    // Reading first: where /proc/sys is read-only, the right value is good enough.
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value)
        .map_err(|source| NetError::Setting { setting: setting.replace('/', "."), source })
}

fn set_if_there(setting: &str, value: &str) -> Result<(), NetError> {
    if std::path::Path::new("/proc/sys").join(setting).exists() { set(setting, value) } else { Ok(()) }
}
