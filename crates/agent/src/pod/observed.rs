//! What the runtime has of a pod, and what the actor remembers beside it.
//!
//! [`Observed`] is rebuilt from containers and their labels at every look. [`Memory`] is disposable:
//! without it a pod goes on, only a back-off or a probe result is found out anew.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use balsa_rt::Backoff;
use balsa_runtime::{ContainerState, ContainerStatus, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::backoff::{PullBackoff, RestartBackoff};

/// A container of ours, as the runtime shows it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// All about it.
    pub state: ContainerState,
    /// Which try it is.
    pub attempt: u32,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// The hash of what it was made from.
    pub spec_hash: String,
    /// What it left in its termination message file.
    pub message: String,
}

impl Found {
    /// Reads what the labels say; `None` when they are not ours.
    pub(crate) fn new(state: ContainerState, message: String) -> Option<Self> {
        let attempt = state.labels.get(labels::ATTEMPT)?.parse().ok()?;
        let text = |label: &str| state.labels.get(label).cloned().unwrap_or_default();
        let (sandbox, spec_hash) = (text(labels::SANDBOX), text(labels::SPEC_HASH));
        Some(Self { state, attempt, sandbox, spec_hash, message })
    }

    /// Its process lives.
    pub(crate) fn is_running(&self) -> bool {
        self.state.status.is_alive()
    }

    /// It ended, or it could not be started.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state.status, ContainerStatus::Exited | ContainerStatus::Dead) || self.failed_to_start()
    }

    /// It was made and never ran because the machine could not run it.
    pub(crate) fn failed_to_start(&self) -> bool {
        self.state.status == ContainerStatus::Created && !self.state.error.is_empty()
    }

    /// It was made and nobody has started it: what a crash in between leaves.
    pub(crate) fn is_unstarted(&self) -> bool {
        self.state.status == ContainerStatus::Created && self.state.error.is_empty()
    }

    /// It ended well.
    pub(crate) fn succeeded(&self) -> bool {
        self.has_ended() && !self.failed_to_start() && self.state.exit_code == 0
    }

    /// What tells its image from others; containers of earlier releases know only the engine's id.
    pub(crate) fn image_id(&self) -> &str {
        self.state.labels.get(labels::IMAGE_ID).unwrap_or(&self.state.image_id)
    }

    /// When it ended, as well as it is known.
    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        self.state.finished_at.or(self.state.created_at)
    }
}

/// What the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Sandboxes, the newest first.
    pub sandboxes: Vec<Found>,
    /// Containers by name, the newest first.
    pub containers: BTreeMap<String, Vec<Found>>,
}

impl Observed {
    /// Sorts what was found into sandboxes and containers.
    pub(crate) fn new(found: impl IntoIterator<Item = Found>) -> Self {
        let mut observed = Self::default();
        for found in found {
            let label = |name: &str| found.state.labels.get(name).cloned().unwrap_or_default();
            if label(labels::KIND) == labels::KIND_SANDBOX {
                observed.sandboxes.push(found);
            } else {
                observed.containers.entry(label(labels::CONTAINER_NAME)).or_default().push(found);
            }
        }
        observed.sandboxes.sort_by_key(|found| std::cmp::Reverse(found.attempt));
        for list in observed.containers.values_mut() {
            list.sort_by_key(|found| std::cmp::Reverse(found.attempt));
        }
        observed
    }

    /// The sandbox that lives.
    pub(crate) fn sandbox(&self) -> Option<&Found> {
        self.sandboxes.first().filter(|sandbox| sandbox.is_running())
    }

    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Found> {
        self.containers.get(name).and_then(|list| list.first())
    }

    /// The newest container of that name, if it belongs to the living sandbox.
    pub(crate) fn current(&self, name: &str) -> Option<&Found> {
        let sandbox = self.sandbox()?.state.id.as_str();
        self.latest(name).filter(|found| found.sandbox == sandbox)
    }

    /// Every container, sandboxes not counted.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.containers.iter().flat_map(|(name, list)| list.iter().map(move |found| (name.as_str(), found)))
    }
}

/// Why a container does not run yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// `ImagePullBackOff`.
    pub reason: String,
    /// In words.
    pub message: String,
}

