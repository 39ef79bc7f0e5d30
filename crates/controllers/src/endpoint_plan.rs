//! Which pods stand behind a Service, with which ports: the part that Endpoints and EndpointSlices
//! have in common. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// A port of a Service as one pod has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) number: i32,
    pub(crate) app_protocol: Option<String>,
}

/// A pod behind a Service, at one of its addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Backing {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) reference: ObjectReference,
    /// Sorted.
    pub(crate) ports: Vec<Port>,
}

/// Whether a Service's endpoints are ours to keep: it selects pods.
pub(crate) fn is_managed(spec: &ServiceSpec) -> bool {
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
        && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether a Service has no address of its own.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// What stands behind `service`, sorted by address and pod.
pub(crate) fn backings(service: &Service, pods: &[Arc<Pod>]) -> Vec<Backing> {
    let Some(spec) = service.spec.as_ref() else { return Vec::new() };
    let mut found: Vec<Backing> = Vec::new();
    for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        for address in pods::addresses(pod).into_iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            if serves_family(spec, address) {
                found.push(backing(service, spec, pod, address));
            }
        }
    }
    found.sort_by(|a, b| (a.address, &a.reference.uid).cmp(&(b.address, &b.reference.uid)));
    found
}

fn serves_family(spec: &ServiceSpec, address: IpAddr) -> bool {
    let wanted = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    spec.ip_families
        .as_ref()
        .filter(|f| !f.is_empty())
        .is_none_or(|families| families.iter().any(|f| f == wanted))
}

fn backing(service: &Service, spec: &ServiceSpec, pod: &Pod, address: IpAddr) -> Backing {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut ports: Vec<Port> = spec.ports.iter().flatten().filter_map(|port| resolve(port, pod)).collect();
    ports.sort();
    let pod_spec = pod.spec.as_ref();
    let hostname = pod_spec.and_then(|p| p.hostname.clone()).filter(|h| !h.is_empty());
    let in_domain = pod_spec.and_then(|p| p.subdomain.as_deref()) == service.metadata.name.as_deref();
    Backing {
        address,
        ready: publish || (serving && !terminating),
        serving,
        terminating,
        hostname: hostname.filter(|_| in_domain),
        node: Some(pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()),
        reference: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        ports,
    }
}

/// A Service's port at a pod; none when the pod has no port of that name.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) if name.is_empty() => port.port,
        Some(IntOrString::String(name)) => named(pod, name, protocol)?,
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol.to_owned(),
        number,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    // An init container that restarts always is a sidecar: it serves as long as the pod does.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut matching = ports.filter(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    matching.next().map(|port| port.container_port)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "node", "hostname": "h", "subdomain": "web",
                     "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    pub(crate) fn service(spec: Value) -> Service {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "n", "uid": "s"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn named_ports_are_looked_up_in_the_pod() {
        let service = service(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": "http"},
            {"name": "b", "port": 81, "targetPort": "none"},
            {"name": "c", "port": 82, "targetPort": 9000},
            {"name": "d", "port": 83}]}));
        let backings = backings(&service, &[pod("p", "10.0.0.1", true)]);
        let numbers: Vec<_> = backings[0].ports.iter().map(|p| (p.name.as_str(), p.number)).collect();
        assert_eq!(numbers, [("a", 8080), ("c", 9000), ("d", 83)]);
        assert_eq!(backings[0].hostname.as_deref(), Some("h"));
    }

    #[test]
    fn terminating_pods_serve_but_are_not_ready() {
        let mut leaving = pod("p", "10.0.0.1", true);
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        let mut ended = pod("q", "10.0.0.2", true);
        Arc::make_mut(&mut ended).status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        let found = backings(&service(json!({})), &[leaving.clone(), ended]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ready, found[0].serving, found[0].terminating), (false, true, true));
        let found = backings(&service(json!({"publishNotReadyAddresses": true})), &[leaving]);
        assert!(found[0].ready);
    }
}
