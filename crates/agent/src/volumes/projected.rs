//! projected: several sources in one directory, among them the service account's token.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

use super::{DEFAULT_MODE, Job, VolumeBackend, VolumeError, config_map, downward, mode, secret};
use crate::files::{FileEntry, Files};

pub(super) struct Projected;

#[async_trait]
impl VolumeBackend for Projected {
    fn handles(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let source = job.volume.projected.clone().unwrap_or_default();
        let default_mode = mode(source.default_mode, DEFAULT_MODE);
        let mut files = Files::new();
        for projection in source.sources.iter().flatten() {
            files.extend(project(job, projection, default_mode).await?);
        }
        job.publish_in_memory("projected", files).await
    }
}

async fn project(job: &Job<'_>, projection: &VolumeProjection, mode: u32) -> Result<Files, VolumeError> {
    if let Some(source) = &projection.config_map {
        return config_map::files(job, &source.name, source.items.as_ref(), source.optional, mode).await;
    }
    if let Some(source) = &projection.secret {
        return secret::files(job, &source.name, source.items.as_ref(), source.optional, mode).await;
    }
    if let Some(source) = &projection.downward_api {
        return downward::files(job, source.items.as_deref(), mode);
    }
    if let Some(source) = &projection.service_account_token {
        let token = job.shared.tokens.token(job, source).await?;
        // Only the pod's group reads it where there is one, else everybody in the pod.
        let mode = if job.group().is_some() { 0o640 } else { mode };
        return Ok([(source.path.clone(), FileEntry { bytes: token.into_bytes(), mode })].into());
    }
    Err(VolumeError::Source("this projection is not supported by this node".to_owned()))
}
