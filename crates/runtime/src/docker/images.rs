//! Images: asking, pulling, importing, removing.

use bollard::auth::DockerCredentials;
use bollard::models as docker;
use bollard::query_parameters as query;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::errors::failed;
use super::{DockerRuntime, convert};
use crate::{
    Error, ImageInfo, ImageSummary, PullProgress, PullReason, RegistryAuth, Result, with_default_tag,
};

impl DockerRuntime {
    pub(super) async fn image(&self, reference: &str) -> Result<Option<ImageInfo>> {
        match self.docker.inspect_image(reference).await.map_err(failed) {
            Ok(found) => Ok(Some(image_info(found))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn pull_image(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
        progress: Option<mpsc::Sender<PullProgress>>,
    ) -> Result<ImageInfo> {
        let pull_error = |message: String| Error::ImagePull {
            image: reference.to_owned(),
            reason: PullReason::from_message(&message),
            message,
        };
        let options =
            query::CreateImageOptionsBuilder::default().from_image(&with_default_tag(reference)).build();
        let mut steps = self.patient.create_image(Some(options), None, auth.map(credentials));
        while let Some(step) = steps.next().await {
            let step = step.map_err(failed).map_err(|error| match error {
                Error::Unavailable { .. } => error,
                // The bare message: the family in front of it says nothing about a pull.
                Error::NotFound { message }
                | Error::Conflict { message }
                | Error::Invalid { message }
                | Error::Other { message } => pull_error(message),
                other => pull_error(other.to_string()),
            })?;
            if let Some(progress) = &progress {
                // A listener that is behind misses a step; one that is gone misses them all.
                let _ = progress.try_send(pull_progress(step));
            }
        }
        let found = self.image(&with_default_tag(reference)).await?;
        found.ok_or_else(|| pull_error("the pull ended and the image is not there".to_owned()))
    }

    pub(super) async fn delete_image(&self, reference: &str) -> Result<()> {
        match self
            .docker
            .remove_image(reference, None::<query::RemoveImageOptions>, None)
            .await
            .map_err(failed)
        {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(|_| ()),
        }
    }

    pub(super) async fn images(&self) -> Result<Vec<ImageSummary>> {
        let found = self.docker.list_images(None::<query::ListImagesOptions>).await.map_err(failed)?;
        Ok(found.into_iter().map(image_summary).collect())
    }

    pub(super) async fn import(&self, archive: Bytes) -> Result<Vec<String>> {
        let options = query::ImportImageOptionsBuilder::default().quiet(true).build();
        let mut steps = self.patient.import_image(options, bollard::body_full(archive), None);
        let mut names = Vec::new();
        while let Some(step) = steps.next().await {
            let said = step.map_err(failed)?.stream.unwrap_or_default();
            // "Loaded image: name:tag", or "Loaded image ID: sha256:…" when it has no name.
            if let Some((_, name)) = said.trim().split_once(": ") {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

fn credentials(auth: RegistryAuth) -> DockerCredentials {
    DockerCredentials {
        username: auth.username,
        password: auth.password,
        serveraddress: auth.server_address,
        identitytoken: auth.identity_token,
        registrytoken: auth.registry_token,
        ..Default::default()
    }
}

fn pull_progress(step: docker::CreateImageInfo) -> PullProgress {
    let detail = step.progress_detail.unwrap_or_default();
    let count = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    PullProgress {
        layer: step.id.unwrap_or_default(),
        status: step.status.unwrap_or_default(),
        current: count(detail.current),
        total: count(detail.total),
    }
}

fn image_info(found: docker::ImageInspect) -> ImageInfo {
    let config = found.config.unwrap_or_default();
    ImageInfo {
        id: found.id.unwrap_or_default(),
        repo_tags: found.repo_tags.unwrap_or_default(),
        repo_digests: found.repo_digests.unwrap_or_default(),
        size: size(found.size.unwrap_or_default()),
        user: config.user.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        architecture: found.architecture.unwrap_or_default(),
        created_at: found.created.as_deref().and_then(convert::time),
    }
}

fn image_summary(found: docker::ImageSummary) -> ImageSummary {
    // Images without a name are listed as `<none>:<none>`.
    let named = |names: Vec<String>| names.into_iter().filter(|name| !name.contains("<none>")).collect();
    ImageSummary {
        id: found.id,
        repo_tags: named(found.repo_tags),
        repo_digests: named(found.repo_digests),
        size: size(found.size),
    }
}

fn size(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or_default()
}
