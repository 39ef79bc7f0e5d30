//! The Docker Engine, through bollard (API 1.41 and later).
//!
//! Stateless but for the connection settings: each call is a request of its own, so a restarted
//! engine is met by the next call. Requests that may rightly take long (pull, wait, follow, stop) go
//! through a client without a time limit; the others give up after two minutes.
//!
//! A known limit: a terminal's output that starts a chunk with a byte below 3 is taken for a
//! frame header by bollard's decoder.

mod convert;
mod errors;
mod exec;
mod images;
mod logs;
mod networks;

use std::time::Duration;

use async_trait::async_trait;
use balsa_rt::Clock;
use bollard::Docker;
use bollard::query_parameters as query;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{
    AttachOptions, ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerSummary, Error,
    EventStream, ExecConfig, ExecOutput, ExecSession, ImageInfo, ImageSummary, ListFilter, LogOptions,
    LogStream, Network, NetworkConfig, PullProgress, RegistryAuth, Resources, Result, Runtime, Version,
};
use errors::{failed, observed, refused_start};

/// Where Docker listens unless it is told otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// No limit, in a form that timers can add to now.
const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A Docker Engine.
#[derive(Clone)]
pub struct DockerRuntime {
    docker: Docker,
    patient: Docker,
    clock: Clock,
}

impl DockerRuntime {
    /// Connects to the engine at `host` (`unix://…`, `tcp://…`; else [`DEFAULT_HOST`]) and agrees with
    /// it on the version of the API.
    pub async fn connect(host: Option<&str>, clock: Clock) -> Result<Self> {
        let host = host.unwrap_or(DEFAULT_HOST);
        let unavailable = |error: Error| Error::Unavailable {
            message: format!(
                "no Docker Engine answers at {host} ({error}): install it, start it, or name another"
            ),
        };
        let docker = Docker::connect_with_host(host).map_err(|e| unavailable(failed(e)))?;
        let docker = docker.negotiate_version().await.map_err(|e| unavailable(failed(e)))?;
        let spoken = docker.client_version();
        if (spoken.major_version, spoken.minor_version) < (1, 41) {
            return Err(Error::Invalid {
                message: format!(
                    "the Docker Engine at {host} speaks API {spoken}, and 1.41 (Docker 20.10) is the oldest that will do"
                ),
            });
        }
        let patient = docker.clone().with_timeout(NO_LIMIT);
        Ok(Self { docker, patient, clock })
    }

