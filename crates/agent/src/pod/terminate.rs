//! The steps that end containers, and a whole pod: preStop, SIGTERM, grace, SIGKILL; then everything
//! that was made for the pod goes.

use std::net::IpAddr;
use std::time::Duration;

use balsa_runtime::{ContainerId, Error};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::context::NodeContext;
use crate::metrics;
use crate::pod::hooks;
use crate::pod::observed::{Observed, Role, member};
use crate::volumes;

/// What a container gets at least after its preStop hook has used up the grace period.
const LAST_CHANCE: Duration = Duration::from_secs(2);
/// How long the end of a log is waited for before its container is removed.
const LOG_END: Duration = Duration::from_secs(5);

/// The grace period of a pod that ends now: what its deletion says, else its own.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Ends one container: hook first, then the signal, within `grace`.
pub(crate) async fn stop(
    node: &NodeContext,
    pod: &Pod,
    name: &str,
    id: &ContainerId,
    why: &str,
    grace: Duration,
    address: Option<IpAddr>,
) -> Result<(), Error> {
    node.event(pod, Some(name), "Normal", "Killing", why);
    let began = Instant::now();
    if let Some((_, container)) = member(pod, name)
        && let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref())
    {
        let hook = tokio::time::timeout(grace, hooks::run(node, container, id, handler, address)).await;
        if let Ok(Err(message)) = hook {
            node.event(
                pod,
                Some(name),
                "Warning",
                "FailedPreStopHook",
                format!("PreStopHook failed: {message}"),
            );
        }
    }
    let left = if grace.is_zero() { grace } else { grace.saturating_sub(began.elapsed()).max(LAST_CHANCE) };
    metrics::operation("stop_container", node.runtime.stop(id, left, None)).await
}

/// Ends every container of a pod: those that do its work first, then its sidecars.
pub(crate) async fn stop_containers(
    node: &NodeContext,
    pod: &Pod,
    observed: &Observed,
    address: Option<IpAddr>,
) -> Result<(), Error> {
    let began = Instant::now();
    let is_sidecar = |name: &str| member(pod, name).is_some_and(|(role, _)| role == Role::Sidecar);
    for sidecars in [false, true] {
        let left = grace(pod).saturating_sub(began.elapsed());
        let left = if sidecars && !grace(pod).is_zero() { left.max(LAST_CHANCE) } else { left };
        let running =
            observed.all().filter(|(name, found)| found.is_running() && is_sidecar(name) == sidecars);
        let stops = running.map(|(name, found)| {
            let why = format!("Stopping container {name}");
            async move { stop(node, pod, name, &found.state.id, &why, left, address).await }
        });
        join_all(stops).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
    }
    Ok(())
}

/// Removes a container, after its log is complete.
pub(crate) async fn remove(node: &NodeContext, id: &ContainerId) -> Result<(), Error> {
    node.logs.drained(id, LOG_END).await;
    metrics::operation("remove_container", node.runtime.remove(id, true)).await?;
    node.logs.forget(id);
    Ok(())
}

/// Ends the sandbox, so that nothing of the pod runs; its containers stay to be looked at.
pub(crate) async fn stop_sandbox(node: &NodeContext, pod: &Pod, observed: &Observed) -> Result<(), String> {
    for sandbox in observed.sandboxes.iter().filter(|sandbox| sandbox.is_running()) {
        let stopped =
            metrics::operation("stop_podsandbox", node.runtime.stop(&sandbox.state.id, Duration::ZERO, None));
        stopped.await.map_err(|error| error.to_string())?;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    node.network.detach(uid).await.map_err(|error| error.to_string())
}

/// Takes away the volumes of a pod in which nothing will run any more: it may be kept for long, and they take
/// room, some of them in memory.
pub(crate) async fn remove_volumes(node: &NodeContext, pod: &Pod) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let directory = volumes::directory_of(&node.config.pod_dir(uid));
    if !directory.exists() {
        return Ok(());
    }
    let torn = balsa_rt::spawn_blocking(move || volumes::tear_down(&directory)).await;
    torn.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Takes away everything that was made for a pod whose containers have ended.
pub(crate) async fn clean_up(node: &NodeContext, pod: &Pod, observed: &Observed) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    join_all(observed.all().map(|(_, found)| remove(node, &found.state.id)))
        .await
        .into_iter()
        .collect::<Result<Vec<()>, Error>>()
        .map_err(text)?;
    stop_sandbox(node, pod, observed).await?;
    for sandbox in &observed.sandboxes {
        metrics::operation("remove_podsandbox", node.runtime.remove(&sandbox.state.id, true))
            .await
            .map_err(text)?;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let directory = node.config.pod_dir(uid);
    let torn = balsa_rt::spawn_blocking(move || volumes::tear_down(&directory)).await;
    torn.map_err(|error| error.to_string())?.map_err(|error| format!("volumes not removed: {error}"))?;
    node.objects.release(uid);
    node.volumes.tokens.forget(uid);
    Ok(())
}
