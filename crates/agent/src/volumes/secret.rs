//! secret: a Secret's keys as files, kept up to date.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{KeyToPath, SecretVolumeSource, Volume};

use super::{DEFAULT_MODE, Job, VolumeBackend, VolumeError, mode, select};
use crate::files::Files;

pub(super) struct SecretVolume;

#[async_trait]
impl VolumeBackend for SecretVolume {
    fn handles(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let empty = SecretVolumeSource::default();
        let source = job.volume.secret.as_ref().unwrap_or(&empty);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = mode(source.default_mode, DEFAULT_MODE);
        let files = files(job, name, source.items.as_ref(), source.optional, mode).await?;
        job.publish_in_memory("secret", files).await
    }
}

/// The files of a Secret.
pub(super) async fn files(
    job: &Job<'_>,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Files, VolumeError> {
    let optional = optional == Some(true);
    match job.shared.objects.secret(job.namespace(), name).await.map_err(VolumeError::Source)? {
        Some(data) => select(&data, items, mode, optional, "secret"),
        None if optional => Ok(Files::new()),
        None => Err(VolumeError::Source(format!("secret \"{name}\" not found"))),
    }
}