    async fn stop_with_signal(&self, id: &ContainerId, grace: Duration, signal: &str) -> Result<()> {
        match self.kill(id, signal).await {
            Ok(()) => {}
            Err(Error::Conflict { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        if tokio::time::timeout(grace, self.wait(id)).await.is_ok_and(|ended| ended.is_ok()) {
            return Ok(());
        }
        match self.kill(id, "SIGKILL").await {
            Ok(()) => self.wait(id).await.map(|_| ()),
            Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn version(&self) -> Result<Version> {
        observed("version", async {
            let version = self.docker.version().await.map_err(failed)?;
            let info = self.docker.info().await.map_err(failed)?;
            let spoken = self.docker.client_version();
            Ok(convert::version(version, info, (spoken.major_version, spoken.minor_version)))
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        self.docker.ping().await.map(|_| ()).map_err(failed)
    }

    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageInfo>> {
        observed("image_status", self.image(reference)).await
    }

    async fn pull(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
        progress: Option<mpsc::Sender<PullProgress>>,
    ) -> Result<ImageInfo> {
        observed("pull_image", self.pull_image(reference, auth, progress)).await
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        observed("remove_image", self.delete_image(reference)).await
    }

    async fn list_images(&self) -> Result<Vec<ImageSummary>> {
        observed("list_images", self.images()).await
    }

    async fn load_image(&self, archive: Bytes) -> Result<Vec<String>> {
        observed("load_image", self.import(archive)).await
    }

    async fn create_container(&self, config: &ContainerConfig) -> Result<ContainerId> {
        observed("create_container", async {
            let options = query::CreateContainerOptionsBuilder::default().name(&config.name).build();
            let body = convert::create_body(config)?;
            let created = self.docker.create_container(Some(options), body).await.map_err(|error| {
                match failed(error) {
                    Error::ImageNotFound { .. } => Error::ImageNotFound { image: config.image.clone() },
                    other => other,
                }
            })?;
            for warning in &created.warnings {
                tracing::debug!(container = config.name, warning, "the engine warns");
            }
            Ok(ContainerId::new(created.id))
        })
        .await
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        observed("start_container", async {
            self.docker.start_container(id.as_str(), None).await.map_err(refused_start)
        })
        .await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration, signal: Option<&str>) -> Result<()> {
        observed("stop_container", async {
            if let Some(signal) = signal {
                return self.stop_with_signal(id, grace, signal).await;
            }
            let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
            let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
            let options = query::StopContainerOptionsBuilder::default().t(seconds).build();
            self.patient.stop_container(id.as_str(), Some(options)).await.map_err(failed)
        })
        .await
    }

    async fn kill(&self, id: &ContainerId, signal: &str) -> Result<()> {
        observed("kill_container", async {
            let options = query::KillContainerOptionsBuilder::default().signal(signal).build();
            self.docker.kill_container(id.as_str(), Some(options)).await.map_err(failed)
        })
        .await
    }

    async fn remove(&self, id: &ContainerId, force: bool) -> Result<()> {
        observed("remove_container", async {
            let options = query::RemoveContainerOptionsBuilder::default().force(force).v(true).build();
            match self.docker.remove_container(id.as_str(), Some(options)).await.map_err(failed) {
                Err(Error::NotFound { .. }) => Ok(()),
                Err(Error::Conflict { message }) if message.contains("already in progress") => Ok(()),
                result => result,
            }
        })
        .await
    }

    async fn inspect(&self, id: &ContainerId) -> Result<ContainerState> {
        observed("container_status", async {
            let found = self.docker.inspect_container(id.as_str(), None).await.map_err(failed)?;
            Ok(convert::container_state(found))
        })
        .await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ContainerSummary>> {
        observed("list_containers", async {
            let filters = [("label".to_owned(), convert::label_filter(&filter.labels))].into();
            let options =
                query::ListContainersOptionsBuilder::default().all(filter.all).filters(&filters).build();
            let found = self.docker.list_containers(Some(options)).await.map_err(failed)?;
            Ok(found.into_iter().map(convert::container_summary).collect())
        })
        .await
    }

    async fn wait(&self, id: &ContainerId) -> Result<i32> {
        let mut answers = self.patient.wait_container(id.as_str(), None);
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code as i32),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(code as i32),
            Some(Err(error)) => Err(failed(error)),
            None => Err(Error::Unavailable { message: "the engine went away".to_owned() }),
        }
    }

    async fn events(&self, labels: &[(String, String)], since: Option<Timestamp>) -> Result<EventStream> {
        // Without a beginning, what happens until the stream is first polled would be lost.
        let since = since.unwrap_or_else(|| self.clock.now());
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filters = [
            ("type".to_owned(), words(&["container"])),
            ("event".to_owned(), words(&["create", "start", "die", "oom", "destroy"])),
            ("label".to_owned(), convert::label_filter(labels)),
        ]
        .into();
        let options = query::EventsOptionsBuilder::default()
            .since(&convert::unix_time(since))
            .filters(&filters)
            .build();
        let messages = self.patient.events(Some(options)).map_err(failed);
        Ok(messages.try_filter_map(async |message| Ok(convert::event(message))).boxed())
    }

    async fn logs(&self, id: &ContainerId, options: &LogOptions) -> Result<LogStream> {
        self.container_logs(id, options).await
    }

    async fn exec(&self, id: &ContainerId, config: &ExecConfig) -> Result<ExecSession> {
        observed("exec", self.start_exec(id, config)).await.map(|(session, _)| session)
    }

    async fn attach(&self, id: &ContainerId, options: &AttachOptions) -> Result<ExecSession> {
        observed("attach", self.join_streams(id, options)).await
    }

    async fn exec_sync(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        observed("exec_sync", self.run_to_end(id, command, timeout)).await
    }

    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<()> {
        observed("update_container", async {
            let update = self.docker.update_container(id.as_str(), convert::update(resources));
            update.await.map_err(failed)
        })
        .await
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        observed("container_stats", async {
            let options = query::StatsOptionsBuilder::default().stream(false).one_shot(true).build();
            let mut readings = self.docker.stats(id.as_str(), Some(options));
            let gone = || Error::NotFound { message: format!("no statistics of container {id}") };
            let reading = readings.next().await.ok_or_else(gone)?.map_err(failed)?;
            convert::stats(reading)
                .ok_or_else(|| Error::Conflict { message: format!("container {id} is not running") })
        })
        .await
    }

    async fn written(&self, id: &ContainerId) -> Result<u64> {
        observed("container_size", async {
            let options = query::InspectContainerOptionsBuilder::default().size(true).build();
            let found = self.patient.inspect_container(id.as_str(), Some(options)).await.map_err(failed)?;
            Ok(found.size_rw.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default())
        })
        .await
    }

    async fn create_network(&self, config: &NetworkConfig) -> Result<Network> {
        observed("create_network", self.make_network(config)).await
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        observed("remove_network", self.delete_network(name)).await
    }

    async fn list_networks(&self, labels: &[(String, String)]) -> Result<Vec<Network>> {
        observed("list_networks", self.networks(labels)).await
    }
}
