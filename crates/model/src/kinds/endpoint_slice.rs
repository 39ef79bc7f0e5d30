//! EndpointSlice: some of the addresses behind a service, all of one family.
//! Invariant: the address type never changes.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};

use super::cells::{NONE, or_empty};
use super::check::{default_text, default_to, invalid_each, label, port, required_one_of, subdomain};
use super::endpoints::{shortened, validate_endpoint_ip};
use crate::field::{CauseKind, FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::{dns1123_subdomain, label_value, qualified_name, validate_labels};
use crate::table::{Cell, Column};

/// The label that says whose addresses a slice holds.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that says who writes a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Most endpoints in a slice.
const MOST_ENDPOINTS: usize = 1000;
/// Most addresses of an endpoint.
const MOST_ADDRESSES: usize = 100;
/// Most ports of a slice.
const MOST_PORTS: usize = 20_000;
/// Most labels of where an endpoint is, in their old form.
const MOST_TOPOLOGY: usize = 16;
/// Most zones, and most nodes, that an endpoint is meant for.
const MOST_HINTS: usize = 8;

impl Kind for EndpointSlice {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::text("AddressType"),
            Column::text("Ports"),
            Column::text("Endpoints"),
            Column::AGE,
        ],
        ..Descriptor::namespaced(
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
            "endpointslice",
            "discovery.v1.EndpointSlice",
        )
    };

    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            default_to(&mut port.name, String::new());
            default_text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let known = ["FQDN", "IPv4", "IPv6"];
        let address_type = self.address_type.as_str();
        required_one_of(errors, &Path::new("addressType"), Some(address_type), &known);
        let path = Path::new("endpoints");
        if self.endpoints.len() > MOST_ENDPOINTS {
            errors.too_many(&path, self.endpoints.len(), MOST_ENDPOINTS);
        } else {
            for (i, endpoint) in self.endpoints.iter().enumerate() {
                validate_endpoint(endpoint, address_type, &path.index(i), errors);
            }
        }
        let ports = self.ports.as_deref().unwrap_or_default();
        if ports.len() > MOST_PORTS {
            errors.too_many(&Path::new("ports"), ports.len(), MOST_PORTS);
        } else {
            validate_ports(ports, &Path::new("ports"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (new, path) = (self.address_type.as_str(), Path::new("addressType"));
        errors.immutable(&path, &new, &old.address_type.as_str(), new);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let addresses: Vec<String> =
            self.endpoints.iter().flat_map(|e| e.addresses.iter().cloned()).collect();
        let text = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
        vec![
            Cell::name(self.metadata()),
            or_empty(Some(&self.address_type)),
            Cell::text(ports_text(self.ports.as_deref().unwrap_or_default())),
            Cell::text(text),
            Cell::age(self.metadata(), now),
        ]
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path, errors: &mut FieldErrors) {
    let addresses_path = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&addresses_path, "must contain at least 1 address");
    } else if endpoint.addresses.len() > MOST_ADDRESSES {
        errors.too_many(&addresses_path, endpoint.addresses.len(), MOST_ADDRESSES);
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses_path.index(i);
        match address_type {
            "FQDN" => full_name(errors, &path, address),
            "IPv4" if address.contains(':') => {
                errors.invalid(&path, address.as_str(), "must be an IPv4 address")
            }
            "IPv6" if !address.contains(':') => {
                errors.invalid(&path, address.as_str(), "must be an IPv6 address");
            }
            "IPv4" | "IPv6" => validate_endpoint_ip(address, &path, errors),
            _ => {}
        }
    }
    if let Some(name) = &endpoint.hostname {
        label(errors, &path.child("hostname"), name);
    }
    if let Some(name) = &endpoint.node_name {
        subdomain(errors, &path.child("nodeName"), name);
    }
    let topology_path = path.child("deprecatedTopology");
    let topology = endpoint.deprecated_topology.as_ref();
    if let Some(count) = topology.map(|labels| labels.len()).filter(|count| *count > MOST_TOPOLOGY) {
        errors.too_many(&topology_path, count, MOST_TOPOLOGY);
    }
    validate_labels(topology, &topology_path, errors);
    if let Some(hints) = &endpoint.hints {
        validate_hints(hints, &path.child("hints"), errors);
    }
}

