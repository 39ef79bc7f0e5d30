//! What a simulated machine remembers, and the plain functions that change it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, ContainerSummary, Error, ListFilter,
    Network, NetworkConfig, NetworkMode, Result, StreamKind,
};
use crate::archive::hex;
use crate::{ContainerEvent, ContainerEventKind, LogLine, PAUSE_IMAGE};

/// Lines kept of a container: more would make load tests measure memory.
const LOG_LINES: usize = 1000;
/// Events kept for who asks for earlier ones, and events a subscriber may be behind.
const EVENTS: usize = 256;

pub(super) const SIGKILL: i32 = 9;
pub(super) const SIGTERM: i32 = 15;

pub(super) struct Machine {
    seed: String,
    made: u64,
    containers: BTreeMap<String, Container>,
    names: HashMap<String, String>,
    pub(super) images: BTreeSet<String>,
    pub(super) removed_images: BTreeSet<String>,
    pub(super) networks: BTreeMap<String, Network>,
    recent: VecDeque<ContainerEvent>,
    subscribers: Vec<Subscriber>,
}

pub(super) struct Container {
    pub(super) config: ContainerConfig,
    pub(super) state: ContainerState,
    pub(super) log: VecDeque<LogLine>,
    /// Lines that were dropped from the front of `log`.
    pub(super) forgotten: u64,
    /// Grows with each start: a timed step of an earlier life changes nothing.
    pub(super) life: u64,
    /// What SIGTERM does: nothing said, ignored, or exit with a code.
    pub(super) on_term: Option<Option<i32>>,
}

impl Container {
    pub(super) fn is_pause(&self) -> bool {
        self.config.image == PAUSE_IMAGE
    }
}

struct Subscriber {
    labels: Vec<(String, String)>,
    events: mpsc::Sender<ContainerEvent>,
}

impl Machine {
    pub(super) fn new(seed: String) -> Self {
        Self {
            seed,
            made: 0,
            containers: BTreeMap::new(),
            names: HashMap::new(),
            images: BTreeSet::new(),
            removed_images: BTreeSet::new(),
            networks: BTreeMap::new(),
            recent: VecDeque::new(),
            subscribers: Vec::new(),
        }
    }

    fn new_id(&mut self) -> String {
        self.made += 1;
        hex(&Sha256::digest(format!("{} {}", self.seed, self.made)))
    }

    /// By id or name.
    fn key(&self, id: &ContainerId) -> Result<String> {
        let key = self.names.get(id.as_str()).map_or(id.as_str(), String::as_str);
        if self.containers.contains_key(key) {
            Ok(key.to_owned())
        } else {
            Err(Error::NotFound { message: format!("No such container: {id}") })
        }
    }

    pub(super) fn get(&self, id: &ContainerId) -> Result<&Container> {
        let key = self.key(id)?;
        self.containers
            .get(&key)
            .ok_or_else(|| Error::NotFound { message: format!("No such container: {id}") })
    }

    pub(super) fn get_mut(&mut self, id: &ContainerId) -> Result<&mut Container> {
        let key = self.key(id)?;
        self.containers
            .get_mut(&key)
            .ok_or_else(|| Error::NotFound { message: format!("No such container: {id}") })
    }

    pub(super) fn running(&mut self, id: &ContainerId) -> Result<&mut Container> {
        let container = self.get_mut(id)?;
        if container.state.status.is_alive() {
            Ok(container)
        } else {
            Err(Error::Conflict { message: format!("Container {id} is not running") })
        }
    }

    pub(super) fn add_image(&mut self, name: String) {
        self.removed_images.remove(&name);
        self.images.insert(name);
    }

    pub(super) fn image_by_id(&self, id: &str) -> Option<&str> {
        if !id.starts_with("sha256:") {
            return None;
        }
        self.images.iter().find(|name| image_id(name) == id).map(String::as_str)
    }

    pub(super) fn remove_image(&mut self, name: &str) -> Result<()> {
        let id = image_id(name);
        if let Some(user) = self.containers.values().find(|container| container.state.image_id == id) {
            let message = format!("image {name} is used by container {}", user.state.name);
            return Err(Error::Conflict { message });
        }
        self.images.remove(name);
        self.removed_images.insert(name.to_owned());
        Ok(())
    }

