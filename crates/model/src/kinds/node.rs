//! Node: a machine that runs pods.
//!
//! Invariants: a new node is tainted until it has reported that it is ready; its pod CIDR and provider
//! id, once set, do not change.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo, Taint, Toleration,
};

use super::cells::{NONE, UNKNOWN, or_empty, or_none};
use super::check::{default_to, is_cidr, json, label_key, one_of};
use super::pod_spec::resources::{Requests, validate_amount};
use super::pod_spec::scheduling::TAINT_EFFECTS;
use crate::field::{CauseKind, FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta;
use crate::table::{Cell, Column};

/// Taint of a node that has not reported that it is ready.
pub const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that has not been heard of for too long.
pub const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";
/// Taint of a node that takes no new pods.
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

impl Kind for Node {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["no"],
        subresources: &[Subresource::Status, Subresource::Proxy],
        field_labels: &["spec.unschedulable"],
        keeps_status: true,
        columns: &[
            Column::NAME,
            Column::text("Status"),
            Column::text("Roles"),
            Column::AGE,
            Column::text("Version"),
            Column::wide("Internal-IP"),
            Column::wide("External-IP"),
            Column::wide("OS-Image"),
            Column::wide("Kernel-Version"),
            Column::wide("Container-Runtime"),
        ],
        ..Descriptor::cluster("", "v1", "Node", "nodes", "node", "core.v1.Node")
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        // Whoever says only the first network, or another one, means that one alone.
        let first = spec.pod_cidrs.as_ref().and_then(|cidrs| cidrs.first());
        if let Some(cidr) = spec.pod_cidr.as_ref().filter(|cidr| !cidr.is_empty() && Some(*cidr) != first) {
            spec.pod_cidrs = Some(vec![cidr.clone()]);
        }
        let status = self.status.get_or_insert_default();
        default_to(
            &mut status.daemon_endpoints,
            NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: 0 }) },
        );
        default_to(&mut status.node_info, NodeSystemInfo::default());
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn prepare_create(&mut self) {
        let taints = self.spec.get_or_insert_default().taints.get_or_insert_default();
        if !taints.iter().any(|t| t.key == NOT_READY_TAINT && t.effect == "NoSchedule") {
            taints.push(Taint {
                key: NOT_READY_TAINT.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        // The reference server says `metadata.taints`.
        validate_taints(self, &Path::new("metadata").child("taints"), errors);
        let spec = Path::new("spec");
        let cidrs = self.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
        for (i, cidr) in cidrs.enumerate() {
            if !is_cidr(cidr) {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.invalid(&spec.child("podCIDRs").index(i), cidr.as_str(), detail);
            }
        }
        let cidrs = self.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
        let of_six = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if cidrs.len() > 1 && (cidrs.len(), of_six) != (2, 1) {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.invalid(&spec.child("podCIDRs"), json(&cidrs), detail);
        }
        let empty = NodeStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
            for (name, amount) in amounts.iter().flatten() {
                let path = Path::new("status").child(field).child(name);
                validate_amount(amount, false, &path, errors);
            }
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let addresses = self.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
            errors.duplicate(&Path::new("status").child("addresses").index(i), json(address));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let path = Path::new("spec");
        if old.pod_cidrs.as_ref().is_some_and(|c| !c.is_empty()) && new.pod_cidrs != old.pod_cidrs {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), detail);
        }
        if old.provider_id.as_ref().is_some_and(|id| !id.is_empty()) && new.provider_id != old.provider_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), detail);
        }
    }

    fn field(&self, label: &str) -> String {
        match label {
            "spec.unschedulable" => is_unschedulable(self).to_string(),
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let info = self.status.as_ref().and_then(|s| s.node_info.as_ref());
        let known = |text: Option<&String>| {
            Cell::text(text.map(String::as_str).filter(|t| !t.is_empty()).unwrap_or(UNKNOWN))
        };
        vec![
            Cell::name(self.metadata()),
            Cell::text(status_text(self)),
            Cell::text(roles(self)),
            Cell::age(self.metadata(), now),
            or_empty(info.map(|i| i.kubelet_version.as_str())),
            or_none(address(self, "InternalIP")),
            or_none(address(self, "ExternalIP")),
            known(info.map(|i| &i.os_image)),
            known(info.map(|i| &i.kernel_version)),
            known(info.map(|i| &i.container_runtime_version)),
        ]
    }
}

