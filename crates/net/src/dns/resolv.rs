//! A pod's `resolv.conf`, as Kubernetes makes it from `dnsPolicy` and `dnsConfig`. Pure.

use std::net::IpAddr;

/// What glibc of today reads at most; the kubelet cuts there too.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// `spec.dnsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// Cluster DNS; for pods in the host's network the host's.
    #[default]
    ClusterFirst,
    /// Cluster DNS, also in the host's network.
    ClusterFirstWithHostNet,
    /// The host's.
    Default,
    /// Only what `dnsConfig` says.
    None,
}

impl DnsPolicy {
    /// From `spec.dnsPolicy` and `spec.hostNetwork`.
    pub fn from_spec(policy: Option<&str>, host_network: bool) -> Self {
        match policy {
            Some("Default") => Self::Default,
            Some("None") => Self::None,
            Some("ClusterFirstWithHostNet") => Self::ClusterFirstWithHostNet,
            _ if host_network => Self::Default,
            _ => Self::ClusterFirst,
        }
    }
}

/// `spec.dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDnsConfig {
    /// `nameservers`.
    pub nameservers: Vec<String>,
    /// `searches`.
    pub searches: Vec<String>,
    /// `options`: name and value.
    pub options: Vec<(String, Option<String>)>,
}

/// The host's `resolv.conf`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostResolv {
    /// Its `nameserver` lines.
    pub nameservers: Vec<String>,
    /// Its last `search` (or `domain`) line.
    pub searches: Vec<String>,
    /// Its `options`.
    pub options: Vec<String>,
}

impl HostResolv {
    /// Parses the text of a `resolv.conf`; lines it does not know are left out.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    found.searches = words
                        .map(|word| word.trim_end_matches('.').to_owned())
                        .filter(|word| !word.is_empty())
                        .collect();
                }
                Some("options") => found.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        found
    }

    /// The servers to forward to, at port 53. A zone index (`fe80::1%eth0`) cannot be used.
    pub fn upstreams(&self) -> Vec<std::net::SocketAddr> {
        self.nameservers
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .map(|ip| (ip, 53).into())
            .collect()
    }
}

/// A `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers, at most three.
    pub nameservers: Vec<String>,
    /// The search path.
    pub searches: Vec<String>,
    /// Options as they are written.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

/// The `resolv.conf` of a pod in `namespace`. `cluster_dns` is the cluster DNS service's address
/// (for a pod in the host's network better the node's gateway address).
pub fn resolv_conf(
    policy: DnsPolicy,
    namespace: &str,
    cluster_domain: &str,
    cluster_dns: &[IpAddr],
    host: &HostResolv,
    config: &PodDnsConfig,
) -> ResolvConf {
    let mut conf = match policy {
        DnsPolicy::None => ResolvConf::default(),
        DnsPolicy::Default => ResolvConf {
            nameservers: host.nameservers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        },
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => {
            let domain = cluster_domain.trim_matches('.');
            let ours = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            ResolvConf {
                nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
                searches: ours.into_iter().chain(host.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".into()],
            }
        }
    };
    conf.nameservers.extend(config.nameservers.iter().cloned());
    conf.searches.extend(config.searches.iter().map(|s| s.trim_end_matches('.').to_owned()));
    conf.options = merge_options(conf.options, &config.options);
    limit(conf)
}

// The pod's word counts: an option of the same name replaces the one before.
fn merge_options(base: Vec<String>, pod: &[(String, Option<String>)]) -> Vec<String> {
    let name = |option: &str| option.split(':').next().unwrap_or("").to_owned();
    let mut merged: Vec<String> = base;
    for (key, value) in pod {
        let text = match value {
            Some(value) if !value.is_empty() => format!("{key}:{value}"),
            _ => key.clone(),
        };
        match merged.iter_mut().find(|option| name(option) == *key) {
            Some(option) => *option = text,
            None => merged.push(text),
        }
    }
    merged
}

fn limit(mut conf: ResolvConf) -> ResolvConf {
    dedup(&mut conf.nameservers);
    dedup(&mut conf.searches);
    conf.nameservers.truncate(MAX_NAMESERVERS);
    conf.searches.truncate(MAX_SEARCHES);
    while conf.searches.join(" ").len() > MAX_SEARCH_CHARS {
        conf.searches.pop();
    }
    conf
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 9.9.9.9\nnameserver 1.1.1.1 ; second\nsearch corp.example. lab.example\noptions timeout:1 rotate\n";

    fn make(policy: DnsPolicy, config: &PodDnsConfig) -> String {
        let dns: IpAddr = "10.96.0.10".parse().unwrap();
        resolv_conf(policy, "shop", "cluster.local", &[dns], &HostResolv::parse(HOST), config).render()
    }

    #[test]
    fn each_policy_gives_what_kubernetes_gives() {
        let none = PodDnsConfig::default();
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example lab.example\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(make(DnsPolicy::ClusterFirst, &none), cluster);
        assert_eq!(make(DnsPolicy::ClusterFirstWithHostNet, &none), cluster);
        assert_eq!(
            make(DnsPolicy::Default, &none),
            "search corp.example lab.example\nnameserver 9.9.9.9\nnameserver 1.1.1.1\noptions timeout:1 rotate\n"
        );
        assert_eq!(make(DnsPolicy::None, &none), "");
        assert_eq!(DnsPolicy::from_spec(Some("ClusterFirst"), true), DnsPolicy::Default);
        assert_eq!(DnsPolicy::from_spec(None, false), DnsPolicy::ClusterFirst);
    }

    #[test]
    fn the_pods_own_config_is_merged_in() {
        let config = PodDnsConfig {
            nameservers: vec!["1.2.3.4".into(), "10.96.0.10".into()],
            searches: vec!["ns1.svc.cluster.local".into(), "cluster.local".into()],
            options: vec![("ndots".into(), Some("2".into())), ("edns0".into(), None)],
        };
        let text = make(DnsPolicy::ClusterFirst, &config);
        assert!(text.contains("cluster.local corp.example lab.example ns1.svc.cluster.local\n"), "{text}");
        assert!(
            text.contains("nameserver 10.96.0.10\nnameserver 1.2.3.4\noptions ndots:2 edns0\n"),
            "{text}"
        );
        assert_eq!(
            make(DnsPolicy::None, &config),
            "search ns1.svc.cluster.local cluster.local\nnameserver 1.2.3.4\nnameserver 10.96.0.10\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn limits_are_kept() {
        let config = PodDnsConfig {
            nameservers: (1..9).map(|n| format!("10.0.0.{n}")).collect(),
            searches: (0..60).map(|n| format!("s{n}.example")).collect(),
            options: Vec::new(),
        };
        let host = HostResolv::default();
        let conf = resolv_conf(DnsPolicy::None, "a", "cluster.local", &[], &host, &config);
        assert_eq!((conf.nameservers.len(), conf.searches.len()), (3, 32));
    }

    #[test]
    fn upstreams_are_the_hosts_name_servers() {
        let host = HostResolv::parse("nameserver 9.9.9.9\nnameserver fe80::1%eth0\nnameserver ::1\n");
        assert_eq!(host.upstreams(), ["9.9.9.9:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
