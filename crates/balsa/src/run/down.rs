//! `balsa down`: stops a cluster and takes away all that it made, and nothing else.
//!
//! The data of volumes stays, unless the volume is known to be one that is deleted with its claim.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use balsa_client::{Backend, ListQuery};
use balsa_model::kind::kind_of;
use balsa_model::selector::Filter;
use balsa_rt::{Backoff, Clock};
use balsa_server::Server;
use k8s_openapi::api::core::v1::PersistentVolume;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{self, Claim};
use super::progress::Progress;
use super::{node, servers, sweep, up};
use crate::settings::ServerFlags;

/// How long a process may take to stop in good order.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops and removes the cluster on a data directory.
pub(crate) async fn run(
    directory: &Path,
    docker_host: Option<&str>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let running = layout::running(directory)?;
    if running.is_none() && !layout::is_cluster(directory) {
        progress.done(format!("there is no cluster on {}", directory.display()));
        return Ok(());
    }
    let volumes = directory.join(layout::VOLUMES);
    let doomed = if is_empty(&volumes) { Vec::new() } else { doomed(directory, running.is_some()).await };
    stop_agents(directory, progress).await?;
    if let Some(pid) = running {
        progress.doing(format!("stopping process {pid}"));
        stop(directory, pid).await?;
        progress.done(format!("stopped process {pid}"));
    }
    // Also those that somebody has started again by hand.
    servers::stop(directory).await?;
    let claim = Claim::take(directory)?;
    let nodes = layout::nodes(directory);
    if !nodes.is_empty() {
        progress.doing("removing containers");
        let runtime = up::docker(docker_host).await.context("containers cannot be removed")?;
        for cluster in clusters(directory, &nodes)? {
            let count = sweep::containers(&runtime, &cluster, &nodes).await?;
            progress.done(format!("removed {count} containers"));
            let count = sweep::networks(&cluster, &nodes).await?;
            progress.done(format!("removed {count} networks"));
        }
        sweep::mounts(directory)?;
    }
    let inside: Vec<PathBuf> =
        doomed.into_iter().filter(|path| path.starts_with(&volumes) && *path != volumes).collect();
    sweep::files(&inside)?;
    remove_empty(&volumes);
    sweep::files(&layout::own(directory))?;
    claim.release(directory);
    // Fails when something of somebody else's is in it, which then stays.
    let _ = std::fs::remove_dir(directory);
    told(directory, &volumes, progress);
    Ok(())
}

fn told(directory: &Path, volumes: &Path, progress: &Progress) {
    if volumes.exists() {
        progress.done(format!("the data of volumes stays: {}", volumes.display()));
    } else if directory.exists() {
        progress.done(format!("{} holds what is not the cluster's, and stays", directory.display()));
    } else {
        progress.done(format!("removed {}", directory.display()));
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none()) || !directory.exists()
}

/// Removes directories without anything in them, and the directory itself if nothing is left.
fn remove_empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        // Not recursive: a directory with something in it stays.
        let _ = std::fs::remove_dir(entry.path());
    }
    let _ = std::fs::remove_dir(directory);
}

/// The names under which this directory's nodes made their containers.
fn clusters(directory: &Path, nodes: &[String]) -> anyhow::Result<Vec<String>> {
    let mut own = directory.join(layout::PKI).join("ca.crt");
    if let Some(first) = layout::servers(directory).first() {
        own = first.join(layout::PKI).join("ca.crt");
    }
    let of_nodes =
        nodes.iter().map(|name| directory.join(layout::NODES).join(name).join(layout::PKI).join("ca.crt"));
    let mut names = Vec::new();
    for path in std::iter::once(own).chain(of_nodes) {
        let Ok(ca) = std::fs::read_to_string(&path) else { continue };
        let name = node::cluster_name(&ca).with_context(|| path.display().to_string())?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Stops the agents that are processes of their own; they would make again what is taken away.
async fn stop_agents(directory: &Path, progress: &Progress) -> anyhow::Result<()> {
    for name in layout::nodes(directory) {
        let own = directory.join(layout::NODES).join(&name);
        if let Some(pid) = layout::running(&own)? {
            progress.doing(format!("stopping the agent of node {name}"));
            stop(&own, pid).await?;
            progress.done(format!("stopped the agent of node {name}, process {pid}"));
        }
    }
    Ok(())
}

/// Asks the process to stop; one that does not is killed.
pub(super) async fn stop(directory: &Path, pid: i32) -> anyhow::Result<()> {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let program = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !program.starts_with("balsa") {
        bail!("process {pid} holds {} but is \"{program}\", not balsa; stop it first", directory.display());
    }
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + PATIENCE;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot stop process {pid}"))?;
        while Instant::now() < deadline {
            if layout::running(directory)?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
    bail!("process {pid} does not stop")
}

/// The directories of volumes that are deleted with their claims. When the cluster cannot be asked, no
/// volume is known, and all data stays.
async fn doomed(directory: &Path, running: bool) -> Vec<PathBuf> {
    let listed = if running { ask(directory).await } else { look(directory).await };
    listed.unwrap_or_else(|error| {
        tracing::warn!(%error, "the cluster does not say which volumes may be deleted; all data stays");
        Vec::new()
    })
}

async fn ask(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    paths(&up::session(&directory.join(layout::ADMIN))?.remote).await
}

/// Starts the server for a moment, to read what it knows.
async fn look(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !layout::servers(directory).is_empty() {
        bail!("several servers, none of which runs");
    }
    let flags = ServerFlags { data_dir: Some(directory.to_owned()), ..ServerFlags::default() };
    let mut config = flags.resolve().config();
    config.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(config, Clock::system(), None).await?;
    let listed = paths(server.client("balsa-down").backend().as_ref()).await;
    server.shutdown().await?;
    listed
}

async fn paths(backend: &dyn Backend) -> anyhow::Result<Vec<PathBuf>> {
    let query = ListQuery { stale_allowed: true, ..ListQuery::matching(Filter::everything()) };
    let list = backend.list(kind_of::<PersistentVolume>(), &query).await?;
    let volumes = list.items.iter().filter_map(|object| object.typed::<PersistentVolume>());
    Ok(volumes.filter_map(|volume| deletable(&volume)).collect())
}

/// The directory of a volume that goes with its claim.
fn deletable(volume: &PersistentVolume) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return None;
    }
    let local = spec.local.as_ref().map(|local| &local.path);
    local.or(spec.host_path.as_ref().map(|host| &host.path)).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_volumes_that_go_with_their_claims_are_deleted() {
        let volume = |policy: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec":
                {"persistentVolumeReclaimPolicy": policy, "local": {"path": "/data/v"}}}))
            .unwrap()
        };
        assert_eq!(deletable(&volume("Delete")), Some(PathBuf::from("/data/v")));
        assert_eq!(deletable(&volume("Retain")), None);
    }

    #[tokio::test]
    async fn where_there_is_no_cluster_nothing_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("log")).unwrap();
        run(directory.path(), None, &Progress::new()).await.unwrap();
        assert!(directory.path().join("log").is_dir());
    }

    #[test]
    fn volumes_with_data_stay() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = directory.path().join("volumes");
        std::fs::create_dir_all(volumes.join("empty")).unwrap();
        std::fs::create_dir_all(volumes.join("full/data")).unwrap();
        remove_empty(&volumes);
        assert!(!volumes.join("empty").exists() && volumes.join("full/data").is_dir());
    }
}
