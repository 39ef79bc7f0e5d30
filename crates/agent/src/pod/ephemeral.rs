//! Ephemeral containers: put into a pod that runs, to look at it; started once and never again.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// The ephemeral containers that a pod is to have, as they are written.
fn listed(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// The ephemeral containers that a pod is to have.
pub(crate) fn all(pod: &Pod) -> Vec<Container> {
    listed(pod).iter().map(as_container).collect()
}

/// The ephemeral container of that name.
pub(crate) fn find(pod: &Pod, name: &str) -> Option<Container> {
    listed(pod).iter().find(|container| container.name == name).map(as_container)
}

/// The container whose processes an ephemeral one is to see.
pub(crate) fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let found = listed(pod).iter().find(|container| container.name == name)?;
    found.target_container_name.as_deref().filter(|target| !target.is_empty())
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let from = ephemeral.clone();
    Container {
        name: from.name,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        command: from.command,
        args: from.args,
        working_dir: from.working_dir,
        env: from.env,
        env_from: from.env_from,
        resources: from.resources,
        security_context: from.security_context,
        volume_mounts: from.volume_mounts,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        // Probes, hooks and ports are refused for it; it is never restarted.
        ..Container::default()
    }
}
