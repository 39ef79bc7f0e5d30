//! Ports of the machine, each of which one pod has. The scheduler sees to that; pods that name their node
//! themselves it never sees, so an agent refuses those that come too late, as a kubelet does.
//!
//! All agents of a process share one of these, because their machine has one set of ports between them. It is
//! made anew at every start, from the pods that were taken up before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use balsa_model::kinds::pod::{HostPort, host_ports, is_terminal};
use k8s_openapi::api::core::v1::Pod;

use crate::pod::observed::PutOut;

/// Which ports of the machine are taken, by the UID of the pod. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct HostPorts(Arc<Mutex<HashMap<String, Vec<HostPort>>>>);

impl HostPorts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<HostPort>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Gives a pod the ports that it has already: it was taken up before this process began.
    pub(crate) fn adopt(&self, pod: &Pod) {
        let ports = host_ports(pod);
        if !ports.is_empty() && !is_terminal(pod) {
            self.lock().insert(uid(pod), ports);
        }
    }

    /// Gives a new pod the ports that it wants; why not, when another has one of them.
    pub(crate) fn claim(&self, pod: &Pod) -> Result<(), PutOut> {
        let wanted = host_ports(pod);
        if wanted.is_empty() || is_terminal(pod) {
            return Ok(());
        }
        let (mut taken, own) = (self.lock(), uid(pod));
        let others = taken.iter().filter(|(uid, _)| **uid != own).flat_map(|(_, ports)| ports);
        if others.into_iter().any(|port| wanted.iter().any(|wanted| wanted.collides(port))) {
            return Err(PutOut::refused(
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ));
        }
        taken.insert(own, wanted);
        Ok(())
    }

    /// The pod needs them no more.
    pub(crate) fn release(&self, uid: &str) {
        self.lock().remove(uid);
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
}
