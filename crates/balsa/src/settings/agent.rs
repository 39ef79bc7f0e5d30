//! Options of an agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use balsa_agent::AgentConfig;
use balsa_agent::join::Ranges;
use serde::{Deserialize, Serialize, Serializer};

use super::server::ServerSettings;
use super::values::Cidr;
use crate::output::data_dir;
use crate::run::{host, layout};

/// Where a node is asked for its health and its metrics.
pub(crate) const METRICS_PORT: u16 = 10250;

/// Options of an agent, as far as they are given.
#[derive(clap::Args, Serialize, Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct AgentFlags {
    /// Servers to join, host:port; one is enough
    #[arg(long, value_name = "ADDRESS", env = "BALSA_SERVER", value_delimiter = ',')]
    server: Option<Vec<String>>,
    /// Bootstrap token, from `balsa token create`; needed once
    #[arg(long, value_name = "TOKEN", env = "BALSA_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The node's name [default: this machine's]
    #[arg(long, value_name = "NAME", env = "BALSA_NAME")]
    name: Option<String>,
    /// Where everything is kept [default: /var/lib/balsa, or ~/.balsa for users]
    #[arg(long, value_name = "DIR", env = "BALSA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address of this machine, as other nodes reach it [default: its first]
    #[arg(long, value_name = "ADDRESS", env = "BALSA_NODE_IP")]
    node_ip: Option<IpAddr>,
    /// Labels of the node, like disk=ssd,zone=a
    #[arg(long, value_name = "LABELS", env = "BALSA_LABELS")]
    labels: Option<String>,
    /// Most pods at a time [default: 110]
    #[arg(long, value_name = "N", env = "BALSA_MAX_PODS")]
    max_pods: Option<u32>,
    /// Port for /healthz and /metrics; 0: none [default: 10250]
    #[arg(long, value_name = "PORT", env = "BALSA_METRICS_PORT")]
    metrics_port: Option<u16>,
    /// Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "HOST", env = "BALSA_DOCKER_HOST")]
    docker_host: Option<String>,
    /// Addresses of Services [default: as the servers say]
    #[arg(long, value_name = "CIDR", env = "BALSA_SERVICE_CIDR")]
    service_cidr: Option<Cidr>,
    /// Addresses of pods [default: as the servers say]
    #[arg(long, value_name = "CIDR", env = "BALSA_CLUSTER_CIDR")]
    cluster_cidr: Option<Cidr>,
    /// Where volumes are made that live on this node's disk [default: volumes in the data directory]
    #[arg(long, value_name = "DIR", env = "BALSA_VOLUMES_DIR")]
    volumes_dir: Option<PathBuf>,
}

/// Options of an agent, complete. The token is not part of them: it is needed once, and secret.
#[derive(Serialize, Clone)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AgentSettings {
    pub(crate) server: Vec<String>,
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) node_ip: IpAddr,
    #[serde(serialize_with = "as_text")]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) max_pods: u32,
    pub(crate) metrics_port: u16,
    pub(crate) docker_host: Option<String>,
    pub(crate) service_cidr: Option<Cidr>,
    pub(crate) cluster_cidr: Option<Cidr>,
    pub(crate) volumes_dir: PathBuf,
    /// Other nodes in this process.
    #[serde(skip)]
    pub(crate) neighbours: Vec<String>,
    /// Shares its process with a server.
    #[serde(skip)]
    pub(crate) in_process: bool,
}

impl AgentFlags {
    /// A node in the process of a server.
    pub(crate) fn in_process(server: &ServerSettings, servers: &[String], name: &str) -> Self {
        Self {
            server: Some(servers.to_vec()),
            name: Some(name.to_owned()),
            data_dir: Some(server.data_dir.clone()),
            node_ip: Some(server.advertise),
            metrics_port: Some(METRICS_PORT),
            service_cidr: Some(server.service_cidr),
            cluster_cidr: Some(server.cluster_cidr),
            volumes_dir: Some(server.volumes_dir()),
            ..Self::default()
        }
    }

