//! The Node object: made when it is missing, its status told on every change and every five minutes.
//! Its pod CIDR starts the pod network, and is kept on disk for a start without a server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Client, Informer};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Reason};
use balsa_rt::{Backoff, Clock};
use balsa_runtime::{Runtime, Version};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::sync::watch;

use crate::config::AgentConfig;
use crate::net::NetworkSeam;
use crate::node::facts::{self, Machine};
use crate::pod::status::kubelet_version;

/// How services are reached, as an annotation of the node.
pub const PROXY_ANNOTATION: &str = "balsa.dev/service-proxy";
/// How often the machine is looked at; written only when something has changed.
const LOOK: Duration = Duration::from_secs(10);
/// Images that are told, the largest ones.
const IMAGES: usize = 50;

/// What keeps the Node object.
pub(crate) struct Registrar {
    pub config: Arc<AgentConfig>,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub network: NetworkSeam,
    pub network_ready: watch::Sender<bool>,
    pub version: Version,
    pub machine: Machine,
    pub clock: Clock,
}

impl Registrar {
    fn key(&self) -> Key {
        Key::new("", self.config.node_name.as_str())
    }

    /// Registers and keeps reporting, for ever.
    pub(crate) async fn report(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while let Err(failure) = self.register().await {
            tracing::warn!(%failure, "node not registered; will try again");
            tokio::time::sleep(backoff.next_delay()).await;
        }
        let mut ready = self.network_ready.subscribe();
        let mut told: Option<(NodeStatus, tokio::time::Instant)> = None;
        loop {
            let status = self.status().await;
            let due = told.as_ref().is_none_or(|(old, at)| {
                at.elapsed() >= self.config.timing.node_status || without_times(old) != without_times(&status)
            });
            if due {
                match self.write(&status).await {
                    Ok(()) => told = Some((status, tokio::time::Instant::now())),
                    Err(failure) => tracing::warn!(%failure, "node status not written; will try again"),
                }
            }
            let _ = tokio::time::timeout(LOOK, ready.changed()).await;
        }
    }

    /// Makes the object, or gives an old one its labels again.
    async fn register(&self) -> Result<(), Failure> {
        let labels = self.labels();
        let proxy = self.network.proxy_mode().await;
        let (api, key) = (self.client.api::<Node>(), self.key());
        let known = api.modify(&key, Part::Main, |node| {
            let before = node.metadata.clone();
            let known = node.metadata.labels.get_or_insert_default();
            known.extend(labels.clone());
            add_missing(known, &self.config.default_labels);
            node.metadata
                .annotations
                .get_or_insert_default()
                .insert(PROXY_ANNOTATION.to_owned(), proxy.clone());
            node.metadata != before
        });
        if known.await?.is_some() || api.find(&key).await?.is_some() {
            return Ok(());
        }
        let mut labels = labels;
        add_missing(&mut labels, &self.config.default_labels);
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(labels),
                annotations: Some([(PROXY_ANNOTATION.to_owned(), proxy)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: self.config.pod_cidr.map(|cidr| cidr.to_string()),
                pod_cidrs: self.config.pod_cidr.map(|cidr| vec![cidr.to_string()]),
                taints: (!self.config.taints.is_empty()).then(|| self.config.taints.clone()),
                ..NodeSpec::default()
            }),
            status: None,
        };
        match api.create(&node).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.reason == Reason::AlreadyExists => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.config.labels.clone();
        for (name, value) in [
            ("kubernetes.io/hostname", self.config.node_name.as_str()),
            ("kubernetes.io/os", &self.version.os),
            ("kubernetes.io/arch", &self.version.architecture),
            ("beta.kubernetes.io/os", &self.version.os),
            ("beta.kubernetes.io/arch", &self.version.architecture),
        ] {
            labels.insert(name.to_owned(), value.to_owned());
        }
        labels
    }

    async fn write(&self, status: &NodeStatus) -> Result<(), Failure> {
        let (api, key) = (self.client.api::<Node>(), self.key());
        let written = api.modify(&key, Part::Status, |node| {
            let mut status = status.clone();
            let old = node.status.take().unwrap_or_default();
            keep_transitions(&mut status, &old);
            status.volumes_attached = old.volumes_attached;
            status.volumes_in_use = old.volumes_in_use;
            node.status = Some(status);
            true
        });
        match written.await? {
            Some(_) => Ok(()),
            // Somebody removed it: it is made again.
            None => self.register().await,
        }
    }

    async fn status(&self) -> NodeStatus {
        let capacity = self.machine.capacity(&self.config);
        let port = i32::from(self.config.kubelet_port);
        NodeStatus {
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(self.conditions().await),
            addresses: Some(vec![
                NodeAddress { type_: "InternalIP".to_owned(), address: self.config.node_ip.to_string() },
                NodeAddress { type_: "Hostname".to_owned(), address: self.config.node_name.clone() },
            ]),
            daemon_endpoints: (port > 0)
                .then_some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) }),
            images: Some(self.images().await),
            node_info: Some(NodeSystemInfo {
                architecture: self.version.architecture.clone(),
                boot_id: self.machine.boot_id.clone(),
                container_runtime_version: format!("{}://{}", self.version.engine, self.version.version),
                kernel_version: self.version.kernel.clone(),
                kube_proxy_version: kubelet_version(),
                kubelet_version: kubelet_version(),
                machine_id: self.machine.machine_id.clone(),
                operating_system: self.version.os.clone(),
                os_image: self.version.os_image.clone(),
                system_uuid: self.machine.system_uuid.clone(),
                swap: None,
            }),
            runtime_handlers: Some(self.handlers()),
            ..NodeStatus::default()
        }
    }

    /// The usual runtime, which has no name, and all that have one.
    fn handlers(&self) -> Vec<NodeRuntimeHandler> {
        let names = std::iter::once(String::new()).chain(self.version.runtimes.iter().cloned());
        let handler = |name| NodeRuntimeHandler {
            name: Some(name),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(self.version.recursive_read_only),
                user_namespaces: Some(false),
            }),
        };
        names.map(handler).collect()
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.runtime.list_images().await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let told = images.into_iter().take(IMAGES).map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        });
        told.filter(|image| image.names.as_ref().is_some_and(|names| !names.is_empty())).collect()
    }

    async fn conditions(&self) -> Vec<NodeCondition> {
        let pressure = facts::pressure(&self.config.data_dir);
        let now = self.clock.now_seconds();
        let mut conditions = vec![
            condition(
                "MemoryPressure",
                pressure.memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                now,
            ),
            condition(
                "DiskPressure",
                pressure.disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                now,
            ),
            condition(
                "PIDPressure",
                pressure.pids,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                now,
            ),
        ];
        let trouble = match self.runtime.ping().await {
            Err(error) => Some(format!("container runtime is down: {error}")),
            Ok(()) if !*self.network_ready.borrow() => {
                Some("container runtime network not ready: the node has no pod CIDR yet".to_owned())
            }
            Ok(()) => None,
        };
        let message = trouble.as_deref().unwrap_or_default();
        let well = ("KubeletReady", "kubelet is posting ready status");
        conditions.push(condition("Ready", trouble.is_none(), well, ("KubeletNotReady", message), now));
        conditions
    }

    /// Starts the pod network once the node has a CIDR, and repairs it from time to time.
    pub(crate) async fn keep_network(self: Arc<Self>, node: Informer) {
        let note = self.config.data_dir.join("pod-cidr");
        let mut changes = node.subscribe();
        let mut cidr = kept(&note).or(self.config.pod_cidr);
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                Some(changed) = changes.recv() => {
                    let node = changed.new.as_ref().and_then(|object| object.typed::<Node>());
                    let told = node.and_then(|node| node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok());
                    if told.is_none() || told == cidr && *self.network_ready.borrow() {
                        continue;
                    }
                    cidr = told;
                }
                () = tokio::time::sleep(wait) => {}
            }
            let Some(cidr) = cidr else {
                wait = Duration::from_secs(60);
                continue;
            };
            wait = match self.network.start(cidr).await {
                Ok(()) => {
                    let _ = std::fs::write(&note, cidr.to_string());
                    self.network_ready.send_if_modified(|ready| !std::mem::replace(ready, true));
                    Duration::from_secs(60)
                }
                Err(error) => {
                    tracing::error!(%error, "pod network not started; will try again");
                    Duration::from_secs(5)
                }
            };
        }
    }
}

