//! NetworkPolicy: which traffic pods take and send.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cells;
use super::check::{default_text, in_range, is_cidr, one_of, port_or_name, required_one_of};
use super::pod_spec::scheduling::validate_label_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

impl Kind for NetworkPolicy {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["netpol"],
        has_generation: true,
        columns: &[Column::NAME, Column::text("Pod-Selector"), Column::AGE],
        ..Descriptor::namespaced(
            "networking.k8s.io",
            "v1",
            "NetworkPolicy",
            "networkpolicies",
            "networkpolicy",
            "networking.v1.NetworkPolicy",
        )
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        for port in ingress.chain(egress) {
            default_text(&mut port.protocol, "TCP");
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), NetworkPolicySpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        if let Some(selector) = &spec.pod_selector {
            validate_label_selector(selector, &path.child("podSelector"), errors);
        }
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = path.child("ingress").index(i);
            validate_ports(rule.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
            validate_peers(rule.from.as_deref().unwrap_or_default(), &path.child("from"), errors);
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = path.child("egress").index(i);
            validate_ports(rule.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
            validate_peers(rule.to.as_deref().unwrap_or_default(), &path.child("to"), errors);
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > 2 {
            errors.invalid(
                &path.child("policyTypes"),
                super::check::json(&types),
                "may not specify more than two policyTypes",
            );
            return;
        }
        for (i, kind) in types.iter().enumerate() {
            one_of(errors, &path.child("policyTypes").index(i), kind, &["Ingress", "Egress"]);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let selector = self.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        vec![Cell::name(self.metadata()), cells::selector(selector), Cell::age(self.metadata(), now)]
    }
}

fn validate_ports(ports: &[NetworkPolicyPort], path: &Path, errors: &mut FieldErrors) {
    for (i, item) in ports.iter().enumerate() {
        let path = path.index(i);
        let protocol = item.protocol.as_deref();
        required_one_of(errors, &path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
        if let Some(port) = &item.port {
            port_or_name(errors, &path.child("port"), port);
        }
        let Some(end) = item.end_port else { continue };
        match &item.port {
            Some(IntOrString::Int(start)) if end < *start => {
                let detail = "must be greater than or equal to `port`";
                errors.invalid(&path.child("endPort"), end, detail);
            }
            Some(IntOrString::Int(_)) => in_range(errors, &path.child("endPort"), end, 1, 65_535),
            Some(IntOrString::String(_)) => {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid(&path.child("endPort"), end, detail);
            }
            None => {
                let detail = "may not be specified when `port` is not specified";
                errors.invalid(&path.child("endPort"), end, detail);
            }
        }
    }
}

fn validate_peers(peers: &[NetworkPolicyPeer], path: &Path, errors: &mut FieldErrors) {
    for (i, peer) in peers.iter().enumerate() {
        let path = path.index(i);
        for (field, selector) in
            [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
        {
            if let Some(selector) = selector {
                validate_label_selector(selector, &path.child(field), errors);
            }
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        if let Some(block) = &peer.ip_block {
            validate_block(block, &path.child("ipBlock"), errors);
            if selects {
                errors.forbidden(&path, "may not specify both ipBlock and another peer");
            }
        } else if !selects {
            errors.required(&path, "must specify a peer");
        }
    }
}

fn validate_block(block: &IPBlock, path: &Path, errors: &mut FieldErrors) {
    const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    if block.cidr.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    if !is_cidr(&block.cidr) {
        errors.invalid(&path.child("cidr"), block.cidr.as_str(), CIDR);
        return;
    }
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(i);
        if !is_cidr(except) {
            errors.invalid(&path, except.as_str(), CIDR);
        } else if !is_strict_subset(except, &block.cidr) {
            errors.invalid(&path, except.as_str(), "must be a strict subset of `cidr`");
        }
    }
}

/// Whether all addresses of the first network are in the second, and not all of the second in the first.
fn is_strict_subset(inner: &str, outer: &str) -> bool {
    let parse = |text: &str| {
        let (address, bits) = text.split_once('/')?;
        let address: std::net::IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let number = match address {
            std::net::IpAddr::V4(four) => u128::from(u32::from(four)),
            std::net::IpAddr::V6(six) => u128::from(six),
        };
        Some((number, bits.parse::<u32>().ok()?, width))
    };
    let (Some((inner, inner_bits, inner_width)), Some((outer, outer_bits, width))) =
        (parse(inner), parse(outer))
    else {
        return false;
    };
    let prefix = |number: u128| number.checked_shr(width - outer_bits).unwrap_or(0);
    inner_width == width && inner_bits > outer_bits && prefix(inner) == prefix(outer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> NetworkPolicy {
        let mut policy: NetworkPolicy =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec})).unwrap();
        Kind::set_defaults(&mut policy);
        policy
    }

    #[test]
    fn defaults() {
        let spec = |spec: Value| serde_json::to_value(policy(spec).spec).unwrap();
        assert_eq!(
            spec(json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}], "policyTypes": ["Ingress"]})
        );
        assert_eq!(spec(json!({"egress": [{}]}))["policyTypes"], json!(["Ingress", "Egress"]));
    }

    #[test]
    fn peers_are_checked() {
        for (from, wanted) in [
            (json!({}), vec!["spec.ingress[0].from[0]"]),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/24"]}, "podSelector": {}}),
                vec!["spec.ingress[0].from[0].ipBlock.except[0]", "spec.ingress[0].from[0]"],
            ),
            (json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}), vec![]),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&policy(json!({"ingress": [{"from": [from]}]})), &mut errors);
            assert_eq!(errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>(), wanted);
        }
    }
}
