//! Containers, images and their logs: one seam, and behind it Docker and a simulation.
//!
//! [`Runtime`] knows containers, not pods: a pod's sandbox is a container like any other, and
//! what belongs to what is written in [`labels`]. Nothing is remembered on this side of the seam;
//! whoever restarts finds everything again with [`Runtime::list`].
//!
//! Two implementations pass the same suite (`tests/suite`): [`DockerRuntime`] for a Docker Engine
//! (API 1.41 or later) and [`SimulatedRuntime`], which keeps containers in memory for load tests and
//! says so in its [`Version`].
//!
//! # Pod network
//!
//! Two ways of giving a sandbox its address are open. The one Balsa uses is
//! [`NetworkMode::None`]: the sandbox starts with a network namespace that holds nothing but
//! loopback, and balsa-net plugs one end of a veth pair into it, found by
//! [`ContainerState::netns`]. Docker then knows nothing of the pod network, so none of its firewall
//! chains (which keep two of its bridges apart and would keep the pods of two agents on one machine
//! apart) applies to it, and a start saves the milliseconds that Docker's own driver takes. The other
//! is a Docker network ([`NetworkMode::Bridge`], [`Runtime::create_network`]) with a fixed address:
//! for machines where the agent may talk to Docker and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

mod archive;
mod container;
mod docker;
mod error;
mod image;
pub mod labels;
mod network;
pub mod pause;
mod session;
pub mod simulated;
mod stats;

pub use archive::ImageBuilder;

pub use container::{
    AppArmor, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerId, ContainerState,
    ContainerStatus, ContainerSummary, EventStream, IpcMode, ListFilter, LogDriver, Mount, MountKind,
    NetworkMode, PidMode, Propagation, Resources, Seccomp,
};
pub use docker::{DEFAULT_HOST, DockerRuntime};
pub use error::{Error, PullReason, Result};
pub use image::{ImageInfo, ImageSummary, PullProgress, RegistryAuth, why_no_reference, with_default_tag};
pub use network::{Network, NetworkConfig};
pub use session::{
    AttachOptions, ExecConfig, ExecOutput, ExecSession, LogLine, LogOptions, LogStream, OutputStream,
    SessionControl, StreamKind,
};
pub use simulated::SimulatedRuntime;
pub use stats::{ContainerStats, InterfaceStats, network_stats};

/// What answers for the containers of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `docker` or `simulated`; the scheme in `containerRuntimeVersion` of a Node.
    pub engine: String,
    /// The engine's own version.
    pub version: String,
    /// The version of the API spoken with it.
    pub api_version: String,
    /// `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// What `uname -r` says on the machine.
    pub kernel: String,
    /// The distribution, for `osImage` of a Node.
    pub os_image: String,
    /// No process stands behind a container: nothing to plug, mount or probe.
    pub simulated: bool,
    /// What is mounted below a read-only mount can be made read-only, too.
    pub recursive_read_only: bool,
    /// What containers can be run by, by name.
    pub runtimes: BTreeSet<String>,
}

