//! The step that makes a sandbox: directories, files of `/etc`, the pause container, its address.

use std::net::IpAddr;

use balsa_runtime::{ContainerConfig, ContainerState, Error};
use k8s_openapi::api::core::v1::Pod;

use crate::context::NodeContext;
use crate::metrics;
use crate::pod::observed::Found;
use crate::pod::{container, etc};

/// Makes and starts the n-th sandbox of a pod and connects it. What an earlier try left is taken away.
pub(crate) async fn create(node: &NodeContext, pod: &Pod, attempt: u32) -> Result<Option<IpAddr>, String> {
    let config = container::sandbox(&node.config, &node.machine, pod, &node.pause_image, attempt);
    let config = ContainerConfig { runtime: node.handler(pod).await?, ..config };
    let name = balsa_runtime::ContainerId::new(config.name.clone());
    let created = match metrics::operation("run_podsandbox", node.runtime.create_container(&config)).await {
        Err(error) if error.is_conflict() => {
            node.runtime.remove(&name, true).await.map_err(|error| error.to_string())?;
            node.runtime.create_container(&config).await
        }
        // Somebody has tidied up: it is ours to bring again.
        Err(Error::ImageNotFound { .. }) => {
            node.runtime.ensure_pause_image().await.map_err(|error| error.to_string())?;
            node.runtime.create_container(&config).await
        }
        other => other,
    };
    let id = created.map_err(|error| error.to_string())?;
    if let Err(error) = metrics::operation("start_podsandbox", node.runtime.start(&id)).await {
        // Nothing of a sandbox that cannot start is worth keeping.
        let _ = node.runtime.remove(&id, true).await;
        return Err(error.to_string());
    }
    let state = node.runtime.inspect(&id).await.map_err(|error| error.to_string())?;
    let address = connect(node, pod, &state).await;
    if address.is_err() {
        let _ = node.runtime.remove(&id, true).await;
    }
    let address = address?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    etc::write(pod, &node.config, &node.config.pod_dir(uid), address).map_err(|error| error.to_string())?;
    Ok(address)
}

/// The address of a sandbox that runs, connected if it is not.
pub(crate) async fn address(
    node: &NodeContext,
    pod: &Pod,
    sandbox: &Found,
) -> Result<Option<IpAddr>, String> {
    connect(node, pod, &sandbox.state).await
}

async fn connect(node: &NodeContext, pod: &Pod, state: &ContainerState) -> Result<Option<IpAddr>, String> {
    if is_host_network(pod) {
        return Ok(Some(node.config.node_ip));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let attached = node.network.attach(uid, state.netns().as_deref()).await;
    attached
        .map(|address| Some(IpAddr::V4(address)))
        .map_err(|error| format!("failed to set up pod network: {error}"))
}

/// The pod is in the machine's network.
pub(crate) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}
