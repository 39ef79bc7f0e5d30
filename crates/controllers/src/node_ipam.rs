//! Gives each node its range of pod addresses out of the cluster's.
//!
//! Reads and writes nodes: `spec.podCIDR` and `spec.podCIDRs`, once. One worker, which waits until the
//! cache shows what it gave, so that no range is given twice; nothing is kept in memory.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::kinds::node;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;

use crate::caches::{Caches, settle};

struct NodeIpam {
    client: Client,
    nodes: Informer,
    recorder: Recorder,
    cluster: IpNet,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, cluster: IpNet, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.nodes, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let this = NodeIpam { client, nodes: caches.nodes.clone(), recorder, cluster };
    balsa_client::run(Arc::new(this), queue, 1, scope);
}

/// The first range of the cluster that overlaps none of those taken: /24 of IPv4, /64 of IPv6, or the
/// whole where it is no larger than that.
fn free_range(cluster: IpNet, taken: &[IpNet]) -> Option<IpNet> {
    let length = cluster.prefix_len().max(if cluster.addr().is_ipv4() { 24 } else { 64 });
    let mut candidates = cluster.subnets(length).ok()?;
    candidates.find(|candidate| !taken.iter().any(|taken| overlaps(candidate, taken)))
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => contains_v4(a, b) || contains_v4(b, a),
        (IpNet::V6(a), IpNet::V6(b)) => contains_v6(a, b) || contains_v6(b, a),
        _ => false,
    }
}

fn contains_v4(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network())
}

fn contains_v6(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    a.contains(&b.network())
}

#[async_trait]
impl Reconciler for NodeIpam {
    type Key = Key;

    fn name(&self) -> &'static str {
        "node_ipam"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.nodes.get(key) else { return Ok(Next::Wait) };
        let Some(node) = object.typed::<Node>() else { return Ok(Next::Wait) };
        if node::pod_cidr(&node).is_some() || object.is_deleting() {
            return Ok(Next::Wait);
        }
        let all = self.nodes.list();
        let taken = all.iter().filter_map(|other| node::pod_cidr(&*other.typed::<Node>()?)?.parse().ok());
        let taken: Vec<IpNet> = taken.collect();
        let Some(range) = free_range(self.cluster, &taken) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&reference_to(&*node), "Normal", "CIDRNotAvailable", message);
            return Err(Failure::internal(format!(
                "no range of {} is left for node {}",
                self.cluster, key.name
            )));
        };
        let mut changed = Node::clone(&node);
        let spec = changed.spec.get_or_insert_default();
        spec.pod_cidr = Some(range.to_string());
        spec.pod_cidrs = Some(vec![range.to_string()]);
        let written = self.client.api::<Node>().update(&changed, Part::Main).await?;
        settle(&self.nodes, written.revision()).await;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_range_is_given() {
        for (cluster, taken, expected) in [
            ("10.244.0.0/16", &[][..], Some("10.244.0.0/24")),
            ("10.244.0.0/16", &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24")),
            ("10.244.0.0/16", &["10.244.0.0/23"], Some("10.244.2.0/24")),
            ("10.244.0.0/24", &["10.244.0.0/24"], None),
            ("10.244.0.0/26", &[], Some("10.244.0.0/26")),
            ("fd00::/48", &["fd00::/64"], Some("fd00:0:0:1::/64")),
        ] {
            let taken: Vec<IpNet> = taken.iter().map(|text| net(text)).collect();
            assert_eq!(free_range(net(cluster), &taken), expected.map(net), "{cluster} {taken:?}");
        }
    }
}
