//! What is wrong with a service.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{HEADLESS, health_check_port, type_of};
use crate::field::{CauseKind, FieldErrors, Path};
use crate::kinds::check::{
    in_range, invalid_each, ip, is_cidr, json, label, one_of, port, port_or_name, required_one_of, subdomain,
};
use crate::kinds::endpoints::validate_endpoint_ip;
use crate::meta::{self, qualified_name};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// The port of every node's own API: a load balancer that opens too much would open it to the world.
const KUBELET_PORT: i32 = 10_250;
/// Longest time that a client stays with its pod: a day.
const MOST_AFFINITY_SECONDS: i64 = 86_400;

/// Checks a service by itself.
pub(super) fn validate(service: &Service, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), ServiceSpec::default());
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let type_ = type_of(service);
    let headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && type_ != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    if type_ == "ExternalName" {
        validate_external_name(spec, &path, errors);
    }
    validate_ports(ports, type_, &path.child("ports"), errors);
    meta::validate_labels(spec.selector.as_ref(), &path.child("selector"), errors);
    validate_affinity(spec, &path, errors);
    validate_addresses(spec, type_, &path, errors);
    required_one_of(errors, &path.child("type"), spec.type_.as_deref(), TYPES);
    validate_node_ports(ports, type_, &path.child("ports"), errors);
    validate_traffic(spec, type_, &path, errors);
}

fn validate_external_name(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        subdomain(errors, &path.child("externalName"), name.trim_end_matches('.'));
    }
    if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        errors.forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services");
    }
}

fn validate_ports(ports: &[ServicePort], type_: &str, path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, item) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = item.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else {
            label(errors, &path.child("name"), name);
            if !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        port(errors, &path.child("port"), item.port);
        let protocol = item.protocol.as_deref();
        required_one_of(errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(target) = &item.target_port {
            port_or_name(errors, &path.child("targetPort"), target);
        }
        if let Some(protocol) = &item.app_protocol {
            invalid_each(errors, &path.child("appProtocol"), protocol, qualified_name(protocol));
        }
    }
    let mut seen = HashSet::new();
    for (i, item) in ports.iter().enumerate() {
        if type_ == "LoadBalancer" && item.port == KUBELET_PORT {
            let detail = "may not expose port 10250 externally since it is used by kubelet";
            errors.invalid(&path.index(i), item.port, detail);
        }
        let key = (item.port, item.protocol.as_deref().unwrap_or("TCP"));
        if !seen.insert(key) {
            let shown = serde_json::json!({"protocol": key.1, "port": key.0});
            errors.duplicate(&path.index(i), shown);
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let affinity = spec.session_affinity.as_deref();
    required_one_of(errors, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        (Some("ClientIP"), Some(config)) => {
            let path = config_path.child("clientIP").child("timeoutSeconds");
            match config.client_ip.as_ref().and_then(|ip| ip.timeout_seconds) {
                None => errors.required(&path, ""),
                Some(seconds) => {
                    if !(1..=MOST_AFFINITY_SECONDS).contains(&i64::from(seconds)) {
                        let detail = format!("must be greater than 0 and less than {MOST_AFFINITY_SECONDS}");
                        errors.invalid(&path, seconds, detail);
                    }
                }
            }
        }
        (Some("None"), Some(_)) => {
            errors.forbidden(&config_path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn validate_addresses(spec: &ServiceSpec, type_: &str, path: &Path, errors: &mut FieldErrors) {
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let ips_path = path.child("clusterIPs");
    if type_ != "ExternalName" {
        if ips.len() > 2 {
            errors.invalid(&ips_path, json(&ips), "may only hold up to 2 values");
        }
        if let (Some(ip), Some(first)) = (spec.cluster_ip.as_deref(), ips.first())
            && ip != first
        {
            errors.invalid(&ips_path, json(&ips), "first value must match `clusterIP`");
        }
        if ips.len() > 1 && ips.iter().any(|ip| ip == HEADLESS) {
            errors.invalid(&ips_path.index(0), json(&ips), "'None' must be the first and only value");
        } else if ips.first().is_none_or(|ip| ip != HEADLESS) {
            for (i, text) in ips.iter().enumerate() {
                ip(errors, &ips_path.index(i), text);
            }
        } else if type_ != "ClusterIP" {
            let detail = format!("may not be set to 'None' for {type_} services");
            errors.invalid(&ips_path.index(0), HEADLESS, detail);
        }
    }
    let known = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    if let Some(policy) = &spec.ip_family_policy {
        one_of(errors, &path.child("ipFamilyPolicy"), policy, &known);
    }
    let mut families = HashSet::new();
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        let path = path.child("ipFamilies").index(i);
        one_of(errors, &path, family, &["IPv4", "IPv6"]);
        if !families.insert(family) {
            errors.duplicate(&path, family.as_str());
        }
    }
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        validate_endpoint_ip(text, &path.child("externalIPs").index(i), errors);
    }
}

fn validate_node_ports(ports: &[ServicePort], type_: &str, path: &Path, errors: &mut FieldErrors) {
    let mut taken = HashSet::new();
    for (i, item) in ports.iter().enumerate() {
        let Some(number) = item.node_port.filter(|n| *n != 0) else { continue };
        let path = path.index(i).child("nodePort");
        if matches!(type_, "ClusterIP" | "ExternalName") {
            errors.forbidden(&path, format!("may not be used when `type` is '{type_}'"));
        }
        if !taken.insert((number, item.protocol.as_deref().unwrap_or("TCP"))) {
            errors.push(CauseKind::Duplicate, &path, number.to_string(), "");
        }
    }
}

fn validate_traffic(spec: &ServiceSpec, type_: &str, path: &Path, errors: &mut FieldErrors) {
    let policies = ["Cluster", "Local"];
    if let Some(policy) = &spec.external_traffic_policy {
        let path = path.child("externalTrafficPolicy");
        let has_external = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        if matches!(type_, "NodePort" | "LoadBalancer") || has_external {
            one_of(errors, &path, policy, &policies);
        } else {
            errors.invalid(&path, policy.as_str(), "may only be set for externally-accessible services");
        }
    }
    if let Some(policy) = &spec.internal_traffic_policy {
        one_of(errors, &path.child("internalTrafficPolicy"), policy, &policies);
    }
    let health_path = path.child("healthCheckNodePort");
    if let Some(number) = spec.health_check_node_port.filter(|n| *n != 0) {
        if !super::wants_health_check(spec) {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&health_path, number, detail);
        }
        in_range(errors, &health_path, number, 0, 65_535);
    }
    let ranges = path.child("loadBalancerSourceRanges");
    let sources = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !sources.is_empty() && type_ != "LoadBalancer" {
        errors.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for (i, range) in sources.iter().enumerate() {
        if !is_cidr(range.trim()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&ranges.index(i), range.as_str(), detail);
        }
    }
    if type_ != "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports.is_some() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), detail);
        }
        if spec.load_balancer_class.is_some() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.forbidden(&path.child("loadBalancerClass"), detail);
        }
    } else if let Some(class) = &spec.load_balancer_class {
        invalid_each(errors, &path.child("loadBalancerClass"), class, qualified_name(class));
    }
    if let Some(distribution) = &spec.traffic_distribution {
        one_of(errors, &path.child("trafficDistribution"), distribution, &["PreferClose"]);
    }
}