    pub(super) fn create(&mut self, config: &ContainerConfig, now: Timestamp) -> Result<ContainerId> {
        if self.names.contains_key(&config.name) {
            let message = format!("The container name \"/{}\" is already in use", config.name);
            return Err(Error::Conflict { message });
        }
        if let NetworkMode::Container(other) = &config.network {
            self.key(other)?;
        }
        let ip = self.address(&config.network)?;
        let id = self.new_id();
        let image_name = self
            .image_by_id(&config.image)
            .map_or_else(|| crate::with_default_tag(&config.image), str::to_owned);
        let state = ContainerState {
            id: ContainerId::new(id.clone()),
            name: config.name.clone(),
            status: ContainerStatus::Created,
            pid: None,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            created_at: Some(now),
            started_at: None,
            finished_at: None,
            labels: config.labels.clone(),
            image: config.image.clone(),
            image_id: image_id(&image_name),
            ip,
            tty: config.tty,
            log_path: None,
        };
        self.names.insert(config.name.clone(), id.clone());
        let container = Container {
            config: config.clone(),
            state,
            log: VecDeque::new(),
            forgotten: 0,
            life: 0,
            on_term: None,
        };
        self.containers.insert(id.clone(), container);
        let id = ContainerId::new(id);
        self.announce(&id, ContainerEventKind::Created, now);
        Ok(id)
    }

    fn address(&self, mode: &NetworkMode) -> Result<Option<IpAddr>> {
        let NetworkMode::Bridge { network, address } = mode else { return Ok(None) };
        if !self.networks.contains_key(network) {
            return Err(Error::NotFound { message: format!("network {network} not found") });
        }
        Ok(address.map(IpAddr::V4))
    }

    /// Its life number, or `None` when it runs already.
    pub(super) fn start(&mut self, id: &ContainerId, now: Timestamp) -> Result<Option<u64>> {
        let container = self.get_mut(id)?;
        if container.state.status.is_alive() {
            return Ok(None);
        }
        container.life += 1;
        container.on_term = None;
        let life = container.life;
        let state = &mut container.state;
        state.status = ContainerStatus::Running;
        state.started_at = Some(now);
        state.finished_at = None;
        state.exit_code = 0;
        state.oom_killed = false;
        state.error.clear();
        self.announce(id, ContainerEventKind::Started, now);
        Ok(Some(life))
    }

    /// A start that the machine refuses leaves its trace, as a real one does.
    pub(super) fn refuse_start(&mut self, id: &ContainerId, message: &str) -> Result<()> {
        let state = &mut self.get_mut(id)?.state;
        state.error = message.to_owned();
        state.exit_code = 127;
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        id: &ContainerId,
        exit_code: i32,
        oom_killed: bool,
        now: Timestamp,
    ) -> Result<()> {
        let state = &mut self.running(id)?.state;
        state.status = ContainerStatus::Exited;
        state.exit_code = exit_code;
        state.oom_killed = oom_killed;
        state.finished_at = Some(now);
        if oom_killed {
            self.announce(id, ContainerEventKind::Oom, now);
        }
        self.announce(id, ContainerEventKind::Died { exit_code }, now);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &ContainerId, force: bool, now: Timestamp) -> Result<()> {
        let Ok(key) = self.key(id) else { return Ok(()) };
        let alive = self.get(id)?.state.status.is_alive();
        if alive && !force {
            let message = format!("You cannot remove a running container {id}: stop it first");
            return Err(Error::Conflict { message });
        }
        if alive {
            self.finish(id, 128 + SIGKILL, false, now)?;
        }
        self.announce(id, ContainerEventKind::Destroyed, now);
        if let Some(gone) = self.containers.remove(&key) {
            self.names.remove(&gone.config.name);
        }
        Ok(())
    }

