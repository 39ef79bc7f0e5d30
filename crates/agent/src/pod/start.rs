//! The step that starts one container: image, configuration, create, start, postStart.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use balsa_runtime::{ContainerConfig, ContainerId, Error, ImageInfo};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::context::NodeContext;
use crate::metrics;
use crate::pod::container::{self, Parts, message_file};
use crate::pod::env::EnvContext;
use crate::pod::hooks;
use crate::pod::image::{Missing, Ready, pull_policy};
use crate::pod::observed::{Found, Role, Waiting};
use crate::pod::plan::Start;

/// One container to start, and what it needs.
pub(crate) struct StartJob<'a> {
    pub node: &'a NodeContext,
    pub pod: &'a Pod,
    pub role: Role,
    pub container: &'a Container,
    pub start: &'a Start,
    pub sandbox: &'a ContainerId,
    /// The container whose processes it is to see, if it names one, and if that is there.
    pub target: Option<Option<&'a Found>>,
    pub address: Option<std::net::IpAddr>,
    pub volumes: &'a BTreeMap<String, PathBuf>,
}

/// Why a container was not started.
pub(crate) struct NotStarted {
    /// What its status shows.
    pub waiting: Waiting,
    /// When it is tried again.
    pub again: Again,
}

/// When something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// In a moment, then later each time.
    Soon,
    /// After a while: only another name can help, and that is looked at when it comes.
    Sometime,
    /// Later each time: a registry is asked.
    Pull,
}

impl NotStarted {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { waiting: Waiting::new(reason, message), again: Again::Soon }
    }
}

impl StartJob<'_> {
    fn event(&self, type_: &'static str, reason: &str, message: impl Into<String>) {
        self.node.event(self.pod, Some(&self.container.name), type_, reason, message);
    }

    /// Starts it. A container that was made but cannot run counts as a try that ended, and is no error here.
    pub(crate) async fn run(&self) -> Result<(), NotStarted> {
        let image = self.image().await?;
        let config = self.config(&image).await.map_err(|message| {
            self.event("Warning", "Failed", format!("Error: {message}"));
            NotStarted::new("CreateContainerConfigError", message)
        })?;
        let id = self.create(&config).await.map_err(|error| {
            self.event("Warning", "Failed", format!("Error: {error}"));
            NotStarted::new("CreateContainerError", error.to_string())
        })?;
        self.event("Normal", "Created", format!("Created container: {}", self.container.name));
        match metrics::operation("start_container", self.node.runtime.start(&id)).await {
            Ok(()) => {}
            Err(error @ Error::Start { .. }) => {
                self.event("Warning", "Failed", format!("Error: {error}"));
                return Ok(());
            }
            Err(error) => {
                self.event("Warning", "Failed", format!("Error: {error}"));
                return Err(NotStarted::new("RunContainerError", error.to_string()));
            }
        }
        self.event("Normal", "Started", format!("Started container {}", self.container.name));
        self.after_start(&id).await;
        Ok(())
    }

    async fn image(&self) -> Result<ImageInfo, NotStarted> {
        let image = self.container.image.clone().unwrap_or_default();
        let pulling = |so_far: &str| {
            let so_far = if so_far.is_empty() { String::new() } else { format!(": {so_far}") };
            self.event("Normal", "Pulling", format!("Pulling image \"{image}\"{so_far}"));
        };
        let ready = self.node.images.ensure(self.pod, self.container, &*self.node.objects, pulling).await;
        let missing = match ready {
            Ok(Ready::Present(info)) => {
                let message = format!("Container image \"{image}\" already present on machine");
                self.event("Normal", "Pulled", message);
                return Ok(info);
            }
            Ok(Ready::Pulled { info, took, waited }) => {
                let (took, waited) = (seconds(took), seconds(waited));
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({waited} including waiting). Image size: {} bytes.",
                    info.size
                );
                self.event("Normal", "Pulled", message);
                return Ok(info);
            }
            Err(missing) => missing,
        };
        let (reason, message) = match missing {
            Missing::Never => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.event("Warning", "ErrImageNeverPull", message.clone());
                ("ErrImageNeverPull", message)
            }
            Missing::BadName(why) => {
                let message = format!(
                    "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {why}"
                );
                self.event("Warning", "InspectFailed", message.clone());
                ("InvalidImageName", message)
            }
            Missing::Failed { reason, message } => {
                self.event("Warning", "Failed", format!("Failed to pull image \"{image}\": {message}"));
                (reason, message)
            }
        };
        self.event("Warning", "Failed", format!("Error: {reason}"));
        let again = match reason {
            "InvalidImageName" => Again::Sometime,
            // Looking again for an image that may not be pulled costs nothing.
            _ if pull_policy(self.container) == "Never" => Again::Soon,
            _ => Again::Pull,
        };
        Err(NotStarted { again, ..NotStarted::new(reason, message) })
    }

    async fn config(&self, image: &ImageInfo) -> Result<ContainerConfig, String> {
        let (node, facts) = (self.node, self.node.facts(self.address));
        let context = EnvContext {
            pod: self.pod,
            facts: &facts,
            objects: &*node.objects,
            services: node.service_variables(self.pod),
        };
        let env = context.environment(self.container).await.map_err(|error| error.to_string())?;
        self.message_file().map_err(|error| error.to_string())?;
        let target = match self.target {
            Some(None) => return Err("unable to find target container".to_owned()),
            Some(Some(found)) if !found.is_running() => {
                return Err("target container is not running".to_owned());
            }
            found => found.flatten().map(|found| &found.state.id),
        };
        let runtime = node.handler(self.pod).await?;
        let config = container::container(Parts {
            config: &node.config,
            pod: self.pod,
            container: self.container,
            role: self.role,
            attempt: self.start.attempt,
            sandbox: self.sandbox,
            target,
            image,
            env,
            volumes: self.volumes,
            machine: &node.machine,
            recursive_read_only: node.recursive_read_only,
        });
        config.map(|config| ContainerConfig { runtime, ..config }).map_err(|error| error.to_string())
    }

    /// An empty file, into which any user of the container may write.
    fn message_file(&self) -> std::io::Result<()> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let path = message_file(&self.node.config.pod_dir(uid), &self.container.name, self.start.attempt);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        std::fs::File::create(&path)?.set_permissions(std::fs::Permissions::from_mode(0o666))
    }

    async fn create(&self, config: &ContainerConfig) -> Result<ContainerId, Error> {
        let runtime = &self.node.runtime;
        match metrics::operation("create_container", runtime.create_container(config)).await {
            // What a cancelled try left; nothing of it has run.
            Err(error) if error.is_conflict() => {
                let name = ContainerId::new(config.name.clone());
                let state = runtime.inspect(&name).await?;
                if state.status.is_alive() {
                    return Err(error);
                }
                runtime.remove(&name, true).await?;
                runtime.create_container(config).await
            }
            other => other,
        }
    }

    async fn after_start(&self, id: &ContainerId) {
        let Some(handler) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return;
        };
        let hook = hooks::run(self.node, self.container, id, handler, self.address).await;
        if let Err(message) = hook {
            self.event("Warning", "FailedPostStartHook", format!("PostStartHook failed: {message}"));
            let grace =
                self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            self.event("Normal", "Killing", "FailedPostStartHook");
            let _ = metrics::operation("stop_container", self.node.runtime.stop(id, grace, None)).await;
        }
    }
}

/// `1.234s`, as Go prints durations of that size; shorter ones in milliseconds.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}.{:03}s", duration.as_secs(), duration.subsec_millis())
    }
}
