//! Containers that are only remembered: a machine for load tests and for tests of what drives
//! machines.
//!
//! Nothing is run and nothing is measured; containers live, write and die as [`program`] and the
//! [`Builder`] say. Ids are drawn from the seed and a counter, so two runs are alike. A container
//! costs some hundreds of bytes, and a task only while it has something timed left to do. It says
//! `simulated` wherever it is asked what it is, and gives no process numbers: nobody may mistake
//! somebody else's process for a container.

mod machine;
mod program;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_rt::Clock;
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::archive::archive_tags;
use crate::{
    AttachOptions, ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus,
    ContainerSummary, Error, EventStream, ExecConfig, ExecOutput, ExecSession, ImageInfo, ImageSummary,
    ListFilter, LogOptions, LogStream, Network, NetworkConfig, NetworkMode, PullProgress, PullReason,
    RegistryAuth, Resources, Result, Runtime, StreamKind, Version, with_default_tag,
};
use machine::{Machine, SIGKILL, SIGTERM, image_id};

/// A machine in memory. Clones are the same machine.
#[derive(Clone)]
pub struct SimulatedRuntime(Arc<Shared>);

struct Shared {
    clock: Clock,
    behaviour: Behaviour,
    machine: std::sync::Mutex<Machine>,
    /// Counts what happened, for those who wait for something to happen.
    changes: watch::Sender<u64>,
}

#[derive(Clone, Default)]
struct Behaviour {
    seed: String,
    pull_delay: Duration,
    start_delay: Duration,
    images_must_be_pulled: bool,
    failing_pulls: BTreeMap<String, (PullReason, String)>,
    failing_starts: BTreeMap<String, String>,
    exits: BTreeMap<String, (Duration, i32)>,
    written: BTreeMap<String, u64>,
}

/// Says how the machine behaves. Images are named as containers name them.
#[derive(Clone, Default)]
pub struct Builder {
    clock: Clock,
    behaviour: Behaviour,
}

impl Builder {
    /// Where its ids come from; two machines with different seeds have different ids.
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.behaviour.seed = seed.into();
        self
    }

    /// Tells it the time.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Each pull takes so long.
    pub fn pull_delay(mut self, delay: Duration) -> Self {
        self.behaviour.pull_delay = delay;
        self
    }

    /// Each start takes so long.
    pub fn start_delay(mut self, delay: Duration) -> Self {
        self.behaviour.start_delay = delay;
        self
    }

    /// No image is there before it was pulled or loaded; otherwise all are.
    pub fn images_must_be_pulled(mut self) -> Self {
        self.behaviour.images_must_be_pulled = true;
        self
    }

    /// This image is not there and cannot be pulled.
    pub fn failing_pull(mut self, image: &str, reason: PullReason, message: &str) -> Self {
        self.behaviour.failing_pulls.insert(with_default_tag(image), (reason, message.to_owned()));
        self
    }

    /// Containers of this image cannot be started.
    pub fn failing_start(mut self, image: &str, message: &str) -> Self {
        self.behaviour.failing_starts.insert(with_default_tag(image), message.to_owned());
        self
    }

    /// Containers of this image end by themselves after `delay`, whatever their command.
    pub fn exit_after(mut self, image: &str, delay: Duration, exit_code: i32) -> Self {
        self.behaviour.exits.insert(with_default_tag(image), (delay, exit_code));
        self
    }

    /// Containers of this image have written so many bytes.
    pub fn writing(mut self, image: &str, bytes: u64) -> Self {
        self.behaviour.written.insert(with_default_tag(image), bytes);
        self
    }

    /// The machine, empty.
    pub fn build(self) -> SimulatedRuntime {
        SimulatedRuntime(Arc::new(Shared {
            machine: std::sync::Mutex::new(Machine::new(self.behaviour.seed.clone())),
            clock: self.clock,
            behaviour: self.behaviour,
            changes: watch::Sender::new(0),
        }))
    }
}

impl SimulatedRuntime {
    /// A machine where everything goes well.
    pub fn new() -> Self {
        Builder::default().build()
    }

    /// A machine of which more is to be said.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The container writes a line, as if its program did.
    pub fn write_log(&self, id: &ContainerId, stream: StreamKind, line: impl Into<Bytes>) -> Result<()> {
        let now = self.0.clock.now();
        self.change(|machine| machine.write(id, stream, line.into(), now))
    }

    /// The container's program ends, as if by itself.
    pub fn finish(&self, id: &ContainerId, exit_code: i32) -> Result<()> {
        let now = self.0.clock.now();
        self.change(|machine| machine.finish(id, exit_code, false, now))
    }

    /// The kernel takes the container's program for its memory.
    pub fn out_of_memory(&self, id: &ContainerId) -> Result<()> {
        let now = self.0.clock.now();
        self.change(|machine| machine.finish(id, 128 + SIGKILL, true, now))
    }

