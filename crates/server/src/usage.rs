//! What nodes and pods use, as their agents measure it: read from the agents when somebody asks, kept
//! nowhere. The metrics API shows it, and the autoscaler follows it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use balsa_controllers::usage::{Amount, PodUsage, UsageSource};
use balsa_model::Failure;
use balsa_model::kind::kind_of;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;

use crate::front::Front;
use crate::rest::proxy::get_from_node;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Nodes that are asked at a time.
const AT_ONCE: usize = 32;

/// What a node and its pods use.
#[derive(Clone, Debug)]
pub(crate) struct NodeUsage {
    pub(crate) node: String,
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
    pub(crate) amount: Amount,
    pub(crate) pods: Vec<PodUsage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(default)]
    window_seconds: f64,
    node: Measured,
    #[serde(default)]
    pods: Vec<Measured>,
}

/// A node, a pod or a container in the kubelet's summary.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Measured {
    name: String,
    pod_ref: PodRef,
    cpu: Cpu,
    memory: Memory,
    containers: Vec<Measured>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodRef {
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cpu {
    time: Option<Timestamp>,
    usage_nano_cores: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    working_set_bytes: u64,
}

impl Measured {
    fn amount(&self) -> Amount {
        Amount { cpu_nanos: self.cpu.usage_nano_cores, memory: self.memory.working_set_bytes }
    }
}

/// Reads a node's summary.
fn read(node: &str, summary: &[u8]) -> Result<NodeUsage, Failure> {
    let summary: Summary = serde_json::from_slice(summary).map_err(Failure::internal)?;
    let at = summary.node.cpu.time.unwrap_or_default();
    let window = Duration::try_from_secs_f64(summary.window_seconds).unwrap_or_default();
    let pod = |pod: &Measured| PodUsage {
        namespace: pod.pod_ref.namespace.clone(),
        name: pod.pod_ref.name.clone(),
        at: pod.cpu.time.unwrap_or(at),
        window,
        containers: pod.containers.iter().map(|c| (c.name.clone(), c.amount())).collect::<BTreeMap<_, _>>(),
    };
    let pods = summary.pods.iter().map(pod).collect();
    Ok(NodeUsage { node: node.to_owned(), at, window, amount: summary.node.amount(), pods })
}

/// What one node uses.
///
/// # Errors
/// When its agent cannot be reached, or does not answer in time.
pub(crate) async fn of_node(front: &Front, node: &str) -> Result<NodeUsage, Failure> {
    let asked = tokio::time::timeout(PATIENCE, get_from_node(front, node, "/stats/summary")).await;
    let summary =
        asked.map_err(|_| Failure::internal(format!("node \"{node}\" does not answer in time")))??;
    read(node, &summary)
}

/// What all nodes use that can be reached.
pub(crate) async fn of_all(front: &Front) -> Vec<NodeUsage> {
    let view = front.engine.state().view(kind_of::<Node>());
    let nodes: Vec<String> = view.iter().map(|node| node.key().name.to_string()).collect();
    let asked = nodes.into_iter().map(|node| async move {
        match of_node(front, &node).await {
            Ok(usage) => Some(usage),
            Err(failure) => {
                tracing::debug!(%node, %failure, "a node does not tell what it uses");
                None
            }
        }
    });
    futures::stream::iter(asked).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// The usage of pods, for controllers of this server.
pub(crate) struct FromAgents(pub(crate) Front);

#[async_trait]
impl UsageSource for FromAgents {
    async fn pods(&self, namespace: &str) -> Result<Vec<PodUsage>, Failure> {
        let nodes = of_all(&self.0).await;
        Ok(nodes.into_iter().flat_map(|node| node.pods).filter(|pod| pod.namespace == namespace).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let summary = br#"{"windowSeconds": 1.5, "node": {"nodeName": "n", "cpu": {"time": "2024-01-01T00:00:00Z",
            "usageNanoCores": 5}, "memory": {"workingSetBytes": 6}}, "pods": [{"podRef": {"name": "p", "namespace": "x",
            "uid": "u"}, "containers": [{"name": "c", "cpu": {"usageNanoCores": 7}, "memory": {"workingSetBytes": 8}}]}]}"#;
        let usage = read("n", summary).unwrap();
        assert_eq!(
            (usage.amount, usage.window),
            (Amount { cpu_nanos: 5, memory: 6 }, Duration::from_millis(1500))
        );
        assert_eq!(usage.pods[0].containers["c"], Amount { cpu_nanos: 7, memory: 8 });
        assert!(read("n", b"{}").is_err());
    }
}