fn validate_taints(node: &Node, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints(node).iter().enumerate() {
        let path = path.index(i);
        label_key(errors, &path.child("key"), &taint.key);
        for wrong in meta::label_value(taint.value.as_deref().unwrap_or_default()) {
            errors.invalid(&path.child("value"), taint.value.clone(), wrong);
        }
        one_of(errors, &path.child("effect"), &taint.effect, TAINT_EFFECTS);
        if !seen.insert((&taint.key, &taint.effect)) {
            let detail = "taints must be unique by key and effect pair";
            errors.push(CauseKind::Duplicate, &path, json(taint).to_string(), detail);
        }
    }
}

fn status_text(node: &Node) -> String {
    let ready = match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let disabled = if is_unschedulable(node) { ",SchedulingDisabled" } else { "" };
    format!("{ready}{disabled}")
}

fn roles(node: &Node) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.metadata.labels.iter().flatten() {
        match key.strip_prefix(ROLE_LABEL_PREFIX) {
            Some(role) if !role.is_empty() => roles.insert(role),
            _ if key == ROLE_LABEL && !value.is_empty() => roles.insert(value.as_str()),
            _ => false,
        };
    }
    if roles.is_empty() { NONE.to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

/// One of its conditions.
pub fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == name)
}

/// Whether it has said, and not so long ago that somebody doubts it, that it is ready.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether it takes no new pods.
pub fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true))
}

/// Its taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Its first address of a type: `InternalIP`, `ExternalIP`, `Hostname`.
pub fn address<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == type_).map(|a| a.address.as_str())
}

/// The network of its pods, once it has one.
pub fn pod_cidr(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty())
}

/// What pods may use of it.
pub fn allocatable(node: &Node) -> Requests {
    node.status.as_ref().and_then(|s| s.allocatable.as_ref()).map(Requests::of).unwrap_or_default()
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
            Some("Exists") => true,
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rows() {
        let unknown = node(json!({"metadata": {"name": "n", "labels":
            {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "z"}}}));
        let texts = |node: &Node| {
            let cells = Kind::row(node, Timestamp::UNIX_EPOCH);
            cells.iter().map(|c| c.0.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(&unknown),
            ["n", "Unknown", "control-plane,z", "<unknown>", "", NONE, NONE, UNKNOWN, UNKNOWN, UNKNOWN]
        );
        let ready = node(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}}));
        assert_eq!(texts(&ready)[1..3], ["Ready,SchedulingDisabled", NONE]);
        assert_eq!(texts(&ready)[5], "10.0.0.9");
    }

    #[test]
    fn a_new_node_is_tainted_and_described() {
        let mut new = node(json!({"metadata": {"name": "n"}}));
        Kind::prepare_create(&mut new);
        Kind::set_defaults(&mut new);
        let value = serde_json::to_value(&new).unwrap();
        assert_eq!(value["spec"], json!({"taints": [{"key": NOT_READY_TAINT, "effect": "NoSchedule"}]}));
        assert_eq!(value["status"]["daemonEndpoints"], json!({"kubeletEndpoint": {"Port": 0}}));
        assert_eq!(value["status"]["nodeInfo"]["osImage"], "");
    }

    #[test]
    fn the_first_network_is_the_one_that_is_named() {
        let mut new = node(json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}},
            "spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.0.0/24"]}}));
        Kind::set_defaults(&mut new);
        assert_eq!(new.spec.as_ref().unwrap().pod_cidrs, Some(vec!["10.0.1.0/24".to_owned()]));
        assert_eq!(serde_json::to_value(new.status).unwrap()["allocatable"], json!({"cpu": "4"}));
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "a", "value": "b", "effect": "NoExecute"})).unwrap();
        for (toleration, covers) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "a", "value": "b"}), true),
            (json!({"key": "a", "value": "c"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), false),
        ] {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), covers);
        }
    }

    #[test]
    fn networks_amounts_and_addresses_are_checked() {
        let wrong = |value: Value| {
            let (node, mut errors) = (node(value), FieldErrors::new());
            Kind::validate(&node, &mut errors);
            Kind::validate_status(&node, &Node::default(), &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}})).is_empty());
        for cidrs in [
            json!(["10.0.0.0/24", "10.0.1.0/24"]),
            json!(["fd00::/64", "fd01::/64"]),
            json!(["10.0.0.0/24", "fd00::/64", "fd01::/64"]),
        ] {
            assert_eq!(wrong(json!({"spec": {"podCIDRs": cidrs}})), ["spec.podCIDRs"]);
        }
        let address = json!({"type": "InternalIP", "address": "10.0.0.9"});
        assert_eq!(
            wrong(json!({"status": {"capacity": {"cpu": "-1"}, "allocatable": {"memory": "-2"},
                "addresses": [address, {"type": "ExternalIP", "address": "10.0.0.9"}, address]}})),
            ["status.capacity.cpu", "status.allocatable.memory", "status.addresses[2]"]
        );
    }
}