/// Checks a new version against the old one: the first address stays, and whose the balancer is.
pub(super) fn validate_update(new: &Service, old: &Service, errors: &mut FieldErrors) {
    let class = |service: &Service| service.spec.as_ref().and_then(|s| s.load_balancer_class.clone());
    if type_of(new) == "LoadBalancer" && type_of(old) == "LoadBalancer" && class(new) != class(old) {
        let path = Path::new("spec").child("loadBalancerClass");
        errors.invalid(&path, class(new), "may not change once set");
    }
    validate_health_check_stays(new, old, errors);
    if type_of(new) == "ExternalName" || type_of(old) == "ExternalName" {
        return;
    }
    let ips =
        |service: &Service| service.spec.as_ref().and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let (new_ips, old_ips) = (ips(new), ips(old));
    let path = Path::new("spec").child("clusterIPs").index(0);
    match (new_ips.first(), old_ips.first()) {
        (Some(new), Some(old)) if new != old => {
            errors.invalid(&path, json(&new_ips), "may not change once set");
        }
        (None, Some(_)) => errors.invalid(&path, json(&new_ips), "primary clusterIP can not be unset"),
        _ => {}
    }
}

/// Load balancers were told the port once.
fn validate_health_check_stays(new: &Service, old: &Service, errors: &mut FieldErrors) {
    let wants = |service: &Service| service.spec.as_ref().is_some_and(super::wants_health_check);
    if wants(new) && wants(old) && health_check_port(new) != health_check_port(old) {
        errors.forbidden(&Path::new("spec").child("healthCheckNodePort"), "field is immutable");
    }
}
