//! emptyDir: a directory of the pod, on disk or in memory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use async_trait::async_trait;
use balsa_model::quantity::Quantity;
use k8s_openapi::api::core::v1::Volume;

use super::memory::{is_mounted, mount_memory};
use super::{Job, VolumeBackend, VolumeError, share_with};

pub(super) struct EmptyDir;

#[async_trait]
impl VolumeBackend for EmptyDir {
    fn handles(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let directory = job.directory("empty-dir");
        let source = job.volume.empty_dir.clone().unwrap_or_default();
        let fresh = !directory.exists();
        std::fs::create_dir_all(&directory)?;
        let memory = source.medium.as_deref() == Some("Memory");
        if memory && !is_mounted(&directory)? {
            let size = source.size_limit.as_ref().and_then(Quantity::of).map(Quantity::value);
            mount_memory(&directory, size)?;
        } else if !fresh {
            return Ok(directory);
        }
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        if let Some(group) = job.group() {
            share_with(&directory, group)?;
        }
        Ok(directory)
    }
}
