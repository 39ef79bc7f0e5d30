//! The pod's `/etc/hosts` and `/etc/resolv.conf`.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use balsa_net::dns::{DnsPolicy, HostResolv, PodDnsConfig, resolv_conf};
use k8s_openapi::api::core::v1::Pod;

use crate::config::AgentConfig;
use crate::files::write_file;
use crate::pod::container::{fqdn, hostname};

const HOSTS: &str = "# Kubernetes-managed hosts file.\n\
    127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The text of `/etc/hosts`. `host` is the machine's own file, for pods in its network.
pub(crate) fn hosts(pod: &Pod, domain: &str, address: Option<IpAddr>, host: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = if spec.host_network == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let mut text = HOSTS.to_owned();
        if let Some(address) = address {
            let names = match fqdn(pod, domain) {
                Some(fqdn) => format!("{fqdn}\t{}", hostname(pod)),
                None => hostname(pod),
            };
            text += &format!("{address}\t{names}\n");
        }
        text
    };
    let aliases = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
    }
    for alias in aliases {
        text += &format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t"));
    }
    text
}

/// The text of `/etc/resolv.conf`.
pub(crate) fn resolv(pod: &Pod, config: &AgentConfig, host: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = DnsPolicy::from_spec(spec.dns_policy.as_deref(), spec.host_network == Some(true));
    let own = spec.dns_config.unwrap_or_default();
    let own = PodDnsConfig {
        nameservers: own.nameservers.unwrap_or_default(),
        searches: own.searches.unwrap_or_default(),
        options: own
            .options
            .into_iter()
            .flatten()
            .filter_map(|option| option.name.map(|name| (name, option.value)))
            .collect(),
    };
    let servers: Vec<IpAddr> = config.cluster_dns.map(IpAddr::V4).into_iter().collect();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    resolv_conf(policy, namespace, &config.cluster_domain, &servers, &HostResolv::parse(host), &own).render()
}

/// Writes both files into the pod's directory. They are replaced only before the first container: a
/// bind mount shows the file that was there when it was made.
pub(crate) fn write(
    pod: &Pod,
    config: &AgentConfig,
    pod_dir: &Path,
    address: Option<IpAddr>,
) -> io::Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let hosts = hosts(pod, &config.cluster_domain, address, &read("/etc/hosts"));
    write_file(&pod_dir.join("etc-hosts"), hosts.as_bytes(), 0o644)?;
    write_file(&pod_dir.join("resolv.conf"), resolv(pod, config, &read("/etc/resolv.conf")).as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "zoo"},
            "spec": {"containers": [], "hostname": "web-0", "subdomain": "web",
                "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["foo", "bar"]}]},
        }))
        .unwrap();
        let text = hosts(&pod, "cluster.local", "10.244.0.5".parse().ok(), "");
        assert!(text.contains("10.244.0.5\tweb-0.web.zoo.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n10.1.2.3\tfoo\tbar\n"), "{text}");
    }
}