/// A name in DNS that says more than a host's: `a.b`, with a point at its end or without.
fn full_name(errors: &mut FieldErrors, path: &Path, text: &str) {
    let name = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        errors.required(path, "");
    } else if !dns1123_subdomain(name).is_empty() {
        invalid_each(errors, path, name, dns1123_subdomain(name));
    } else if !name.contains('.') {
        errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
}

fn validate_hints(hints: &EndpointHints, path: &Path, errors: &mut FieldErrors) {
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
    for (field, names, wrong) in
        [("forZones", zones, label_value as fn(&str) -> Vec<String>), ("forNodes", nodes, dns1123_subdomain)]
    {
        let path = path.child(field);
        if names.len() > MOST_HINTS {
            errors.too_many(&path, names.len(), MOST_HINTS);
            continue;
        }
        let mut seen = HashSet::new();
        for (i, name) in names.into_iter().enumerate() {
            let path = path.index(i).child("name");
            if !seen.insert(name) {
                errors.duplicate(&path, name);
            }
            invalid_each(errors, &path, name, wrong(name));
        }
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, item) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = item.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            label(errors, &path.child("name"), name);
        }
        if !names.insert(name) {
            errors.push(CauseKind::Duplicate, &path.child("name"), format!("\"{name}\""), "");
        }
        if let Some(number) = item.port {
            port(errors, &path.child("port"), number);
        }
        let protocol = item.protocol.as_deref();
        required_one_of(errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = &item.app_protocol {
            invalid_each(errors, &path.child("appProtocol"), protocol, qualified_name(protocol));
        }
    }
}

fn ports_text(ports: &[EndpointPort]) -> String {
    if ports.is_empty() {
        return "<unset>".to_owned();
    }
    let texts: Vec<String> = ports
        .iter()
        .map(|port| match (port.port, port.name.as_deref()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) if !name.is_empty() => name.to_owned(),
            _ => "*".to_owned(),
        })
        .collect();
    if texts.is_empty() { NONE.to_owned() } else { shortened(&texts) }
}

/// Whether an endpoint may get traffic; unset means that it may.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// Whether an endpoint still answers, be it on its way out.
pub fn is_serving(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.serving).unwrap_or_else(|| is_ready(endpoint))
}

/// Whether an endpoint is on its way out.
pub fn is_terminating(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.terminating).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_and_checks() {
        let mut slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"], "conditions": {"ready": false}}],
            "ports": [{"port": 80}]}))
        .unwrap();
        Kind::set_defaults(&mut slice);
        let cells: Vec<_> = Kind::row(&slice, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(cells, ["s", "IPv4", "80", "10.0.0.1,fd00::1", "<unknown>"]);
        let mut errors = FieldErrors::new();
        Kind::validate(&slice, &mut errors);
        assert_eq!(errors.into_vec()[0].field, "endpoints[1].addresses[0]");
        assert!(is_ready(&slice.endpoints[0]) && !is_serving(&slice.endpoints[1]));
    }

    fn wrong(endpoint: serde_json::Value) -> Vec<String> {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "FQDN", "endpoints": [endpoint]});
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&slice, &mut errors);
        errors.into_vec().into_iter().map(|e| e.field.replace("endpoints[0].", "")).collect()
    }

    #[test]
    fn names_and_hints_are_checked() {
        let good = json!({"addresses": ["a.example", "b.example."], "deprecatedTopology": {"rack": "7"},
            "hints": {"forZones": [{"name": "eu_1"}], "forNodes": [{"name": "n"}]}});
        assert!(wrong(good).is_empty());
        assert_eq!(wrong(json!({"addresses": ["host", "A_b.c"]})), ["addresses[0]", "addresses[1]"]);
        let twice = json!([{"name": "z"}, {"name": "z"}, {"name": "a b"}]);
        let hints = json!({"forZones": twice, "forNodes": vec![json!({"name": "n"}); 9]});
        assert_eq!(
            wrong(json!({"addresses": ["a.b"], "hints": hints})),
            ["hints.forZones[1].name", "hints.forZones[2].name", "hints.forNodes"]
        );
        assert_eq!(
            wrong(json!({"addresses": ["a.b"], "deprecatedTopology": {"rack": "a b"}})),
            ["deprecatedTopology"]
        );
    }
}
