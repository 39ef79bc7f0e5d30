//! Ports of the machine, each of which one pod has. The scheduler sees to that; pods that name their node
//! themselves it never sees, so an agent refuses those that come too late, as a kubelet does.
//!
//! All agents of a process share one of these, because their machine has one set of ports between them. It is
//! made anew at every start, from the pods that were taken up before. Each agent adopts its own before it takes
//! up new ones; that all agents do so before any of them takes up a new one is not guaranteed. Where a new pod
//! was faster than the adoption of another agent's, both have the port, and the log says so.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use balsa_model::kinds::pod::{HostPort, host_ports, is_terminal};
use k8s_openapi::api::core::v1::Pod;

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
            return Err(PutOut::refused(
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ));
        }
        taken.ports.insert(own, wanted);
        Ok(())
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

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

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
        assert!(refused.message.starts_with("Pod was rejected: Predicate NodePorts failed"), "{refused:?}");
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
