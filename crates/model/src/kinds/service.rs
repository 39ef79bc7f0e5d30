//! Service: one name and address for changing pods.
//!
//! Invariants: a ClusterIP and a node port belong to one service each ([`Kind::claims`]); a ClusterIP
//! stays as long as the service has one at all. Admission picks them, and the fold refuses what somebody
//! else has taken in the meantime.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cells;
use super::check::{balancer_address, default_text, default_to};
use crate::field::{FieldErrors, Path};
use crate::kind::{Claim, Descriptor, Kind, NameRule, Subresource};
use crate::table::{Cell, Column};

mod validation;
mod warnings;

/// The ClusterIP of services that have none on purpose.
pub const HEADLESS: &str = "None";
/// How long a client stays with its pod when nobody says otherwise, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

impl Kind for Service {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::Status, Subresource::Proxy],
        name_rule: NameRule::Dns1035Label,
        field_labels: &["spec.clusterIP", "spec.type"],
        create_on_update: true,
        columns: &[
            Column::NAME,
            Column::text("Type"),
            Column::text("Cluster-IP"),
            Column::text("External-IP"),
            Column::text("Port(s)"),
            Column::AGE,
            cells::SELECTOR,
        ],
        ..Descriptor::namespaced("", "v1", "Service", "services", "service", "core.v1.Service")
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_text(&mut spec.session_affinity, "None");
        default_text(&mut spec.type_, "ClusterIP");
        set_affinity(spec);
        for port in spec.ports.iter_mut().flatten() {
            default_text(&mut port.protocol, "TCP");
            if matches!(&port.target_port, None | Some(IntOrString::Int(0))) {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        set_addresses(spec);
        set_traffic(spec);
        default_to(&mut self.status.get_or_insert_default().load_balancer, LoadBalancerStatus::default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(ServiceStatus::default());
        // Also where there shall be no address, for validation to see it.
        if let Some(spec) = &mut self.spec {
            let address = spec.cluster_ip.iter().filter(|ip| !ip.is_empty());
            let address: Vec<String> = address.cloned().collect();
            if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) && !address.is_empty() {
                spec.cluster_ips = Some(address);
            }
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        let (Some(new), Some(old)) = (&mut self.spec, &old.spec) else { return };
        keep_allocated(new, old);
        drop_what_the_type_does_without(new, old);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        validation::validate(self, errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let path = Path::new("status").child("loadBalancer").child("ingress");
        let balancer = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for (i, item) in balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten().enumerate() {
            balancer_address(errors, &path.index(i), item.ip.as_deref(), item.hostname.as_deref());
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        validation::validate_update(self, old, errors);
    }

    fn warnings(&self) -> Vec<String> {
        warnings::of(self)
    }

    fn field(&self, label: &str) -> String {
        let spec = self.spec.as_ref();
        let text = match label {
            "spec.clusterIP" => spec.and_then(|s| s.cluster_ip.as_deref()),
            "spec.type" => Some(type_of(self)),
            _ => None,
        };
        text.unwrap_or_default().to_owned()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        vec![
            Cell::name(self.metadata()),
            Cell::text(type_of(self)),
            cells::or_none(spec.and_then(|s| s.cluster_ip.as_deref())),
            cells::or_none(Some(&external_text(self))),
            cells::or_none(Some(&ports_text(self))),
            Cell::age(self.metadata(), now),
            cells::labels(spec.and_then(|s| s.selector.as_ref())),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims: Vec<Claim> = cluster_ips(self)
            .map(|ip| Claim {
                token: format!("clusterip/{ip}"),
                field: "spec.clusterIPs",
                refusal: "provided IP is already allocated",
            })
            .collect();
        for port in ports(self) {
            let Some(number) = port.node_port.filter(|n| *n != 0) else { continue };
            claims.push(node_port_claim(port.protocol.as_deref().unwrap_or("TCP"), number));
        }
        if let Some(number) = health_check_port(self) {
            claims.push(node_port_claim("TCP", number));
        }
        // A port of two names and one protocol is one claim: it is the service's own.
        let mut seen = std::collections::HashSet::new();
        claims.retain(|claim| seen.insert(claim.token.clone()));
        claims
    }
}

fn node_port_claim(protocol: &str, number: i32) -> Claim {
    Claim {
        token: format!("nodeport/{protocol}/{number}"),
        field: "spec.ports[0].nodePort",
        refusal: "provided port is already allocated",
    }
}

fn set_affinity(spec: &mut ServiceSpec) {
    if spec.session_affinity.as_deref() == Some("None") {
        spec.session_affinity_config = None;
    } else if spec.session_affinity.as_deref() == Some("ClientIP")
        && spec
            .session_affinity_config
            .as_ref()
            .is_none_or(|c| c.client_ip.as_ref().is_none_or(|ip| ip.timeout_seconds.is_none()))
    {
        let client_ip = ClientIPConfig { timeout_seconds: Some(AFFINITY_SECONDS) };
        spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client_ip) });
    }
}

/// `clusterIP` and `clusterIPs` say the same, and families follow from addresses.
fn set_addresses(spec: &mut ServiceSpec) {
    let type_ = spec.type_.as_deref();
    if type_ == Some("ExternalName") {
        return;
    }
    if spec.cluster_ip.as_deref() == Some("") {
        spec.cluster_ip = None;
    }
    if spec.cluster_ips.as_ref().is_some_and(Vec::is_empty) {
        spec.cluster_ips = None;
    }
    match (&spec.cluster_ip, &spec.cluster_ips) {
        (Some(ip), None) => spec.cluster_ips = Some(vec![ip.clone()]),
        (None, Some(ips)) => spec.cluster_ip = ips.first().cloned(),
        _ => {}
    }
    // One family is what this cluster has; a second one would have to be allocated from a second range. Whoever keeps
    // the endpoints by hand may have them of both.
    let is_headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
    let is_by_hand = is_headless && spec.selector.as_ref().is_none_or(BTreeMap::is_empty);
    default_text(&mut spec.ip_family_policy, if is_by_hand { "RequireDualStack" } else { "SingleStack" });
    let is_six = spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':'));
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.push(if is_six { "IPv6" } else { "IPv4" }.to_owned());
    }
    let has_both = is_by_hand && spec.ip_family_policy.as_deref() != Some("SingleStack");
    if let [one] = families.as_slice()
        && has_both
    {
        let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
}

