//! Ports of the machine, each of which one pod has. The scheduler sees to that; pods that name their node
//! themselves it never sees, so an agent refuses those that come too late (`admission`).
//!
//! All agents of a process share one of these, because their machine has one set of ports between them. It is
//! made anew at every start, from the pods that were taken up before. Each agent adopts its own before it takes
//! up new ones; that all agents do so before any of them takes up a new one is not guaranteed. Where a new pod
//! was faster than the adoption of another agent's, both have the port, and the log says so.
//!
//! Agents that are processes of their own on one engine see each other's sandboxes, whose labels tell their pods'
//! ports. Two pods that come to two processes in the same moment both get in: nothing is locked between them. A
//! program of the machine that listens on such a port is not looked for, as no kubelet does: the rules for
//! host ports come before it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use balsa_model::fits::NO_FREE_PORTS;
use balsa_model::kinds::pod::{HostPort, host_ports, is_terminal};
use balsa_runtime::{ContainerSummary, ListFilter, Runtime, labels};
use k8s_openapi::api::core::v1::Pod;

use crate::config::AgentConfig;
use crate::pod::observed::PutOut;

/// Which ports of the machine are taken. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct HostPorts(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    /// By the UID of the pod.
    ports: HashMap<String, Vec<HostPort>>,
    /// Pods that are over while the server still shows them: an old version of one takes nothing again.
    over: HashSet<String>,
    /// The agents that share these ports, by cluster and node.
    agents: HashSet<(String, String)>,
}

impl Taken {
    /// The ports that a pod needs; none when it is over.
    fn wanted(&self, pod: &Pod) -> Vec<HostPort> {
        if is_terminal(pod) || self.over.contains(&uid(pod)) { Vec::new() } else { host_ports(pod) }
    }

    /// Whether another pod than `own` has one of these.
    fn has_other(&self, own: &str, wanted: &[HostPort]) -> bool {
        let others = self.ports.iter().filter(|(uid, _)| *uid != own).flat_map(|(_, ports)| ports);
        others.into_iter().any(|port| wanted.iter().any(|wanted| wanted.collides(port)))
    }
}

impl HostPorts {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes that an agent shares these.
    pub(crate) fn share(&self, config: &AgentConfig) {
        self.lock().agents.insert((config.cluster.clone(), config.node_name.clone()));
    }

    /// Why a new pod cannot have its ports, when an agent of another process on the same engine has one of them.
    pub(crate) async fn look_around(&self, pod: &Pod, runtime: &dyn Runtime) -> Result<(), PutOut> {
        let wanted = self.lock().wanted(pod);
        if wanted.is_empty() {
            return Ok(());
        }
        let sandboxes = ListFilter { all: false, ..ListFilter::label(labels::KIND, labels::KIND_SANDBOX) };
        // An engine that does not answer starts nothing either.
        let sandboxes = runtime.list(&sandboxes).await.unwrap_or_default();
        match sandboxes.iter().find_map(|sandbox| self.stranger(&wanted, sandbox)) {
            Some(whose) => Err(no_free_ports(&format!(": {whose}"))),
            None => Ok(()),
        }
    }

    /// Whose one of the ports is, if it is that of a sandbox that no agent of this process has made.
    fn stranger(&self, wanted: &[HostPort], sandbox: &ContainerSummary) -> Option<String> {
        let label = |name: &str| sandbox.labels.get(name).map(String::as_str).unwrap_or_default();
        let agent = (label(labels::CLUSTER).to_owned(), label(labels::NODE).to_owned());
        if self.lock().agents.contains(&agent) {
            return None;
        }
        let taken = read(label(labels::HOST_PORTS)).find(|taken| wanted.iter().any(|w| w.collides(taken)))?;
        let (namespace, name) = (label(labels::POD_NAMESPACE), label(labels::POD_NAME));
        let (HostPort { protocol, port, .. }, node) = (taken, agent.1);
        Some(format!(
            "{protocol} port {port} is that of pod {namespace}/{name} on node {node} of this machine"
        ))
    }

    /// Gives a pod the ports that it has already: it was taken up before this process began.
    pub(crate) fn adopt(&self, pod: &Pod) {
        let (mut taken, own) = (self.lock(), uid(pod));
        let wanted = taken.wanted(pod);
        if wanted.is_empty() || taken.ports.contains_key(&own) {
            return;
        }
        if taken.has_other(&own, &wanted) {
            tracing::warn!(uid = own, "a pod that was here before has a host port that a new one has too");
        }
        taken.ports.insert(own, wanted);
    }

    /// Gives a new pod the ports that it wants; why not, when another has one of them.
    pub(crate) fn claim(&self, pod: &Pod) -> Result<(), PutOut> {
        let (mut taken, own) = (self.lock(), uid(pod));
        let wanted = taken.wanted(pod);
        if wanted.is_empty() {
            return Ok(());
        }
        if taken.has_other(&own, &wanted) {
            return Err(no_free_ports(""));
        }
        taken.ports.insert(own, wanted);
        Ok(())
    }

