//! Options of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use balsa_server::{Limits, ServerConfig, ServerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::values::{Bytes, Cidr, NodeGrace, Period, PortRange};
use crate::output::data_dir;
use crate::run::host;
use crate::run::ranges::Ranges;

/// How long a certificate is good for.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One user has half of the seats, and somebody else must find one.
fn at_least_two(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| *number >= 2);
    number.ok_or_else(|| format!("\"{text}\" is not a number from 2 up"))
}

/// Options of a server, as far as they are given.
#[derive(clap::Args, Serialize, Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ServerFlags {
    /// Where everything is kept [default: /var/lib/balsa, or ~/.balsa for users]
    #[arg(long, value_name = "DIR", env = "BALSA_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Port of the API, REST and gRPC [default: 6443]
    #[arg(long, value_name = "PORT", env = "BALSA_PORT")]
    pub(crate) port: Option<u16>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS", env = "BALSA_BIND")]
    pub(crate) bind: Option<IpAddr>,
    /// Address at which agents and pods reach this server [default: this machine's first]
    #[arg(long, value_name = "ADDRESS", env = "BALSA_ADVERTISE")]
    pub(crate) advertise: Option<IpAddr>,
    /// Listen for pods on this machine's first address, too: with --advertise of loopback they do not reach the
    /// API otherwise. 0: any free port
    #[arg(long, value_name = "PORT", env = "BALSA_PODS_PORT")]
    pub(crate) pods_port: Option<u16>,
    /// More names and addresses for the certificate
    #[arg(long, value_name = "NAMES", env = "BALSA_TLS_SAN", value_delimiter = ',')]
    pub(crate) tls_san: Option<Vec<String>>,
    /// Addresses of Services [default: 10.96.0.0/16]
    #[arg(long, value_name = "CIDR", env = "BALSA_SERVICE_CIDR")]
    pub(crate) service_cidr: Option<Cidr>,
    /// Addresses of pods; each node gets a part of them [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR", env = "BALSA_CLUSTER_CIDR")]
    pub(crate) cluster_cidr: Option<Cidr>,
    /// Ports of NodePort Services [default: 30000-32767]
    #[arg(long, value_name = "RANGE", env = "BALSA_SERVICE_NODE_PORT_RANGE")]
    pub(crate) service_node_port_range: Option<PortRange>,
    /// What people call this server [default: as it was called last; at first, this machine's name]
    #[arg(long, value_name = "NAME", env = "BALSA_NAME")]
    pub(crate) name: Option<String>,
    /// Join the cluster of these servers, host:port; one is enough. Later: where to look for the others
    /// when their addresses have changed
    #[arg(long, value_name = "ADDRESS", env = "BALSA_JOIN", value_delimiter = ',')]
    pub(crate) join: Option<Vec<String>>,
    /// Bootstrap token for servers, from `balsa member add`; needed once
    #[arg(long, value_name = "TOKEN", env = "BALSA_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// How long certificates of this server and of nodes are good for; they renew themselves [default: 365d]
    #[arg(long, value_name = "DURATION", env = "BALSA_CERTIFICATE_LIFE")]
    pub(crate) certificate_life: Option<Period>,
    /// How often the leader says that it lives; a fifth of the election timeout at most [default: 50ms]
    #[arg(long, value_name = "DURATION", env = "BALSA_HEARTBEAT_INTERVAL")]
    pub(crate) heartbeat_interval: Option<Period>,
    /// Without a word of the leader for this long, and as long again, servers elect another one; the same on all
    /// servers, and ten times what a message between them takes there and back [default: 250ms]
    #[arg(long, value_name = "DURATION", env = "BALSA_ELECTION_TIMEOUT")]
    pub(crate) election_timeout: Option<Period>,
    /// How long a node may be silent until it counts as dead, at least 20s [default: 40s]
    #[arg(long, value_name = "DURATION", env = "BALSA_NODE_MONITOR_GRACE_PERIOD")]
    pub(crate) node_monitor_grace_period: Option<NodeGrace>,
    /// Writes that may wait; further ones are refused until there is room [default: 10000]
    #[arg(long, value_name = "N", env = "BALSA_MAX_PENDING")]
    pub(crate) max_pending: Option<usize>,
    /// Reads that are worked on at a time; others wait, user by user [default: 400]
    #[arg(long, value_name = "N", env = "BALSA_MAX_REQUESTS_INFLIGHT", value_parser = at_least_two)]
    pub(crate) max_requests_inflight: Option<usize>,
    /// Writes that are worked on at a time; others wait, user by user [default: 200]
    #[arg(long, value_name = "N", env = "BALSA_MAX_MUTATING_REQUESTS_INFLIGHT", value_parser = at_least_two)]
    pub(crate) max_mutating_requests_inflight: Option<usize>,
    /// Watches that clients may have on this server, one user half of them [default: 20000]
    #[arg(long, value_name = "N", env = "BALSA_MAX_WATCHES")]
    pub(crate) max_watches: Option<usize>,
    /// What all objects together may take; past it only deletions are accepted. 0: no limit [default: 2Gi]
    #[arg(long, value_name = "BYTES", env = "BALSA_STORAGE_QUOTA")]
    pub(crate) storage_quota: Option<Bytes>,
    /// Changes that are kept for watches that come back and lists of the past [default: 200000]
    #[arg(long, value_name = "N", env = "BALSA_HISTORY_CHANGES")]
    pub(crate) history_changes: Option<usize>,
}