fn set_traffic(spec: &mut ServiceSpec) {
    match spec.type_.as_deref() {
        Some("NodePort" | "LoadBalancer") => {
            default_text(&mut spec.external_traffic_policy, "Cluster");
            default_text(&mut spec.internal_traffic_policy, "Cluster");
        }
        Some("ClusterIP") => {
            default_text(&mut spec.internal_traffic_policy, "Cluster");
            let has_external = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
            if has_external {
                default_text(&mut spec.external_traffic_policy, "Cluster");
            }
        }
        _ => {}
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        default_to(&mut spec.allocate_load_balancer_node_ports, true);
    }
}

/// Clients that write back what they once created do not know what was allocated since.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    let type_of = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
    let has_address = |spec: &ServiceSpec| type_of(spec) != "ExternalName";
    if !(has_address(new) && has_address(old)) {
        return;
    }
    let is_open = |ip: Option<&String>| ip.is_none_or(String::is_empty);
    let (new_list, old_list) = (new.cluster_ips.clone().unwrap_or_default(), &old.cluster_ips);
    let says_nothing_else = is_open(new_list.first()) || Some(&new_list) == old_list.as_ref();
    if is_open(new.cluster_ip.as_ref()) && says_nothing_else {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(old_list);
    } else if new.cluster_ip != old.cluster_ip && new.cluster_ips == *old_list {
        // Only the old, single field was written: it leads.
        new.cluster_ips = new.cluster_ip.clone().filter(|ip| !ip.is_empty()).map(|ip| vec![ip]);
    } else if is_open(new.cluster_ip.as_ref()) {
        new.cluster_ip = new_list.first().cloned();
    }
    if new.ip_families.is_none() {
        new.ip_families.clone_from(&old.ip_families);
    }
    if new.ip_family_policy.is_none() {
        new.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    if uses_node_ports(&type_of(new)) && uses_node_ports(&type_of(old)) {
        keep_node_ports(new, old);
    }
}

