//! What a name of the cluster leads to: a pure function, after Kubernetes' DNS specification.
//!
//! The difference between NODATA and NXDOMAIN matters: resolvers ask for A and AAAA at once, and
//! some give the name up when either is answered with NXDOMAIN. So a name that exists, or has
//! names below it, is never NXDOMAIN, whatever type is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::view::{DnsEndpoint, DnsPort, DnsService, DnsTarget, DnsView};

/// What can be asked for. Other types exist, but have no data here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are DNS' own names")]
pub enum QueryType {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Soa,
    Ns,
    Txt,
    Any,
    Other,
}

/// The data of a record. Names have no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are DNS' own names")]
pub enum RecordData {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Ptr(String),
    Cname(String),
    Ns(String),
    Txt(String),
    Soa,
}

/// A record of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// The name it is about.
    pub name: String,
    /// Its data.
    pub data: RecordData,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name exists; without records this is NODATA.
    Found {
        /// The answer section.
        records: Vec<DnsRecord>,
        /// Addresses of the names in it.
        additional: Vec<DnsRecord>,
    },
    /// The name is another's: the asker gets this record and what `target` leads to.
    Alias {
        /// The other name.
        target: String,
    },
    /// There is no such name in the cluster.
    NxDomain,
    /// Not a name of the cluster: forward it.
    NotOurs,
}

impl Answer {
    fn found(records: Vec<DnsRecord>) -> Self {
        Self::Found { records, additional: Vec::new() }
    }

    fn no_data() -> Self {
        Self::found(Vec::new())
    }
}

/// Answers a query for `name`, which may be written in any case and with a trailing dot.
pub fn answer(view: &DnsView, name: &str, kind: QueryType) -> Answer {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == view.domain {
        return apex(view, kind);
    }
    if let Some(inside) = name.strip_suffix(&view.domain).and_then(|rest| rest.strip_suffix('.')) {
        let labels: Vec<&str> = inside.rsplit('.').collect();
        return inside_cluster(view, &name, &labels, kind);
    }
    match reverse_address(&name).and_then(|address| view.names_by_address.get(&address)) {
        Some(names) if matches!(kind, QueryType::Ptr | QueryType::Any) => {
            Answer::found(names.iter().map(|target| record(&name, RecordData::Ptr(target.clone()))).collect())
        }
        Some(_) => Answer::no_data(),
        None => Answer::NotOurs,
    }
}

fn apex(view: &DnsView, kind: QueryType) -> Answer {
    let soa = || record(&view.domain, RecordData::Soa);
    let ns = || record(&view.domain, RecordData::Ns(format!("ns.dns.{}", view.domain)));
    match kind {
        QueryType::Soa => Answer::found(vec![soa()]),
        QueryType::Ns => Answer::found(vec![ns()]),
        QueryType::Any => Answer::found(vec![soa(), ns()]),
        _ => Answer::no_data(),
    }
}

/// `labels` are those before the cluster domain, from the last to the first.
fn inside_cluster(view: &DnsView, name: &str, labels: &[&str], kind: QueryType) -> Answer {
    let has_namespace = |namespace: &str| view.namespaces.contains(namespace);
    match labels {
        ["svc" | "pod" | "dns"] => Answer::no_data(),
        ["svc" | "pod", namespace] if has_namespace(namespace) => Answer::no_data(),
        ["dns", "ns"] => {
            Answer::found(view.dns_service.and_then(|ip| address(name, ip, kind)).into_iter().collect())
        }
        ["dns-version"] => match kind {
            QueryType::Txt | QueryType::Any => {
                Answer::found(vec![record(name, RecordData::Txt("1.1.0".into()))])
            }
            _ => Answer::no_data(),
        },
        ["pod", namespace, dashed] if has_namespace(namespace) => match dashed_address(dashed) {
            Some(ip) => Answer::found(address(name, ip, kind).into_iter().collect()),
            None => Answer::NxDomain,
        },
        ["svc", namespace, service, rest @ ..] => {
            let key = ((*namespace).to_owned(), (*service).to_owned());
            match view.services.get(&key) {
                Some(service) => of_service(view, service, name, rest, kind),
                None => Answer::NxDomain,
            }
        }
        _ => Answer::NxDomain,
    }
}