    pub(super) fn list(&self, filter: &ListFilter) -> Vec<ContainerSummary> {
        self.containers
            .values()
            .map(|container| &container.state)
            .filter(|state| filter.all || state.status.is_alive())
            .filter(|state| has_labels(&state.labels, &filter.labels))
            .map(|state| ContainerSummary {
                id: state.id.clone(),
                name: state.name.clone(),
                status: state.status,
                labels: state.labels.clone(),
                image: state.image.clone(),
                image_id: state.image_id.clone(),
                created_at: state.created_at,
            })
            .collect()
    }

    pub(super) fn write(
        &mut self,
        id: &ContainerId,
        stream: StreamKind,
        bytes: Bytes,
        time: Timestamp,
    ) -> Result<()> {
        let container = self.get_mut(id)?;
        // A terminal has one stream.
        let stream = if container.config.tty { StreamKind::Stdout } else { stream };
        container.log.push_back(LogLine { stream, time, bytes, partial: false });
        if container.log.len() > LOG_LINES {
            container.log.pop_front();
            container.forgotten += 1;
        }
        Ok(())
    }

    /// Those who fall too far behind are cut off, and list again.
    fn announce(&mut self, id: &ContainerId, kind: ContainerEventKind, time: Timestamp) {
        let Ok(container) = self.get(id) else { return };
        let labels = container.config.labels.clone();
        let event = ContainerEvent { id: container.state.id.clone(), kind, labels, time };
        self.subscribers.retain(|subscriber| {
            !has_labels(&event.labels, &subscriber.labels)
                || subscriber.events.try_send(event.clone()).is_ok()
        });
        self.recent.push_back(event);
        if self.recent.len() > EVENTS {
            self.recent.pop_front();
        }
    }

    pub(super) fn subscribe(
        &mut self,
        labels: &[(String, String)],
        since: Option<Timestamp>,
    ) -> tokio_stream::wrappers::ReceiverStream<ContainerEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS * 2);
        if let Some(since) = since {
            let earlier = self.recent.iter().filter(|event| event.time >= since);
            for event in earlier.filter(|event| has_labels(&event.labels, labels)) {
                // There is room for all of them and as many again.
                let _ = sender.try_send(event.clone());
            }
        }
        self.subscribers.push(Subscriber { labels: labels.to_vec(), events: sender });
        tokio_stream::wrappers::ReceiverStream::new(receiver)
    }

    pub(super) fn create_network(&mut self, config: &NetworkConfig) -> Result<Network> {
        let taken = |network: &Network| network.name == config.name || network.subnet == config.subnet;
        if self.networks.values().any(taken) {
            return Err(Error::Conflict { message: format!("network {} already exists", config.name) });
        }
        let network = Network {
            id: self.new_id(),
            name: config.name.clone(),
            driver: "bridge".to_owned(),
            bridge: config.bridge.clone(),
            subnet: config.subnet.clone(),
            gateway: config.gateway,
            labels: config.labels.clone(),
        };
        self.networks.insert(config.name.clone(), network.clone());
        Ok(network)
    }

    pub(super) fn remove_network(&mut self, name: &str) -> Result<()> {
        let found = self.networks.values().find(|network| network.name == name || network.id == name);
        let Some(name) = found.map(|network| network.name.clone()) else { return Ok(()) };
        let uses = |container: &Container| {
            container.state.status.is_alive()
                && matches!(&container.config.network, NetworkMode::Bridge { network, .. } if *network == name)
        };
        if self.containers.values().any(uses) {
            return Err(Error::Conflict { message: format!("network {name} has active endpoints") });
        }
        self.networks.remove(&name);
        Ok(())
    }
}

/// Whether all of `wanted` are among `labels`.
pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The id of an image is drawn from its name.
pub(super) fn image_id(name: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(name)))
}

/// `SIGTERM`, `TERM` or `15`.
pub(super) fn signal_number(signal: &str) -> Option<i32> {
    use std::str::FromStr as _;
    if let Ok(number) = signal.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = if signal.starts_with("SIG") { signal.to_owned() } else { format!("SIG{signal}") };
    nix::sys::signal::Signal::from_str(&name).ok().map(|signal| signal as i32)
}