fn uses_node_ports(type_: &str) -> bool {
    matches!(type_, "NodePort" | "LoadBalancer")
}

fn keep_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let key = |port: &ServicePort| (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()));
    let taken: Vec<i32> =
        new.ports.iter().flatten().filter_map(|p| p.node_port).filter(|n| *n != 0).collect();
    for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
        let known = old.ports.iter().flatten().find(|old| key(old) == key(port));
        port.node_port = known.and_then(|p| p.node_port).filter(|n| !taken.contains(n));
    }
    if new.health_check_node_port.unwrap_or(0) == 0 && wants_health_check(new) {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// After a change of type, what was allocated or defaulted for the old one goes, unless the client changed it.
fn drop_what_the_type_does_without(new: &mut ServiceSpec, old: &ServiceSpec) {
    let (new_type, old_type) = (new.type_.clone().unwrap_or_default(), old.type_.clone().unwrap_or_default());
    if new_type == "ExternalName" && old_type != "ExternalName" {
        if new.cluster_ip == old.cluster_ip {
            new.cluster_ip = None;
        }
        if new.cluster_ips == old.cluster_ips {
            new.cluster_ips = None;
        }
        (new.ip_families, new.ip_family_policy) = (None, None);
        new.internal_traffic_policy = None;
    }
    if uses_node_ports(&old_type) && !uses_node_ports(&new_type) {
        let same = |new: &ServicePort| {
            old.ports.iter().flatten().any(|old| old.port == new.port && old.node_port == new.node_port)
        };
        for port in new.ports.iter_mut().flatten() {
            if same(port) {
                port.node_port = None;
            }
        }
        if new.external_traffic_policy == old.external_traffic_policy {
            new.external_traffic_policy = None;
        }
    }
    let is_same_check = new.health_check_node_port == old.health_check_node_port;
    if wants_health_check(old) && !wants_health_check(new) && is_same_check {
        new.health_check_node_port = None;
    }
    if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
        new.allocate_load_balancer_node_ports = None;
        new.load_balancer_class = None;
    }
}

fn external_text(service: &Service) -> String {
    let Some(spec) = &service.spec else { return String::new() };
    let external = || spec.external_ips.clone().unwrap_or_default();
    match type_of(service) {
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        "LoadBalancer" => {
            let mut all = ingress_addresses(service);
            all.extend(external());
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => external().join(","),
    }
}

fn ingress_addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    ingress
        .filter_map(|i| i.ip.clone().filter(|ip| !ip.is_empty()).or_else(|| i.hostname.clone()))
        .filter(|text| !text.is_empty())
        .collect()
}

fn ports_text(service: &Service) -> String {
    let texts: Vec<String> = ports(service)
        .iter()
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port.filter(|n| *n != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        })
        .collect();
    texts.join(",")
}

/// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
pub fn type_of(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP")
}

/// Its ports.
pub fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

/// Whether its name leads to its pods' own addresses.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some(HEADLESS))
}

/// Its addresses in the cluster: none when it is headless or only a name.
pub fn cluster_ips(service: &Service) -> impl Iterator<Item = &str> {
    let listed = service.spec.iter().flat_map(|s| s.cluster_ips.iter().flatten());
    listed.map(String::as_str).filter(|ip| !ip.is_empty() && *ip != HEADLESS)
}

/// Its first address in the cluster.
pub fn cluster_ip(service: &Service) -> Option<&str> {
    cluster_ips(service).next()
}

/// Whether load balancers ask its nodes whether they have pods of it.
pub fn wants_health_check(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Whether a node port is to be picked at which load balancers ask a node for its pods.
pub fn needs_health_check_port(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(wants_health_check) && health_check_port(service).is_none()
}

/// The node port at which load balancers ask a node whether it has pods of this service.
pub fn health_check_port(service: &Service) -> Option<i32> {
    service.spec.as_ref()?.health_check_node_port.filter(|n| *n != 0)
}

/// Gives it its health check port.
pub fn set_health_check_port(service: &mut Service, node_port: i32) {
    service.spec.get_or_insert_default().health_check_node_port = Some(node_port);
}

#[cfg(test)]
mod tests;