/// The containers and images of one machine.
///
/// Every method may be called again after [`Error::Unavailable`]. `start`, `stop`, `remove`,
/// `remove_image` and `remove_network` succeed when what they want is already so.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Who answers, and on what machine.
    async fn version(&self) -> Result<Version>;

    /// Whether it answers at all.
    async fn ping(&self) -> Result<()>;

    /// What is known of a local image; `None` when it would have to be pulled.
    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageInfo>>;

    /// Fetches an image. Progress is told as long as `progress` has room: a slow listener loses
    /// steps and never delays the pull.
    async fn pull(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
        progress: Option<mpsc::Sender<PullProgress>>,
    ) -> Result<ImageInfo>;

    /// Removes a local image; [`Error::Conflict`] when a container uses it.
    async fn remove_image(&self, reference: &str) -> Result<()>;

    /// All local images.
    async fn list_images(&self) -> Result<Vec<ImageSummary>>;

    /// Imports an image archive in the form that `docker save` writes; says which names it brought.
    async fn load_image(&self, archive: Bytes) -> Result<Vec<String>>;

    /// Imports the pause image ([`PAUSE_IMAGE`]) unless it is there; gives its name.
    async fn ensure_pause_image(&self) -> Result<String> {
        if self.inspect_image(PAUSE_IMAGE).await?.is_none() {
            let architecture = self.version().await?.architecture;
            self.load_image(pause::archive(&architecture)?).await?;
        }
        Ok(PAUSE_IMAGE.to_owned())
    }

    /// Creates a container, not yet running. [`Error::Conflict`] when its name is taken,
    /// [`Error::ImageNotFound`] when its image is not here.
    async fn create_container(&self, config: &ContainerConfig) -> Result<ContainerId>;

    /// Starts it. [`Error::Start`] when the machine cannot run what the container asks for.
    async fn start(&self, id: &ContainerId) -> Result<()>;

    /// Asks it to end with `signal` (else the one of its configuration or image, else SIGTERM), and
    /// kills it when it still runs after `grace`. Returns when it has ended.
    async fn stop(&self, id: &ContainerId, grace: Duration, signal: Option<&str>) -> Result<()>;

    /// Sends a signal, like `SIGHUP`. [`Error::Conflict`] when it is not running.
    async fn kill(&self, id: &ContainerId, signal: &str) -> Result<()>;

    /// Removes it and its anonymous volumes; a running one only with `force`.
    async fn remove(&self, id: &ContainerId, force: bool) -> Result<()>;

    /// All about one container. Takes an id or a name.
    async fn inspect(&self, id: &ContainerId) -> Result<ContainerState>;

    /// The containers that match.
    async fn list(&self, filter: &ListFilter) -> Result<Vec<ContainerSummary>>;

    /// Waits until it has ended and gives its exit code; at once when it has already.
    async fn wait(&self, id: &ContainerId) -> Result<i32>;

    /// What happens to containers with all of these labels, from `since` or from now on. The stream
    /// ends or fails when the runtime goes away or the reader falls far behind; the reader then lists
    /// and subscribes again, with `since` the time of the last event seen.
    async fn events(&self, labels: &[(String, String)], since: Option<Timestamp>) -> Result<EventStream>;

    /// What a container wrote.
    async fn logs(&self, id: &ContainerId, options: &LogOptions) -> Result<LogStream>;

    /// Runs a command in a running container.
    async fn exec(&self, id: &ContainerId, config: &ExecConfig) -> Result<ExecSession>;

    /// Joins the streams of a container's first process.
    async fn attach(&self, id: &ContainerId, options: &AttachOptions) -> Result<ExecSession>;

    /// Runs a command to its end, for probes and hooks; both output streams together, cut at
    /// [`ExecOutput::LIMIT`]. After `timeout` the command is killed and [`Error::Timeout`] returned.
    async fn exec_sync(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput>;

    /// Gives a container other shares and limits, without starting it anew: processors and memory; what
    /// is `None` stays as it is. [`Error::Conflict`] when it is not running.
    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<()>;

    /// What a running container uses.
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats>;

    /// Bytes of disk that a container has written beside its mounts. The engine looks at every file for that.
    async fn written(&self, id: &ContainerId) -> Result<u64>;

    /// Makes a bridge network; [`Error::Conflict`] when the name or the subnet is taken.
    async fn create_network(&self, config: &NetworkConfig) -> Result<Network>;

    /// Removes a network by name or id; [`Error::Conflict`] while containers are in it.
    async fn remove_network(&self, name: &str) -> Result<()>;

    /// The networks that carry all of these labels.
    async fn list_networks(&self, labels: &[(String, String)]) -> Result<Vec<Network>>;
}

/// The name of the image every sandbox runs: made here, imported, never pulled.
pub const PAUSE_IMAGE: &str = "balsa/pause:1";