/// Options of a server, complete.
#[derive(Serialize, Clone)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ServerSettings {
    pub(crate) data_dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) bind: IpAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) pods_port: Option<u16>,
    pub(crate) tls_san: Vec<String>,
    pub(crate) service_cidr: Cidr,
    pub(crate) cluster_cidr: Cidr,
    pub(crate) service_node_port_range: PortRange,
    pub(crate) name: String,
    pub(crate) join: Vec<String>,
    /// Needed once, and secret.
    #[serde(skip)]
    pub(crate) token: Option<String>,
    pub(crate) certificate_life: Period,
    pub(crate) heartbeat_interval: Period,
    pub(crate) election_timeout: Period,
    pub(crate) node_monitor_grace_period: NodeGrace,
    pub(crate) max_pending: usize,
    pub(crate) max_requests_inflight: usize,
    pub(crate) max_mutating_requests_inflight: usize,
    pub(crate) max_watches: usize,
    pub(crate) storage_quota: Bytes,
    pub(crate) history_changes: usize,
}

impl ServerFlags {
    /// With the defaults for what is not given.
    pub(crate) fn resolve(self) -> ServerSettings {
        let limits = Limits::default();
        let data_dir = super::absolute(&self.data_dir.unwrap_or_else(data_dir));
        let cidr = |third: u8| Cidr(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, third, 0, 0), 16));
        ServerSettings {
            name: self.name.or_else(|| known_name(&data_dir)).unwrap_or_else(host::name),
            data_dir,
            port: self.port.unwrap_or(6443),
            bind: self.bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            advertise: self.advertise.unwrap_or_else(host::address),
            pods_port: self.pods_port,
            tls_san: self.tls_san.unwrap_or_default(),
            service_cidr: self.service_cidr.unwrap_or_else(|| cidr(96)),
            cluster_cidr: self.cluster_cidr.unwrap_or_else(|| cidr(244)),
            service_node_port_range: self.service_node_port_range.unwrap_or(PortRange(30000, 32767)),
            join: super::addresses(self.join.unwrap_or_default()),
            token: self.token,
            certificate_life: self.certificate_life.unwrap_or(Period(YEAR)),
            heartbeat_interval: self.heartbeat_interval.unwrap_or(Period(balsa_server::HEARTBEAT)),
            election_timeout: self.election_timeout.unwrap_or(Period(balsa_server::ELECTION_TIMEOUT)),
            node_monitor_grace_period: self
                .node_monitor_grace_period
                .unwrap_or(NodeGrace(balsa_server::NODE_GRACE)),
            max_pending: self.max_pending.unwrap_or(10_000),
            max_requests_inflight: self.max_requests_inflight.unwrap_or(limits.reads),
            max_mutating_requests_inflight: self.max_mutating_requests_inflight.unwrap_or(limits.writes),
            max_watches: self.max_watches.unwrap_or(limits.watches),
            storage_quota: self.storage_quota.unwrap_or(Bytes(2 << 30)),
            history_changes: self.history_changes.unwrap_or(balsa_server::HISTORY_CHANGES),
        }
    }
}

