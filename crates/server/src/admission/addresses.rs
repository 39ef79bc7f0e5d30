//! ClusterIPs and node ports: a free one is picked here, and the fold refuses a second owner.
//!
//! Whoever loses that race is told so by [`is_address_collision`] and picks again.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use balsa_model::field::{FieldErrors, Path};
use balsa_model::kind::kind_of;
use balsa_model::kinds::service;
use balsa_model::{AnyObject, Failure, KindRef, Object, Reason};
use balsa_state::{Refusal, State};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use rand::RngExt as _;

use super::AdmissionConfig;

/// How many random picks are tried before the range is searched in order.
const PICKS: usize = 32;

pub(super) fn allocate(
    state: &State,
    config: &AdmissionConfig,
    object: &mut dyn AnyObject,
) -> Result<(), Failure> {
    let Some(service) = object.as_any_mut().downcast_mut::<Service>() else { return Ok(()) };
    let object_name = service.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = service.spec.as_mut() else { return Ok(()) };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP").to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    check_wanted(config, &kind, object_name, spec)?;
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        let ip = pick_address(state, config.service_cidr)?.to_string();
        spec.cluster_ip = Some(ip.clone());
        spec.cluster_ips = Some(vec![ip]);
    } else if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
        spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    }
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false));
    if wants_ports {
        pick_node_ports(state, config.node_ports, spec)?;
    }
    if service::needs_health_check_port(service) {
        pick_health_check_port(state, config.node_ports, service)?;
    }
    Ok(())
}

/// Refuses what the client picked outside of the cluster's ranges. What is no address at all is left to
/// the service's own validation.
fn check_wanted(config: &AdmissionConfig, kind: &str, name: &str, spec: &ServiceSpec) -> Result<(), Failure> {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    let picked = spec.cluster_ip.as_deref().unwrap_or_default();
    if let Ok(address) = picked.parse::<IpAddr>()
        && !config.service_cidr.contains(&address)
    {
        let detail = format!(
            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
            config.service_cidr
        );
        errors.invalid(&path.child("clusterIPs"), vec![picked], detail);
    }
    let (first, last) = config.node_ports;
    let range = i32::from(first)..=i32::from(last);
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let Some(number) = port.node_port.filter(|n| *n != 0 && !range.contains(n)) else { continue };
        if matches!(kind, "NodePort" | "LoadBalancer") {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            );
            errors.invalid(&path.child("ports").index(i).child("nodePort"), number, detail);
        }
    }
    // A port for checks that there are none of is left to validation.
    let checked = spec.health_check_node_port.filter(|_| service::wants_health_check(spec));
    if let Some(number) = checked.filter(|n| *n != 0 && !range.contains(n)) {
        return Err(Failure::internal(format!(
            "failed to allocate requested HealthCheck NodePort {number}: provided port is not in the valid range. The range of valid ports is {first}-{last}"
        )));
    }
    Failure::invalid(kind_of::<Service>().descriptor(), name, errors).map_or(Ok(()), Err)
}

/// The one family of the cluster's range is what services can have. What an object had before stays.
pub(super) fn require_family(
    config: &AdmissionConfig,
    object: &dyn AnyObject,
    old: Option<&Object>,
) -> Result<(), Failure> {
    let Some(service) = object.as_any().downcast_ref::<Service>() else { return Ok(()) };
    let Some(spec) = &service.spec else { return Ok(()) };
    let wanted = |spec: &ServiceSpec| (spec.ip_family_policy.clone(), spec.ip_families.clone());
    let before = old.and_then(Object::typed::<Service>).and_then(|old| old.spec.as_ref().map(wanted));
    // Who keeps the endpoints of a service by hand may have addresses of any family there.
    let by_hand = service::is_headless(service) && spec.selector.as_ref().is_none_or(BTreeMap::is_empty);
    if by_hand || service::type_of(service) == "ExternalName" || before == Some(wanted(spec)) {
        return Ok(());
    }
    let errors = family_errors(config, spec);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    Failure::invalid(kind_of::<Service>().descriptor(), name, errors).map_or(Ok(()), Err)
}

fn family_errors(config: &AdmissionConfig, spec: &ServiceSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    let policy = spec.ip_family_policy.as_deref().unwrap_or_default();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let policy_path = path.child("ipFamilyPolicy");
    if policy == "SingleStack" && families.len() > 1 {
        let detail =
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        errors.invalid(&policy_path, policy, detail);
        return errors;
    }
    if policy == "RequireDualStack" {
        errors.invalid(&policy_path, policy, "this cluster is not configured for dual-stack services");
    }
    let ours = if config.service_cidr.addr().is_ipv6() { "IPv6" } else { "IPv4" };
    for (i, family) in families.iter().enumerate().filter(|(_, family)| *family != ours) {
        // Another word than the two is left to validation.
        if matches!(family.as_str(), "IPv4" | "IPv6") {
            let path = path.child("ipFamilies").index(i);
            errors.invalid(&path, family.as_str(), "not configured on this cluster");
        }
    }
    errors
}