fn add_missing(labels: &mut BTreeMap<String, String>, defaults: &BTreeMap<String, String>) {
    for (name, value) in defaults {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn kept(note: &PathBuf) -> Option<Ipv4Net> {
    std::fs::read_to_string(note).ok()?.trim().parse().ok()
}

fn condition(
    type_: &str,
    holds: bool,
    if_true: (&str, &str),
    if_false: (&str, &str),
    now: Timestamp,
) -> NodeCondition {
    let (reason, message) = if holds { if_true } else { if_false };
    NodeCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// A condition that did not change keeps the time of its change; what others wrote stays.
fn keep_transitions(status: &mut NodeStatus, old: &NodeStatus) {
    let known = old.conditions.as_deref().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    for condition in conditions.iter_mut() {
        let before = known.iter().find(|k| k.type_ == condition.type_ && k.status == condition.status);
        if let Some(before) = before {
            condition.last_transition_time.clone_from(&before.last_transition_time);
        }
    }
    let foreign = known.iter().filter(|k| !conditions.iter().any(|c| c.type_ == k.type_)).cloned();
    let foreign: Vec<_> = foreign.collect();
    conditions.extend(foreign);
}

fn without_times(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        (condition.last_heartbeat_time, condition.last_transition_time) = (None, None);
    }
    status
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn transitions_and_foreign_conditions_are_kept() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let make = |holds, now| condition("Ready", holds, ("A", "a"), ("B", "b"), now);
        let foreign = NodeCondition { type_: "NetworkUnavailable".to_owned(), ..NodeCondition::default() };
        let old = NodeStatus { conditions: Some(vec![make(true, at(1)), foreign]), ..NodeStatus::default() };
        let mut same = NodeStatus { conditions: Some(vec![make(true, at(2))]), ..NodeStatus::default() };
        keep_transitions(&mut same, &old);
        let conditions = same.conditions.unwrap();
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(1))));
        assert_eq!(conditions[0].last_heartbeat_time, Some(Time(at(2))));
        assert_eq!(conditions.len(), 2);
        let mut other = NodeStatus { conditions: Some(vec![make(false, at(2))]), ..NodeStatus::default() };
        keep_transitions(&mut other, &old);
        assert_eq!(other.conditions.unwrap()[0].last_transition_time, Some(Time(at(2))));
    }
}
