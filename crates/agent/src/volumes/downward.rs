//! downwardAPI: fields of the pod and resources of its containers as files, kept up to date.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use super::{DEFAULT_MODE, Job, VolumeBackend, VolumeError, mode};
use crate::files::{FileEntry, Files};
use crate::pod::fields::{field, resource};
use crate::pod::observed::members;

pub(super) struct DownwardApi;

#[async_trait]
impl VolumeBackend for DownwardApi {
    fn handles(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let source = job.volume.downward_api.clone().unwrap_or_default();
        let files = files(job, source.items.as_deref(), mode(source.default_mode, DEFAULT_MODE))?;
        job.publish_in_memory("downward-api", files).await
    }
}

/// The files of a downward API source.
pub(super) fn files(
    job: &Job<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: u32,
) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    for item in items.unwrap_or_default() {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => field(job.pod, job.facts, &reference.field_path),
            (None, Some(reference)) => {
                let name = reference.container_name.as_deref().unwrap_or_default();
                let container = members(job.pod).map(|(_, container)| container).find(|c| c.name == name);
                container.and_then(|container| resource(container, job.facts, reference))
            }
            (None, None) => None,
        };
        let missing = || VolumeError::Source(format!("no such field for {} in the downward API", item.path));
        let bytes = value.ok_or_else(missing)?.into_bytes();
        files.insert(item.path.clone(), FileEntry { bytes, mode: mode(item.mode, default_mode) });
    }
    Ok(files)
}
