//! Lifecycle hooks: a command, an HTTP request, or a sleep.

use std::net::IpAddr;
use std::time::Duration;

use balsa_runtime::ContainerId;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::NodeContext;
use crate::probe::{Target, get};

/// A hook's own limit; the grace period of a termination is shorter as a rule and is kept by the caller.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs a hook to its end.
pub(crate) async fn run(
    node: &NodeContext,
    container: &Container,
    id: &ContainerId,
    handler: &LifecycleHandler,
    address: Option<IpAddr>,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let output = node.runtime.exec_sync(id, &command, LIMIT).await.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.output);
        return match output.exit_code {
            0 => Ok(()),
            code => Err(format!("command '{}' exited with {code}: {said}", command.join(" "))),
        };
    }
    if let Some(action) = &handler.http_get {
        return get(&Target::new(container, id.clone(), address), action, "kube-lifecycle/1.33").await;
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
    }
    Ok(())
}
