//! The step that has an image ready: pull policy, credentials, progress as events, back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_runtime::{
    Error, ImageInfo, PullReason, RegistryAuth, Runtime, why_no_reference, with_default_tag,
};
use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;

use crate::metrics;
use crate::node::garbage::Pulled;
use crate::objects::ObjectSource;
use crate::pod::progress::Progress;

/// So many pulls at a time: more would only share the same line.
const PARALLEL: usize = 4;
/// Between two times that a pull is told to be under way, at most.
const SELDOM: Duration = Duration::from_secs(120);
/// Steps of a pull that wait to be looked at; more are missed, and the next one says as much.
const STEPS: usize = 256;

/// Pulls for all pods of the node: one pull an image at a time.
pub(crate) struct Images {
    runtime: Arc<dyn Runtime>,
    slots: Semaphore,
    under_way: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// When a pull is told to be under way for the first time.
    first_told: Duration,
    pulled: Arc<Pulled>,
}

/// What became of an image, to be told in the pod's events.
pub(crate) enum Ready {
    /// It was here.
    Present(ImageInfo),
    /// It was fetched.
    Pulled {
        /// What it is.
        info: ImageInfo,
        /// How long the pull took, and how long with the wait for its turn.
        took: Duration,
        /// See above.
        waited: Duration,
    },
}

/// Why an image is not there.
#[derive(Debug)]
pub(crate) enum Missing {
    /// It may not be pulled.
    Never,
    /// The name is none, and why not.
    BadName(String),
    /// The pull failed.
    Failed { reason: &'static str, message: String },
}

/// `imagePullPolicy`, with its default.
pub(crate) fn pull_policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let image = with_default_tag(container.image.as_deref().unwrap_or_default());
            if image.ends_with(":latest") { "Always" } else { "IfNotPresent" }
        }
    }
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, pulled: Arc<Pulled>, first_told: Duration) -> Self {
        Self { runtime, slots: Semaphore::new(PARALLEL), under_way: Mutex::default(), first_told, pulled }
    }

    /// The image, if it is here.
    pub(crate) async fn present(&self, image: &str) -> Result<Option<ImageInfo>, Error> {
        self.runtime.inspect_image(image).await
    }

    /// Has the image ready. `pulling` is called when a pull is needed, before it starts, and while it goes
    /// on, with how far it has come.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        objects: &dyn ObjectSource,
        pulling: impl Fn(&str) + Sync,
    ) -> Result<Ready, Missing> {
        let ready = self.bring(pod, container, objects, pulling).await?;
        let image = with_default_tag(container.image.as_deref().unwrap_or_default());
        self.pulled.wanted(&image, matches!(ready, Ready::Pulled { .. }));
        Ok(ready)
    }

    async fn bring(
        &self,
        pod: &Pod,
        container: &Container,
        objects: &dyn ObjectSource,
        pulling: impl Fn(&str) + Sync,
    ) -> Result<Ready, Missing> {
        let image = container.image.clone().unwrap_or_default();
        if let Some(why) = why_no_reference(&image) {
            return Err(Missing::BadName(why));
        }
        let policy = pull_policy(container);
        if policy != "Always" {
            match self.present(&image).await {
                Ok(Some(info)) => return Ok(Ready::Present(info)),
                Ok(None) if policy == "Never" => return Err(Missing::Never),
                Ok(None) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        pulling("");
        let asked = Instant::now();
        let turn = self.under_way.lock().await.entry(image.clone()).or_default().clone();
        let _turn = turn.lock().await;
        // Whoever had the turn before may have brought it.
        if policy != "Always"
            && let Ok(Some(info)) = self.present(&image).await
        {
            return Ok(Ready::Pulled { info, took: Duration::ZERO, waited: asked.elapsed() });
        }
        let _slot = self.slots.acquire().await;
        let began = Instant::now();
        let auth = credentials(pod, &image, objects).await;
        let pulled = metrics::operation("pull_image", self.pull(&image, auth, pulling)).await;
        let info = pulled.map_err(|error| failed(&error))?;
        Ok(Ready::Pulled { info, took: began.elapsed(), waited: asked.elapsed() })
    }

    async fn pull(
        &self,
        image: &str,
        auth: Option<RegistryAuth>,
        pulling: impl Fn(&str),
    ) -> Result<ImageInfo, Error> {
        let (sender, mut steps) = mpsc::channel(STEPS);
        let image = with_default_tag(image);
        let mut pull = self.runtime.pull(&image, auth, Some(sender));
        let (mut progress, mut wait) = (Progress::default(), self.first_told);
        let mut due = Instant::now() + wait;
        loop {
            tokio::select! {
                pulled = &mut pull => return pulled,
                Some(step) = steps.recv() => progress.note(step),
                () = tokio::time::sleep_until(due) => {
                    if let Some(text) = progress.text() {
                        pulling(&text);
                    }
                    wait = (wait * 2).min(SELDOM);
                    due = Instant::now() + wait;
                }
            }
        }
    }
}

fn failed(error: &Error) -> Missing {
    match error {
        Error::ImagePull { reason: PullReason::InvalidName, message, .. } => {
            Missing::BadName(message.clone())
        }
        Error::ImagePull { reason, .. } => {
            Missing::Failed { reason: reason.waiting_reason(), message: error.to_string() }
        }
        other => Missing::Failed { reason: "ErrImagePull", message: other.to_string() },
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

async fn credentials(pod: &Pod, image: &str, objects: &dyn ObjectSource) -> Option<RegistryAuth> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for reference in pod.spec.as_ref()?.image_pull_secrets.iter().flatten() {
        let Ok(Some(data)) = objects.secret(namespace, &reference.name).await else { continue };
        if let Some(found) = data.get(".dockerconfigjson").and_then(|bytes| find_auth(bytes, image)) {
            return Some(found);
        }
    }
    None
}

fn find_auth(config: &[u8], image: &str) -> Option<RegistryAuth> {
    let config: DockerConfig = serde_json::from_slice(config).ok()?;
    let registry = registry(image);
    let (server, auth) = config.auths.into_iter().find(|(server, _)| {
        let host = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    })?;
    let pair = auth.auth.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text.trim()).ok());
    let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|text| text.split_once(':'));
    Some(RegistryAuth {
        username: auth.username.or(pair.map(|(user, _)| user.to_owned())),
        password: auth.password.or(pair.map(|(_, password)| password.to_owned())),
        server_address: Some(server),
        identity_token: auth.identitytoken,
        registry_token: None,
    })
}

fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        for (image, policy) in
            [("a", "Always"), ("a:latest", "Always"), ("a:1", "IfNotPresent"), ("a@sha256:0", "IfNotPresent")]
        {
            let container = Container { image: Some(image.to_owned()), ..Container::default() };
            assert_eq!(pull_policy(&container), policy, "{image}");
        }
    }

    #[test]
    fn credentials_are_found_by_registry() {
        let config = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.example:5000": {"username": "x", "password": "y"}}}"#;
        let found = find_auth(config, "nginx").unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("u"), Some("p")));
        assert_eq!(find_auth(config, "r.example:5000/a").unwrap().username.as_deref(), Some("x"));
        assert!(find_auth(config, "quay.io/a").is_none());
    }
}