impl ServerFlags {
    /// The ranges that are given.
    pub(crate) fn ranges(&self) -> Ranges {
        Ranges {
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            service_node_port_range: self.service_node_port_range,
        }
    }
}

/// What the server of a data directory was called last. One that cannot be read says so when it starts.
fn known_name(data_dir: &Path) -> Option<String> {
    ServerId::load(data_dir).ok().flatten().map(|id| id.name)
}

/// A machine without another address than loopback has none for pods.
fn is_outside(address: &SocketAddr) -> bool {
    !address.ip().is_loopback()
}

/// As it stands on a command line.
fn flag_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(flag_value).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

impl ServerSettings {
    /// What the server is told.
    pub(crate) fn config(&self) -> ServerConfig {
        let PortRange(first, last) = self.service_node_port_range;
        ServerConfig {
            data_dir: self.data_dir.clone(),
            bind: SocketAddr::new(self.bind, self.port),
            advertise: self.advertise,
            pods: self.pods_port.map(|port| SocketAddr::new(host::address(), port)).filter(is_outside),
            extra_names: self.tls_san.clone(),
            service_cidr: self.service_cidr.into(),
            cluster_cidr: self.cluster_cidr.into(),
            node_ports: (first, last),
            local_path_dir: self.volumes_dir(),
            name: self.name.clone(),
            join: self.join.clone(),
            token: self.token.clone(),
            certificate_life: self.certificate_life.0,
            heartbeat_interval: self.heartbeat_interval.0,
            election_timeout: self.election_timeout.0,
            max_pending: self.max_pending,
            limits: Limits {
                reads: self.max_requests_inflight,
                writes: self.max_mutating_requests_inflight,
                watches: self.max_watches,
            },
            storage_quota: self.storage_quota.0,
            history_changes: self.history_changes,
            node_grace: self.node_monitor_grace_period.0,
            force_new_cluster: false,
        }
    }

    /// The flags that start another server like this one: all but `own` that are not what they are by default.
    pub(crate) fn chosen_flags(&self, own: &[&str]) -> serde_json::Result<Vec<String>> {
        let defaults = serde_json::to_value(ServerFlags::default().resolve())?;
        let settings = serde_json::to_value(self)?;
        let settings = settings.as_object().into_iter().flatten();
        let chosen =
            settings.filter(|(name, value)| !own.contains(&name.as_str()) && defaults[*name] != **value);
        Ok(chosen.map(|(name, value)| format!("--{name}={}", flag_value(value))).collect())
    }

    /// Where volumes are made that live on a node's disk.
    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join(crate::run::layout::VOLUMES)
    }

    /// The server, as this machine reaches it.
    pub(crate) fn local_address(&self) -> String {
        let host = if self.bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.bind };
        SocketAddr::new(host, self.port).to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(clap::Parser)]
    struct Server {
        #[command(flatten)]
        flags: ServerFlags,
    }

    #[test]
    fn another_server_gets_what_was_chosen() {
        let chosen = ServerFlags {
            port: Some(7443),
            tls_san: Some(vec!["a".to_owned(), "b".to_owned()]),
            service_node_port_range: Some(PortRange(31000, 31999)),
            max_pending: Some(5),
            election_timeout: Some(Period(Duration::from_millis(1250))),
            storage_quota: Some(Bytes(3 << 30)),
            ..ServerFlags::default()
        };
        let chosen = chosen.resolve();
        let flags = chosen.chosen_flags(&[]).unwrap();
        assert_eq!(flags.len(), 6, "no defaults: {flags:?}");
        let program = std::iter::once("balsa".to_owned());
        let other = <Server as clap::Parser>::try_parse_from(program.chain(flags)).unwrap().flags.resolve();
        assert_eq!(serde_json::to_value(other).unwrap(), serde_json::to_value(chosen).unwrap());
    }
}
