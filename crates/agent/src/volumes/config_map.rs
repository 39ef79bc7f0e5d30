//! configMap: a ConfigMap's keys as files, kept up to date.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, KeyToPath, Volume};

use super::{DEFAULT_MODE, Job, VolumeBackend, VolumeError, mode, select};
use crate::files::Files;

pub(super) struct ConfigMapVolume;

#[async_trait]
impl VolumeBackend for ConfigMapVolume {
    fn handles(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let empty = ConfigMapVolumeSource::default();
        let source = job.volume.config_map.as_ref().unwrap_or(&empty);
        let mode = mode(source.default_mode, DEFAULT_MODE);
        let files = files(job, &source.name, source.items.as_ref(), source.optional, mode).await?;
        job.publish("configmap", files).await
    }
}

/// The files of a ConfigMap.
pub(super) async fn files(
    job: &Job<'_>,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Files, VolumeError> {
    let optional = optional == Some(true);
    match job.shared.objects.config_map(job.namespace(), name).await.map_err(VolumeError::Source)? {
        Some(data) => select(&data, items, mode, optional, "configmap"),
        None if optional => Ok(Files::new()),
        None => Err(VolumeError::Source(format!("configmap \"{name}\" not found"))),
    }
}
