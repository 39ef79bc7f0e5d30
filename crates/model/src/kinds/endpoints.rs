//! Endpoints: the addresses behind a service, in the old form that holds all of them in one object.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::cells::NONE;
use super::check::{default_text, invalid_each, ip, label, port, required_one_of, subdomain};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::qualified_name;
use crate::table::{Cell, Column};

/// Addresses that a row shows before it counts the rest.
const SHOWN: usize = 3;

impl Kind for Endpoints {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ep"],
        create_on_update: true,
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        columns: &[Column::NAME, Column::text("Endpoints"), Column::AGE],
        ..Descriptor::namespaced("", "v1", "Endpoints", "endpoints", "endpoints", "core.v1.Endpoints")
    };

    fn set_defaults(&mut self) {
        let ports = self.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten());
        for port in ports {
            default_text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(i), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), Cell::text(addresses_text(self)), Cell::age(self.metadata(), now)]
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path, errors: &mut FieldErrors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (i, address) in addresses.iter().enumerate() {
            validate_address(address, &path.child(field).index(i), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (i, item) in ports.iter().enumerate() {
        validate_port(item, ports.len() > 1, &path.child("ports").index(i), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, errors: &mut FieldErrors) {
    validate_endpoint_ip(&address.ip, &path.child("ip"), errors);
    if let Some(name) = address.hostname.as_deref().filter(|n| !n.is_empty()) {
        label(errors, &path.child("hostname"), name);
    }
    if let Some(name) = &address.node_name {
        subdomain(errors, &path.child("nodeName"), name);
    }
}

fn validate_port(item: &EndpointPort, named: bool, path: &Path, errors: &mut FieldErrors) {
    match item.name.as_deref().filter(|n| !n.is_empty()) {
        None if named => errors.required(&path.child("name"), ""),
        None => {}
        Some(name) => label(errors, &path.child("name"), name),
    }
    port(errors, &path.child("port"), item.port);
    let protocol = item.protocol.as_deref();
    required_one_of(errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    if let Some(protocol) = &item.app_protocol {
        invalid_each(errors, &path.child("appProtocol"), protocol, qualified_name(protocol));
    }
}

/// Checks that an address is a particular machine's: that of an endpoint, or of a service outside.
pub(crate) fn validate_endpoint_ip(text: &str, path: &Path, errors: &mut FieldErrors) {
    let Some(address) = ip(errors, path, text) else { return };
    let (link_local, to_many_on_link) = match address {
        IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(six) => (six.is_unicast_link_local(), six.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    } else if address.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if to_many_on_link {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`
fn addresses_text(endpoints: &Endpoints) -> String {
    let mut all = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = || subset.addresses.iter().flatten().map(|a| a.ip.as_str());
        match subset.ports.as_deref().unwrap_or_default() {
            [] => all.extend(addresses().map(str::to_owned)),
            ports => {
                for port in ports {
                    all.extend(addresses().map(|ip| join_port(ip, port.port)));
                }
            }
        }
    }
    shortened(&all)
}

fn join_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The first few of a list, and how many more there are.
pub(crate) fn shortened(all: &[String]) -> String {
    match all.len() {
        0 => NONE.to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        let mut endpoints: Endpoints =
            serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": subsets})).unwrap();
        Kind::set_defaults(&mut endpoints);
        endpoints
    }

    #[test]
    fn rows_show_the_first_three() {
        let many = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
            "ports": [{"port": 80, "name": "y"}, {"port": 443, "name": "x"}]}]));
        assert_eq!(addresses_text(&many), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...");
        assert_eq!(addresses_text(&Endpoints::default()), "<none>");
    }

    #[test]
    fn wrong_subsets_are_refused() {
        let errors = |subsets: Value| {
            let mut errors = FieldErrors::new();
            Kind::validate(&endpoints(subsets), &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert_eq!(errors(json!([{}])), ["subsets[0]"]);
        assert_eq!(
            errors(json!([{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}]}])),
            ["subsets[0].addresses[0].ip", "subsets[0].ports[0].port"]
        );
        let of = |address: Value| errors(json!([{"addresses": [address]}]));
        assert_eq!(of(json!({"ip": "10.0.0.1", "nodeName": "A_b"})), ["subsets[0].addresses[0].nodeName"]);
        for wrong in ["0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.5", "ff02::1", "x"] {
            assert_eq!(of(json!({"ip": wrong})), ["subsets[0].addresses[0].ip"], "{wrong}");
        }
        for good in ["10.0.0.1", "fd00::1", "239.1.1.1", "ff05::2"] {
            assert!(of(json!({"ip": good, "nodeName": "n.example"})).is_empty(), "{good}");
        }
    }
}
