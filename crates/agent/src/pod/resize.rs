//! Resizes containers that run to what the pod says now, in place: none is started anew for it, whatever
//! its `resizePolicy` says.
//!
//! A label says what a container was made with; one that says the same as the pod needs nothing. What was
//! done since is remembered, and after a restart of the agent done once more, which changes nothing.

use balsa_runtime::labels;
use k8s_openapi::api::core::v1::{Container, ContainerStatus};

use crate::pod::container::resources;
use crate::pod::observed::{Found, Memory, Observed, members};
use crate::pod::sync::{PodWork, lock};

/// What tells two sizes apart.
pub(crate) fn hash(container: &Container) -> String {
    let sizes = container.resources.as_ref().map(|resources| (&resources.limits, &resources.requests));
    let text = serde_json::to_string(&sizes).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Whether a container that runs has the size that the pod says.
fn has_its_size(container: &Container, found: &Found, memory: &Memory) -> bool {
    let wanted = hash(container);
    match memory.resized.get(found.state.id.as_str()) {
        Some(done) => *done == wanted,
        // Those of releases before have no label, and the size that they were made with.
        None => found.state.labels.get(labels::RESOURCES).is_none_or(|made| *made == wanted),
    }
}

impl PodWork {
    /// Gives the containers that run the sizes that the pod says.
    pub(crate) async fn resize(&self, observed: &Observed) {
        for (_, container) in members(&self.pod) {
            let Some(found) = observed.current(&container.name).filter(|found| found.is_running()) else {
                continue;
            };
            if has_its_size(container, found, &lock(&self.memory)) {
                continue;
            }
            let wanted = resources(container, &self.node.machine);
            match self.node.runtime.update_resources(&found.state.id, &wanted).await {
                Ok(()) => {
                    let id = found.state.id.as_str().to_owned();
                    lock(&self.memory).resized.insert(id, hash(container));
                }
                Err(error) => {
                    let message = format!("Container {} cannot be resized: {error}", container.name);
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
}
