//! What an agent is told at its start. Plain values; the binary fills them in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Taint;

/// What is said of a node about which nobody says more: that it is no cloud's, and beside all others. Pods that are
/// to be spread over zones would find no node without.
const DEFAULT_LABELS: [(&str, &str); 3] = [
    ("node.kubernetes.io/instance-type", "balsa"),
    ("topology.kubernetes.io/region", "default"),
    ("topology.kubernetes.io/zone", "default"),
];
/// Has a node that runs beside a server.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node's name.
    pub node_name: String,
    /// Other nodes of the cluster on this machine: what runs there is local, too.
    pub neighbours: Vec<String>,
    /// The cluster's name, written on every container so that clean-up takes one cluster's only.
    pub cluster: String,
    /// The node's own directory: pods, logs, caches, certificates.
    pub data_dir: PathBuf,
    /// Where local-path volumes are made; several agents of one machine share it.
    pub local_path_dir: PathBuf,
    /// Labels of the node beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Labels that the node gets unless it has others of that name: what somebody sets stays.
    pub default_labels: BTreeMap<String, String>,
    /// Taints of a new node.
    pub taints: Vec<Taint>,
    /// The address of the machine, as others reach it.
    pub node_ip: IpAddr,
    /// The cluster DNS service's address.
    pub cluster_dns: Option<Ipv4Addr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Addresses of all pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of services.
    pub service_cidr: Option<Ipv4Net>,
    /// The node's pod addresses when no controller hands them out.
    pub pod_cidr: Option<Ipv4Net>,
    /// The port that serves `/healthz` and `/metrics`; 0: none. It is published in the Node.
    pub kubelet_port: u16,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Processors and memory to announce instead of the machine's, for several nodes on one machine.
    pub capacity: BTreeMap<String, String>,
    /// Address and port of the API as pods reach it, for `KUBERNETES_SERVICE_HOST`; used until the
    /// `kubernetes` Service is seen.
    pub api_service: Option<(Ipv4Addr, u16)>,
    /// Intervals and limits.
    pub timing: Timing,
}

/// Intervals and limits; tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Between two renewals of the node's Lease.
    pub lease: Duration,
    /// Between two reports of an unchanged node.
    pub node_status: Duration,
    /// Between two looks at a pod when nothing happens.
    pub resync: Duration,
    /// The wait after a step that failed; it doubles.
    pub retry: Duration,
    /// The longest wait after one.
    pub retry_ceiling: Duration,
    /// The wait before the second restart of a container; it doubles.
    pub restart_first: Duration,
    /// The longest wait before a restart.
    pub restart_ceiling: Duration,
    /// A container that ran so long starts again without a wait.
    pub restart_reset: Duration,
    /// Between two looks at what volumes with a limit use.
    pub usage: Duration,
    /// How long logs of pods that are gone are kept.
    pub log_retention: Duration,
    /// The first time that a pull is told to be under way; then after twice as long, and so on.
    pub pull_progress: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            node_status: Duration::from_secs(300),
            resync: Duration::from_secs(60),
            retry: Duration::from_secs(2),
            retry_ceiling: Duration::from_secs(16),
            restart_first: Duration::from_secs(10),
            restart_ceiling: Duration::from_secs(300),
            restart_reset: Duration::from_secs(600),
            usage: Duration::from_secs(10),
            log_retention: Duration::from_secs(24 * 3600),
            pull_progress: Duration::from_secs(5),
        }
    }
}

impl AgentConfig {
    /// The usual configuration of a node whose files are under `data_dir`.
    pub fn new(node_name: &str, data_dir: impl Into<PathBuf>, node_ip: IpAddr) -> Self {
        let data_dir = data_dir.into();
        Self {
            node_name: node_name.to_owned(),
            neighbours: Vec::new(),
            cluster: "balsa".to_owned(),
            local_path_dir: data_dir.join("local-path"),
            data_dir,
            labels: BTreeMap::new(),
            default_labels: DEFAULT_LABELS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            taints: Vec::new(),
            node_ip,
            cluster_dns: Some(Ipv4Addr::new(10, 96, 0, 10)),
            cluster_domain: "cluster.local".to_owned(),
            cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: Some(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
            pod_cidr: None,
            kubelet_port: 0,
            max_pods: 110,
            capacity: BTreeMap::new(),
            api_service: None,
            timing: Timing::default(),
        }
    }

    /// The node runs beside a server of its cluster. It takes pods like any other.
    pub fn beside_a_server(&mut self) {
        self.default_labels.insert(CONTROL_PLANE.to_owned(), String::new());
    }

    /// Whether a node is on this machine.
    pub fn is_on_machine(&self, node: &str) -> bool {
        node == self.node_name || self.neighbours.iter().any(|neighbour| neighbour == node)
    }

    /// The directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}