impl Waiting {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// Results of a container's probes; `None`: not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// The startup probe.
    pub started: Option<bool>,
    /// The readiness probe.
    pub ready: Option<bool>,
    /// The liveness probe.
    pub alive: Option<bool>,
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerMemory {
    /// The container that the probe results are about.
    pub id: String,
    /// Results of its probes.
    pub health: Health,
    /// Restarts.
    pub restart: RestartBackoff,
    /// Image pulls.
    pub pull: PullBackoff,
    /// The image that the tries to make it are about.
    pub image: String,
    /// Why the last try to make it failed.
    pub waiting: Option<Waiting>,
    /// Not to be tried again before.
    pub retry_at: Option<Timestamp>,
    /// Of its starts that fail.
    pub retries: Option<Backoff>,
    /// The container whose end was told to be waited for.
    pub told_back_off: String,
}

/// What is remembered of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Each container.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// What containers were last resized to, by their ids.
    pub resized: BTreeMap<String, String>,
    /// Why containers could not be resized, by their names.
    pub not_resized: BTreeMap<String, String>,
    /// Containers that are ended to be started with another size, by their ids.
    pub restarted: BTreeSet<String>,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// Why the node puts the pod out, or does not take it in, if so.
    pub put_out: Option<PutOut>,
    /// That the pod took too long has been told.
    pub told_late: bool,
    /// Of steps that fail: volumes, the sandbox, containers that cannot be made.
    pub retries: Option<Backoff>,
}

impl ContainerMemory {
    /// What went wrong with another image says nothing about this one.
    pub(crate) fn wants(&mut self, image: &str) {
        if self.image != image {
            image.clone_into(&mut self.image);
            (self.pull, self.waiting) = (PullBackoff::default(), None);
            (self.retry_at, self.retries) = (None, None);
        }
    }
}

/// Why a node does not want a pod: its status will tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutOut {
    pub reason: Cow<'static, str>,
    /// As the event about it says it.
    pub why: String,
    /// It has never begun here.
    refused: bool,
}

impl PutOut {
    /// It has been here, and takes too much.
    pub(crate) fn evicted(message: &str) -> Self {
        Self { reason: "Evicted".into(), why: message.to_owned(), refused: false }
    }

    /// It does not begin here.
    pub(crate) fn refused(reason: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self { reason: reason.into(), why: why.into(), refused: true }
    }

    /// It has never begun here, and never will.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// As the pod's status says it.
    pub(crate) fn message(&self) -> Cow<'_, str> {
        if self.refused { format!("Pod was rejected: {}", self.why).into() } else { self.why.as_str().into() }
    }
}

impl Memory {
    /// The memory of one container.
    pub(crate) fn of(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Starts the probe results of another container of that name from nothing.
    pub(crate) fn begin(&mut self, name: &str, id: &str) {
        let memory = self.of(name);
        if memory.id != id {
            id.clone_into(&mut memory.id);
            memory.health = Health::default();
        }
    }

    /// The probe results of that container.
    pub(crate) fn health(&self, name: &str, id: &str) -> Health {
        self.containers
            .get(name)
            .filter(|memory| memory.id == id)
            .map(|memory| memory.health)
            .unwrap_or_default()
    }
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the others.
    Init,
    /// Starts before the others and stays (an init container with `restartPolicy: Always`).
    Sidecar,
    /// The pod's work.
    App,
    /// Somebody looks at the pod with it.
    Ephemeral,
}

/// Init containers and sidecars, in their order.
pub(crate) fn init_containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let list = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    list.iter().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, container)
    })
}

/// The containers that do the pod's work.
pub(crate) fn app_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
}

/// Every container.
pub(crate) fn members(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    init_containers(pod).chain(app_containers(pod).iter().map(|container| (Role::App, container)))
}

/// The container of that name.
pub(crate) fn member<'a>(pod: &'a Pod, name: &str) -> Option<(Role, &'a Container)> {
    members(pod).find(|(_, container)| container.name == name)
}

/// `spec.restartPolicy`.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// What a container is made anew for: another image. Everything else of a running pod cannot change,
/// and a hash of more would restart everything when a release adds a default.
pub(crate) fn spec_hash(container: &Container) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in
        container.name.bytes().chain([0]).chain(container.image.as_deref().unwrap_or_default().bytes())
    {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