fn services(state: &State) -> Vec<Arc<Service>> {
    state.view(kind_of::<Service>()).iter().filter_map(|object| object.typed()).collect()
}

fn pick_address(state: &State, range: IpNet) -> Result<IpAddr, Failure> {
    let services = services(state);
    let used: HashSet<&str> =
        services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.as_deref()).collect();
    let IpNet::V4(range) = range else {
        return Err(Failure::internal("the service range must be IPv4"));
    };
    // The network, the API's own address and DNS come first and are taken or reserved by name.
    let (first, last) = (u32::from(range.network()) + 1, u32::from(range.broadcast()).saturating_sub(1));
    let mut random = balsa_rt::Random;
    let free = |n: u32| {
        let ip = IpAddr::V4(n.into());
        (!used.contains(ip.to_string().as_str())).then_some(ip)
    };
    let lucky = (0..PICKS).find_map(|_| free(random.random_range(first..=last)));
    lucky.or_else(|| (first..=last).find_map(free)).ok_or_else(|| {
        Failure::new(Reason::InternalError, format!("range is full: no free address in {range}"))
    })
}

fn pick_node_ports(state: &State, range: (u16, u16), spec: &mut ServiceSpec) -> Result<(), Failure> {
    let mut used = used_ports(services(state).iter().flat_map(|service| &service.spec));
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let protocol = protocol(port);
        let free = free_port(&used, &protocol, range)?;
        used.insert((protocol, free));
        port.node_port = Some(free);
    }
    Ok(())
}

/// Load balancers ask at a port of its own which nodes have pods of the service.
fn pick_health_check_port(state: &State, range: (u16, u16), service: &mut Service) -> Result<(), Failure> {
    let all = services(state);
    let used = used_ports(all.iter().flat_map(|service| &service.spec).chain(&service.spec));
    service::set_health_check_port(service, free_port(&used, "TCP", range)?);
    Ok(())
}

fn used_ports<'a>(services: impl Iterator<Item = &'a ServiceSpec>) -> HashSet<(String, i32)> {
    let mut used = HashSet::new();
    for spec in services {
        let of_ports = spec.ports.iter().flatten();
        used.extend(of_ports.filter_map(|port| port.node_port.map(|number| (protocol(port), number))));
        used.extend(spec.health_check_node_port.map(|number| ("TCP".to_owned(), number)));
    }
    used
}

fn free_port(
    used: &HashSet<(String, i32)>,
    protocol: &str,
    (first, last): (u16, u16),
) -> Result<i32, Failure> {
    let mut random = balsa_rt::Random;
    let lucky = (0..PICKS).map(|_| i32::from(random.random_range(first..=last)));
    let mut candidates = lucky.chain(i32::from(first)..=i32::from(last));
    candidates.find(|number| !used.contains(&(protocol.to_owned(), *number))).ok_or_else(|| {
        Failure::new(Reason::InternalError, format!("range is full: no free node port in {first}-{last}"))
    })
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
}

/// Whether an object of a kind may be given addresses or ports when it is admitted.
pub(crate) fn picks_addresses(kind: KindRef) -> bool {
    kind == kind_of::<Service>()
}

/// Whether a proposal failed only because somebody else has just taken what was picked for it.
pub(crate) fn is_address_collision(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Claimed { .. })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn there_is_one_family() {
        let config =
            AdmissionConfig { service_cidr: "10.96.0.0/16".parse().unwrap(), node_ports: (30000, 32767) };
        let multiple = "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
            'PreferDualStack' when multiple IP families are specified";
        let unknown = "Invalid value: \"IPv6\": not configured on this cluster";
        let dual = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
            dual-stack services";
        for (policy, families, wanted) in [
            ("SingleStack", vec!["IPv4"], vec![]),
            ("PreferDualStack", vec!["IPv4"], vec![]),
            ("SingleStack", vec!["IPv6"], vec![format!("spec.ipFamilies[0]: {unknown}")]),
            ("SingleStack", vec!["IPv4", "IPv6"], vec![multiple.to_owned()]),
            (
                "RequireDualStack",
                vec!["IPv4", "IPv6"],
                vec![dual.to_owned(), format!("spec.ipFamilies[1]: {unknown}")],
            ),
        ] {
            let spec = json!({"ipFamilyPolicy": policy, "ipFamilies": families});
            let errors = family_errors(&config, &serde_json::from_value(spec).unwrap()).into_vec();
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn ports_of_health_checks_are_taken_too() {
        let spec: ServiceSpec = serde_json::from_value(
            json!({"healthCheckNodePort": 30001, "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30000}]}),
        )
        .unwrap();
        let used = used_ports([&spec].into_iter());
        assert_eq!(free_port(&used, "TCP", (30000, 30001)).unwrap(), 30000);
        assert_eq!(free_port(&used, "UDP", (30000, 30001)).unwrap(), 30001);
        assert!(free_port(&used, "TCP", (30001, 30001)).is_err());
    }
}