    /// Whether the pod is over, though its object may not say so yet.
    pub(crate) fn is_over(&self, uid: &str) -> bool {
        self.lock().over.contains(uid)
    }

    /// The pod is over, and needs them no more.
    pub(crate) fn release(&self, uid: &str) {
        let mut taken = self.lock();
        taken.ports.remove(uid);
        taken.over.insert(uid.to_owned());
    }

    /// The server has the pod no more: it blocks nobody, though it may still be on its way out.
    pub(crate) fn forget(&self, uid: &str) {
        let mut taken = self.lock();
        taken.ports.remove(uid);
        taken.over.remove(uid);
    }
}

fn no_free_ports(whose: &str) -> PutOut {
    PutOut::refused("NodePorts", format!("Predicate NodePorts failed: {NO_FREE_PORTS}{whose}"))
}

/// The ports of a pod as the label of its sandbox tells them, `TCP:80:127.0.0.1,UDP:53:`, if it has any.
pub(crate) fn told(pod: &Pod) -> Option<String> {
    let mut text = String::new();
    for HostPort { protocol, port, address } in host_ports(pod) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{protocol}:{port}:{address}");
    }
    (!text.is_empty()).then_some(text)
}

/// The ports that such a label tells.
fn read(label: &str) -> impl Iterator<Item = HostPort> {
    label.split(',').filter_map(|one| {
        let mut parts = one.splitn(3, ':');
        let (protocol, port, address) = (parts.next()?, parts.next()?, parts.next()?);
        Some(HostPort {
            protocol: protocol.to_owned(),
            port: port.parse().ok()?,
            address: address.to_owned(),
        })
    })
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(uid: &str, port: &Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid}, "status": {"phase": phase}, "spec": {
            "containers": [{"name": "m", "ports": [port]}]}}))
        .unwrap()
    }

    #[test]
    fn a_port_goes_to_one_pod_at_a_time() {
        let ports = HostPorts::default();
        let at = |port: i32| json!({"containerPort": 80, "hostPort": port, "protocol": "TCP"});
        ports.claim(&pod("a", &at(80), "Pending")).unwrap();
        ports.claim(&pod("a", &at(80), "Pending")).unwrap();
        let refused = ports.clone().claim(&pod("b", &at(80), "Pending")).unwrap_err();
        assert_eq!(refused.reason, "NodePorts");
        assert!(refused.message().starts_with("Pod was rejected: Predicate NodePorts failed"), "{refused:?}");
        ports.claim(&pod("b", &at(81), "Pending")).unwrap();
        let udp = json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"});
        ports.claim(&pod("c", &udp, "Pending")).unwrap();
        ports.claim(&pod("d", &json!({"containerPort": 80}), "Pending")).unwrap();
        // One that is over wants nothing, and one that is gone has nothing.
        ports.claim(&pod("e", &at(80), "Failed")).unwrap();
        ports.release("a");
        ports.adopt(&pod("f", &at(80), "Running"));
        ports.claim(&pod("g", &at(80), "Pending")).unwrap_err();
    }

    #[test]
    fn a_label_tells_the_ports() {
        let udp = json!({"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "fd00::1"});
        let mut two = pod("a", &json!({"containerPort": 80, "hostPort": 8080}), "Running");
        let more: Vec<Container> = from_value(json!([{"name": "dns", "ports": [udp]}])).unwrap();
        two.spec.as_mut().unwrap().containers.extend(more);
        let label = told(&two).unwrap();
        assert_eq!(label, "TCP:8080:,UDP:53:fd00::1");
        assert_eq!(read(&label).collect::<Vec<_>>(), host_ports(&two));
        assert_eq!(told(&pod("b", &json!({"containerPort": 80}), "Running")), None);
        assert_eq!(read("").count() + read("TCP").count() + read("TCP:x:").count(), 0);
    }

    #[test]
    fn one_that_is_over_takes_nothing_again() {
        let (ports, at) = (HostPorts::default(), json!({"containerPort": 80, "hostPort": 80}));
        let old = pod("a", &at, "Running");
        ports.adopt(&old);
        ports.release("a");
        // The server still shows it as running.
        ports.adopt(&old);
        ports.claim(&old).unwrap();
        ports.claim(&pod("b", &at, "Pending")).unwrap();
        ports.claim(&old).unwrap();
        ports.forget("a");
        ports.forget("b");
        let taken = ports.lock();
        assert!(taken.ports.is_empty() && taken.over.is_empty(), "{taken:?}");
    }

    #[test]
    fn one_that_was_here_before_has_its_ports_beside_whoever_was_faster() {
        let (ports, at) = (HostPorts::default(), json!({"containerPort": 80, "hostPort": 80}));
        ports.claim(&pod("new", &at, "Pending")).unwrap();
        ports.adopt(&pod("old", &at, "Running"));
        ports.forget("new");
        ports.claim(&pod("other", &at, "Pending")).unwrap_err();
    }
}