    /// With the defaults for what is not given.
    pub(crate) fn resolve(self) -> anyhow::Result<AgentSettings> {
        let server = self.server.filter(|servers| !servers.is_empty());
        let data_dir = super::absolute(&self.data_dir.unwrap_or_else(data_dir));
        let name = self.name.unwrap_or_else(host::name);
        if let Some(why) = balsa_model::meta::dns1123_subdomain(&name).first() {
            bail!("--name {name}: {why}");
        }
        Ok(AgentSettings {
            server: super::addresses(server.context("which servers? name one with --server host:port")?),
            name,
            node_ip: self.node_ip.unwrap_or_else(host::address),
            labels: labels(self.labels.as_deref().unwrap_or_default())?,
            max_pods: self.max_pods.unwrap_or(110),
            metrics_port: self.metrics_port.unwrap_or(METRICS_PORT),
            docker_host: self.docker_host,
            service_cidr: self.service_cidr,
            cluster_cidr: self.cluster_cidr,
            volumes_dir: self.volumes_dir.unwrap_or_else(|| data_dir.join(layout::VOLUMES)),
            data_dir,
            neighbours: Vec::new(),
            in_process: false,
        })
    }
}

fn labels(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) =
                pair.split_once('=').with_context(|| format!("--labels {pair}: write it as name=value"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Labels as the flag and the file want them.
fn as_text<S: Serializer>(labels: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    serializer.serialize_str(&pairs.join(","))
}

impl AgentSettings {
    /// Where the node keeps everything of its own.
    pub(crate) fn node_dir(&self) -> PathBuf {
        self.data_dir.join(layout::NODES).join(&self.name)
    }

    /// The cluster's addresses: those given, else as its servers say.
    pub(crate) fn ranges(&self, told: Option<Ranges>) -> anyhow::Result<Ranges> {
        let of = |given: Option<Cidr>, told: Option<ipnet::Ipv4Net>, flag: &str| {
            let range = given.map(|cidr| cidr.0).or(told);
            range.with_context(|| {
                format!("the servers do not say the cluster's addresses; name them with {flag}")
            })
        };
        Ok(Ranges {
            services: of(self.service_cidr, told.map(|told| told.services), "--service-cidr")?,
            pods: of(self.cluster_cidr, told.map(|told| told.pods), "--cluster-cidr")?,
        })
    }

    /// What the agent is told.
    pub(crate) fn config(&self, cluster: &str, ranges: Ranges) -> AgentConfig {
        let nth = |n: u32| Ipv4Addr::from(u32::from(ranges.services.network()) + n);
        let mut config = AgentConfig::new(&self.name, self.node_dir(), self.node_ip);
        config.cluster = cluster.to_owned();
        config.local_path_dir = self.volumes_dir.clone();
        config.labels = self.labels.clone();
        config.max_pods = self.max_pods;
        config.neighbours.clone_from(&self.neighbours);
        config.kubelet_port = self.metrics_port;
        if self.in_process {
            config.beside_a_server();
        }
        config.service_cidr = Some(ranges.services);
        config.cluster_cidr = ranges.pods;
        config.cluster_dns = Some(nth(10));
        config.api_service = Some((nth(1), 443));
        config
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_agent_needs_a_server_and_a_good_name() {
        assert!(AgentFlags::default().resolve().is_err());
        let flags = AgentFlags {
            server: Some(vec!["h:1".to_owned()]),
            name: Some("n1".to_owned()),
            ..AgentFlags::default()
        };
        let settings = flags.clone().resolve().unwrap();
        assert!(settings.ranges(None).is_err(), "nobody has said which");
        let told =
            Ranges { services: "10.97.0.0/16".parse().unwrap(), pods: "10.245.0.0/16".parse().unwrap() };
        let config = settings.config("c", settings.ranges(Some(told)).unwrap());
        assert_eq!(config.cluster_dns, Some(Ipv4Addr::new(10, 97, 0, 10)));
        let given = AgentFlags { cluster_cidr: Some("10.9.0.0/16".parse().unwrap()), ..flags.clone() };
        let ranges = given.resolve().unwrap().ranges(Some(told)).unwrap();
        assert_eq!((ranges.pods.to_string(), ranges.services), ("10.9.0.0/16".to_owned(), told.services));
        assert!(AgentFlags { name: Some("N_1".to_owned()), ..flags }.resolve().is_err());
        assert_eq!(labels("a=b, c=").unwrap().len(), 2);
        assert!(labels("a").is_err());
    }
}
