//! Resizes containers that run to what the pod was given, in place, or by a restart where their
//! `resizePolicy` says so.
//!
//! What a pod wants it is given when its node has room for it (`admission`); until then it is worked on as if it
//! wanted what it has, and its status says why. A label says what a container was made with; one that says the
//! same as the pod needs nothing. What was done since is remembered, and after a restart of the agent done once
//! more, which changes nothing.

use std::sync::Arc;

use balsa_model::fits::{self, Room};
use balsa_model::kinds::pod::{DEFERRED, INFEASIBLE, Requests};
use balsa_runtime::labels;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::pod::container::resources;
use crate::pod::observed::{Found, Memory, Observed, members};
use crate::pod::sync::{PodWork, lock};

/// Sizes that a pod wants and has not been given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pending {
    /// The pod as it wants to be.
    pub(crate) wanted: Arc<Pod>,
    /// Kubernetes' word for why not.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Why a pod that has `given` is not given `asked`, if so: reason and message. `used` is what others have.
pub(super) fn refused(
    asked: &Requests,
    given: &Requests,
    capacity: &Requests,
    used: &Requests,
) -> Option<(&'static str, String)> {
    let more = Requests {
        cpu_milli: if asked.cpu_milli > given.cpu_milli { asked.cpu_milli } else { 0 },
        memory: if asked.memory > given.memory { asked.memory } else { 0 },
        ..Requests::default()
    };
    // Memory is told before processors, as a kubelet does.
    let never = [("memory", more.memory, capacity.memory), ("cpu", more.cpu_milli, capacity.cpu_milli)];
    if let Some((resource, asked, capacity)) = never.into_iter().find(|(_, asked, has)| asked > has) {
        let why =
            format!("Node didn't have enough capacity: {resource}, requested: {asked}, capacity: {capacity}");
        return Some((INFEASIBLE, why));
    }
    let short = fits::shortages(&more, Room { pods: (0, 1), capacity, used }).into_iter().next()?;
    Some((DEFERRED, super::admission::not_enough(&short)))
}

/// What tells two sizes apart: all of it, and by itself what is about processors and about memory.
pub(crate) fn hash(container: &Container) -> String {
    let sizes = container.resources.as_ref().map(|resources| (&resources.limits, &resources.requests));
    let of = |name: &str| {
        let amount = |list: &Option<std::collections::BTreeMap<String, _>>| list.as_ref()?.get(name).cloned();
        sizes.map(|(limits, requests)| (amount(limits), amount(requests)))
    };
    format!("{}.{}.{}", fnv(&sizes), fnv(&of("cpu")), fnv(&of("memory")))
}

fn fnv(sizes: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(sizes).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// What of a container's size is not as the pod says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Differs {
    cpu: bool,
    memory: bool,
}

/// Whether a container has the size that the pod says, and if not, what differs.
fn differs(container: &Container, found: &Found, memory: &Memory) -> Option<Differs> {
    let made = memory.resized.get(found.state.id.as_str());
    // Those of releases before have no label, and the size that they were made with.
    let made = made.or_else(|| found.state.labels.get(labels::RESOURCES))?;
    let wanted = hash(container);
    let (mut made, mut wanted) = (made.split('.'), wanted.split('.'));
    if made.next() == wanted.next() {
        return None;
    }
    Some(Differs { cpu: made.next() != wanted.next(), memory: made.next() != wanted.next() })
}

fn has_its_size(container: &Container, found: &Found, memory: &Memory) -> bool {
    differs(container, found, memory).is_none()
}

/// Whether a container that runs has to be started anew for its size.
pub(super) fn restarts(container: &Container, found: &Found, memory: &Memory) -> bool {
    let by = |name: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    differs(container, found, memory)
        .is_some_and(|differs| (differs.cpu && by("cpu")) || (differs.memory && by("memory")))
}

/// Whether containers that run are on the way to their sizes; and why they do not get there, if so.
pub(super) fn in_progress(pod: &Pod, observed: &Observed, memory: &Memory) -> Option<Option<String>> {
    let on_the_way = |container: &&Container| {
        let found = observed.current(&container.name).filter(|found| found.is_running());
        found.is_some_and(|found| !has_its_size(container, found, memory))
    };
    let container = members(pod).map(|(_, container)| container).find(on_the_way)?;
    Some(memory.not_resized.get(&container.name).cloned())
}

impl PodWork {
    /// Gives the containers that run the sizes that the pod says.
    pub(crate) async fn resize(&self, observed: &Observed) {
        for (_, container) in members(&self.pod) {
            let Some(found) = observed.current(&container.name).filter(|found| found.is_running()) else {
                continue;
            };
            let has_or_restarts = {
                let memory = lock(&self.memory);
                has_its_size(container, found, &memory) || restarts(container, found, &memory)
            };
            if has_or_restarts {
                continue;
            }
            let wanted = resources(container, &self.node.machine);
            match self.node.runtime.update_resources(&found.state.id, &wanted).await {
                Ok(()) => {
                    let id = found.state.id.as_str().to_owned();
                    let mut memory = lock(&self.memory);
                    memory.resized.insert(id, hash(container));
                    memory.not_resized.remove(&container.name);
                }
                Err(error) => {
                    let message = format!("Container {} cannot be resized: {error}", container.name);
                    lock(&self.memory).not_resized.insert(container.name.clone(), message.clone());
                    self.node.event(&self.pod, Some(&container.name), "Warning", "ResizeError", message);
                }
            }
        }
    }
}

/// Says in its status what a container that runs may use: what the pod says, once it has it.
pub(crate) fn tell(
    status: &mut ContainerStatus,
    container: &Container,
    found: &Found,
    memory: &Memory,
    old: Option<&ContainerStatus>,
) {
    if !found.is_running() {
        return;
    }
    if has_its_size(container, found, memory) {
        status.resources.clone_from(&container.resources);
        status.allocated_resources =
            container.resources.as_ref().and_then(|resources| resources.requests.clone());
    } else if let Some(old) = old {
        status.resources.clone_from(&old.resources);
        status.allocated_resources.clone_from(&old.allocated_resources);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_told_apart() {
        let container = |resources: serde_json::Value| -> Container {
            serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap()
        };
        let small = container(json!({"limits": {"cpu": "1"}}));
        assert_eq!(hash(&small), hash(&container(json!({"limits": {"cpu": "1"}}))));
        assert_ne!(hash(&small), hash(&container(json!({"limits": {"cpu": "2"}}))));
        assert_ne!(hash(&small), hash(&container(json!({"requests": {"cpu": "1"}}))));
    }

    #[test]
    fn sizes_are_refused_for_now_or_for_ever() {
        let amounts = |cpu_milli, memory| Requests { cpu_milli, memory, ..Requests::default() };
        let (given, capacity, used) = (amounts(500, 10), amounts(2000, 100), amounts(1000, 50));
        let told = |cpu, memory| refused(&amounts(cpu, memory), &given, &capacity, &used);
        assert_eq!(told(1000, 50), None);
        assert_eq!(told(100, 10), None, "who wants less gets it");
        let short = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
        assert_eq!(told(1500, 10), Some((DEFERRED, short.to_owned())));
        let short = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
        assert_eq!(told(3000, 10), Some((INFEASIBLE, short.to_owned())));
        assert!(told(3000, 101).is_some_and(|(_, why)| why.contains("memory, requested: 101")));
        // What it has already is no matter, also where the node has become smaller.
        let smaller = refused(&amounts(500, 9), &given, &amounts(100, 5), &used);
        assert_eq!(smaller, None);
    }
}