/// `rest` are the labels before the service's name, from the last to the first.
fn of_service(view: &DnsView, service: &DnsService, name: &str, rest: &[&str], kind: QueryType) -> Answer {
    if let DnsTarget::ExternalName(target) = &service.target {
        return if rest.is_empty() {
            Answer::Alias { target: target.trim_end_matches('.').to_ascii_lowercase() }
        } else {
            Answer::NxDomain
        };
    }
    match rest {
        [] if kind == QueryType::Srv => servers(view, service, name, |_| true),
        [] => Answer::found(addresses(service).filter_map(|ip| address(name, ip, kind)).collect()),
        [protocol] if protocol.starts_with('_') => {
            let exists = all_ports(service).any(|port| is_protocol(port, protocol) && !port.name.is_empty());
            if exists { Answer::no_data() } else { Answer::NxDomain }
        }
        [protocol, port_name] if protocol.starts_with('_') && port_name.starts_with('_') => {
            let matching = |port: &DnsPort| {
                is_protocol(port, protocol)
                    && !port.name.is_empty()
                    && port.name.eq_ignore_ascii_case(&port_name[1..])
            };
            match (all_ports(service).any(matching), kind) {
                (false, _) => Answer::NxDomain,
                (true, QueryType::Srv | QueryType::Any) => servers(view, service, name, matching),
                (true, _) => Answer::no_data(),
            }
        }
        [label] => {
            let named: Vec<_> = shown(service).filter(|endpoint| endpoint.label() == *label).collect();
            if named.is_empty() {
                return Answer::NxDomain;
            }
            Answer::found(named.iter().filter_map(|endpoint| address(name, endpoint.address, kind)).collect())
        }
        _ => Answer::NxDomain,
    }
}

/// SRV records of the ports that `matching` takes: of the service, or of each headless endpoint.
fn servers(view: &DnsView, service: &DnsService, name: &str, matching: impl Fn(&DnsPort) -> bool) -> Answer {
    let base = format!("{}.{}.svc.{}", service.name, service.namespace, view.domain);
    let mut targets: Vec<(u16, String, Vec<IpAddr>)> = Vec::new();
    if service.target == DnsTarget::Headless {
        for endpoint in shown(service) {
            for port in endpoint.ports.iter().filter(|port| matching(port)) {
                targets.push((port.port, format!("{}.{base}", endpoint.label()), vec![endpoint.address]));
            }
        }
    } else {
        for port in service.ports.iter().filter(|port| matching(port)) {
            targets.push((port.port, base.clone(), addresses(service).collect()));
        }
    }
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
    let mut records = Vec::with_capacity(targets.len());
    let mut additional = Vec::new();
    for (port, target, ips) in targets {
        for found in ips.into_iter().filter_map(|ip| address(&target, ip, QueryType::Any)) {
            if !additional.contains(&found) {
                additional.push(found);
            }
        }
        records.push(record(name, RecordData::Srv { priority: 0, weight, port, target }));
    }
    Answer::Found { records, additional }
}

fn shown(service: &DnsService) -> impl Iterator<Item = &DnsEndpoint> {
    service.endpoints.iter().filter(|endpoint| endpoint.ready || service.publish_not_ready)
}

fn addresses(service: &DnsService) -> Box<dyn Iterator<Item = IpAddr> + '_> {
    match &service.target {
        DnsTarget::ClusterIps(ips) => Box::new(ips.iter().copied()),
        DnsTarget::Headless => Box::new(shown(service).map(|endpoint| endpoint.address)),
        DnsTarget::ExternalName(_) => Box::new(std::iter::empty()),
    }
}

fn all_ports(service: &DnsService) -> impl Iterator<Item = &DnsPort> {
    service.ports.iter().chain(shown(service).flat_map(|endpoint| &endpoint.ports))
}

fn is_protocol(port: &DnsPort, label: &str) -> bool {
    label.strip_prefix('_') == Some(port.protocol.name())
}

fn record(name: &str, data: RecordData) -> DnsRecord {
    DnsRecord { name: name.to_owned(), data }
}

fn address(name: &str, ip: IpAddr, kind: QueryType) -> Option<DnsRecord> {
    match (ip, kind) {
        (IpAddr::V4(ip), QueryType::A | QueryType::Any) => Some(record(name, RecordData::A(ip))),
        (IpAddr::V6(ip), QueryType::Aaaa | QueryType::Any) => Some(record(name, RecordData::Aaaa(ip))),
        _ => None,
    }
}

fn dashed_address(label: &str) -> Option<IpAddr> {
    let dotted = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    dotted.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The address in `4.3.2.1.in-addr.arpa`, or in 32 nibbles under `ip6.arpa`.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let forward: Vec<&str> = octets.rsplit('.').collect();
        return forward.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: String = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    (nibbles.len() == 32)
        .then(|| u128::from_str_radix(&nibbles, 16).ok())
        .flatten()
        .map(|n| IpAddr::V6(n.into()))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