    fn read<T>(&self, ask: impl FnOnce(&Machine) -> T) -> T {
        ask(&self.0.machine.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn change<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let result = act(&mut self.0.machine.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.0.changes.send_modify(|count| *count += 1);
        result
    }

    /// Asks after each change until there is an answer.
    async fn until<T>(&self, mut ask: impl FnMut(&Machine) -> Option<T>) -> T {
        let mut changes = self.0.changes.subscribe();
        loop {
            if let Some(answer) = self.read(&mut ask) {
                return answer;
            }
            if changes.changed().await.is_err() {
                // The sender is in `self`: it cannot go first.
                std::future::pending::<()>().await;
            }
        }
    }

    fn has_image(&self, reference: &str) -> bool {
        let name = with_default_tag(reference);
        if self.0.behaviour.failing_pulls.contains_key(&name) {
            return false;
        }
        self.read(|machine| machine.images.contains(&name) || machine.image_by_id(reference).is_some())
            || (!self.0.behaviour.images_must_be_pulled
                && !self.read(|machine| machine.removed_images.contains(&name)))
    }
}

impl Default for SimulatedRuntime {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn version(&self) -> Result<Version> {
        Ok(Version {
            engine: "simulated".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: "1.41".to_owned(),
            os: "linux".to_owned(),
            architecture: crate::archive::go_architecture(std::env::consts::ARCH).to_owned(),
            kernel: "simulated".to_owned(),
            os_image: "simulated".to_owned(),
            simulated: true,
            recursive_read_only: false,
            runtimes: ["runc".to_owned()].into(),
        })
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageInfo>> {
        if !self.has_image(reference) {
            return Ok(None);
        }
        let name = self
            .read(|machine| machine.image_by_id(reference).map(str::to_owned))
            .unwrap_or_else(|| with_default_tag(reference));
        Ok(Some(ImageInfo {
            id: image_id(&name),
            repo_tags: vec![name],
            size: 1 << 20,
            architecture: self.version().await?.architecture,
            ..ImageInfo::default()
        }))
    }

    async fn pull(
        &self,
        reference: &str,
        _auth: Option<RegistryAuth>,
        progress: Option<mpsc::Sender<PullProgress>>,
    ) -> Result<ImageInfo> {
        let name = with_default_tag(reference);
        if let Some(progress) = progress {
            let layer = "simulated".to_owned();
            for (status, current, total) in [("Pulling fs layer", 0, 0), ("Downloading", 1 << 19, 1 << 20)] {
                let status = status.to_owned();
                // Whoever does not listen misses it.
                let _ = progress.try_send(PullProgress { layer: layer.clone(), status, current, total });
            }
        }
        tokio::time::sleep(self.0.behaviour.pull_delay).await;
        if let Some((reason, message)) = self.0.behaviour.failing_pulls.get(&name) {
            let message = message.clone();
            return Err(Error::ImagePull { image: reference.to_owned(), reason: *reason, message });
        }
        self.change(|machine| machine.add_image(name.clone()));
        let found = self.inspect_image(&name).await?;
        found.ok_or(Error::ImageNotFound { image: name })
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let name = with_default_tag(reference);
        self.change(|machine| machine.remove_image(&name))
    }

    async fn list_images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.read(|machine| {
            machine
                .images
                .iter()
                .map(|name| ImageSummary {
                    id: image_id(name),
                    repo_tags: vec![name.clone()],
                    repo_digests: Vec::new(),
                    size: 1 << 20,
                })
                .collect()
        }))
    }

    async fn load_image(&self, archive: Bytes) -> Result<Vec<String>> {
        let names = archive_tags(&archive)?;
        self.change(|machine| names.iter().for_each(|name| machine.add_image(name.clone())));
        Ok(names)
    }

    async fn create_container(&self, config: &ContainerConfig) -> Result<ContainerId> {
        if config.name.is_empty() || config.image.is_empty() {
            return Err(Error::Invalid { message: "a container needs a name and an image".to_owned() });
        }
        if !self.has_image(&config.image) {
            return Err(Error::ImageNotFound { image: config.image.clone() });
        }
        let now = self.0.clock.now();
        self.change(|machine| {
            let name = machine
                .image_by_id(&config.image)
                .map_or_else(|| with_default_tag(&config.image), str::to_owned);
            machine.add_image(name);
            machine.create(config, now)
        })
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        tokio::time::sleep(self.0.behaviour.start_delay).await;
        self.start_program(id)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration, signal: Option<&str>) -> Result<()> {
        let own = self.read(|machine| machine.get(id).map(|found| found.config.stop_signal.clone()))?;
        let signal = signal.map(str::to_owned).or(own).unwrap_or_else(|| "SIGTERM".to_owned());
        if let Err(error) = self.kill(id, &signal).await {
            return if error.is_conflict() { Ok(()) } else { Err(error) };
        }
        if tokio::time::timeout(grace, self.wait(id)).await.is_err() {
            match self.kill(id, "SIGKILL").await {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn kill(&self, id: &ContainerId, signal: &str) -> Result<()> {
        let number = machine::signal_number(signal)
            .ok_or_else(|| Error::Invalid { message: format!("invalid signal: {signal}") })?;
        let now = self.0.clock.now();
        self.change(|machine| {
            let container = machine.running(id)?;
            let exit_code = match (number, container.on_term) {
                (SIGKILL, _) => 128 + SIGKILL,
                (SIGTERM, Some(Some(exit_code))) => exit_code,
                (SIGTERM, Some(None)) => return Ok(()),
                (SIGTERM, None) if container.is_pause() => 0,
                (2 | 3 | SIGTERM, None) => 128 + number,
                _ => return Ok(()),
            };
            machine.finish(id, exit_code, false, now)
        })
    }

    async fn remove(&self, id: &ContainerId, force: bool) -> Result<()> {
        let now = self.0.clock.now();
        self.change(|machine| machine.remove(id, force, now))
    }

    async fn inspect(&self, id: &ContainerId) -> Result<ContainerState> {
        self.read(|machine| machine.get(id).map(|found| found.state.clone()))
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ContainerSummary>> {
        Ok(self.read(|machine| machine.list(filter)))
    }

    async fn wait(&self, id: &ContainerId) -> Result<i32> {
        self.until(|machine| match machine.get(id) {
            Ok(found) if found.state.status.is_alive() => None,
            Ok(found) => Some(Ok(found.state.exit_code)),
            Err(error) => Some(Err(error)),
        })
        .await
    }

    async fn events(&self, labels: &[(String, String)], since: Option<Timestamp>) -> Result<EventStream> {
        Ok(self.change(|machine| machine.subscribe(labels, since)).map(Ok).boxed())
    }

    async fn logs(&self, id: &ContainerId, options: &LogOptions) -> Result<LogStream> {
        self.log_stream(id, options)
    }

    async fn exec(&self, id: &ContainerId, config: &ExecConfig) -> Result<ExecSession> {
        self.start_exec(id, config)
    }

    async fn attach(&self, id: &ContainerId, options: &AttachOptions) -> Result<ExecSession> {
        self.join_streams(id, options)
    }

    async fn exec_sync(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let config =
            ExecConfig { command: command.to_vec(), stdout: true, stderr: true, ..ExecConfig::default() };
        let session = self.start_exec(id, &config)?;
        tokio::time::timeout(timeout, ExecOutput::collect(session)).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                what: format!("command {:?} in container {id}", command.join(" ")),
                seconds: timeout.as_secs(),
            })
        })
    }

    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<()> {
        self.change(|machine| {
            let found = machine.running(id)?;
            let kept = &mut found.config.resources;
            kept.cpu_shares = resources.cpu_shares.or(kept.cpu_shares);
            kept.cpu_period = resources.cpu_period.or(kept.cpu_period);
            kept.cpu_quota = resources.cpu_quota.or(kept.cpu_quota);
            kept.memory = resources.memory.or(kept.memory);
            Ok(())
        })
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let now = self.0.clock.now();
        let started_at = self.change(|machine| machine.running(id).map(|found| found.state.started_at))?;
        let alive = started_at.map_or(0, |since| (now.as_nanosecond() - since.as_nanosecond()).max(0));
        Ok(ContainerStats {
            time: Some(now),
            // A thousandth of a processor and a mebibyte: idle.
            cpu_nanos: u64::try_from(alive / 1000).unwrap_or_default(),
            memory_usage: 1 << 20,
            memory_working_set: 1 << 20,
            memory_rss: 1 << 20,
            pids: 1,
            ..ContainerStats::default()
        })
    }

    async fn written(&self, id: &ContainerId) -> Result<u64> {
        let image = self.read(|machine| machine.get(id).map(|found| found.config.image.clone()))?;
        Ok(self.0.behaviour.written.get(&with_default_tag(&image)).copied().unwrap_or_default())
    }

    async fn create_network(&self, config: &NetworkConfig) -> Result<Network> {
        self.change(|machine| machine.create_network(config))
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        self.change(|machine| machine.remove_network(name))
    }

    async fn list_networks(&self, labels: &[(String, String)]) -> Result<Vec<Network>> {
        Ok(self.read(|machine| {
            let mut found: Vec<Network> = machine.networks.values().cloned().collect();
            found.retain(|network| machine::has_labels(&network.labels, labels));
            found
        }))
    }
}
