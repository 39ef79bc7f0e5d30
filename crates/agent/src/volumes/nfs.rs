//! nfs: an export, mounted for the pod by the machine's own `mount`.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Job, VolumeBackend, VolumeError, mount_point};

/// A server that is not there keeps `mount` waiting for minutes.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Nfs;

#[async_trait]
impl VolumeBackend for Nfs {
    fn handles(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let source = job.volume.nfs.clone().unwrap_or_default();
        mount(job, &source.server, &source.path, source.read_only == Some(true)).await
    }
}

/// Mounts an export in the pod's directory, unless it is mounted.
pub(super) async fn mount(
    job: &Job<'_>,
    server: &str,
    path: &str,
    read_only: bool,
) -> Result<PathBuf, VolumeError> {
    let directory = job.directory("nfs");
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    if table.lines().filter_map(mount_point).any(|point| point == directory) {
        return Ok(directory);
    }
    std::fs::create_dir_all(&directory)?;
    let mut command = tokio::process::Command::new("mount");
    command.args(["-t", "nfs", "-o", if read_only { "ro" } else { "rw" }, "--"]);
    command.arg(format!("{server}:{path}")).arg(&directory).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| VolumeError::Source(format!("mounting {server}:{path} timed out")))??;
    if output.status.success() {
        return Ok(directory);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(VolumeError::Source(format!("mounting {server}:{path} failed: {}", said.trim())))
}
