//! One pod on this node: a task that owns what is done about it.
//!
//! `next` waits, `handle` decides. One piece of work is under way at a time; what arrives meanwhile is
//! looked at after it, except the end of the pod, which takes the place of whatever is under way.
//!
//! ```text
//!   Running ──(deleted | no longer wanted)──▶ Ending ──(all taken away)──▶ Gone
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use balsa_rt::TaskKind;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::context::NodeContext;
use crate::metrics;
use crate::pod::conditions::OWN_CONDITIONS;
use crate::pod::observed::{Observed, PutOut, Role, members};
use crate::pod::resize::Pending;
use crate::pod::status::running_containers;
use crate::pod::sync::{Outcome, PodWork, SharedMemory, lock};
use crate::probe::{self, ProbeKind, Report, Target};

/// What is wanted of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// As the server (or the cache) has it, but with the sizes that the node has given it.
    pub pod: Arc<Pod>,
    /// The sizes that it wants, if the node has not given it those.
    pub pending: Option<Pending>,
    /// The server has it no more: end it and report nothing.
    pub orphaned: bool,
}

impl Desired {
    fn ends(&self) -> bool {
        self.orphaned || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// The way to a pod's actor.
pub(crate) struct PodHandle {
    desired: watch::Sender<Desired>,
    poke: Arc<Notify>,
    memory: SharedMemory,
    /// What runs, for metrics and streams.
    pub running: watch::Receiver<Running>,
}

/// What runs of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    /// It has a sandbox.
    pub sandbox: bool,
    /// So many containers run.
    pub containers: usize,
    /// Ids of the newest containers, by name.
    pub ids: HashMap<String, balsa_runtime::ContainerId>,
    /// The process of the sandbox, whose network the pod has.
    pub sandbox_pid: Option<u32>,
}

impl PodHandle {
    /// The pod has changed.
    pub(crate) fn update(&self, desired: Desired) {
        self.desired.send_replace(desired);
    }

    /// Something happened to its containers or volumes.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// The node puts the pod out. False when it does so already.
    pub(crate) fn put_out(&self, why: PutOut) -> bool {
        let first = lock(&self.memory).put_out.replace(why).is_none();
        self.poke.notify_one();
        first
    }

    /// What is wanted of it now.
    pub(crate) fn desired(&self) -> Desired {
        self.desired.borrow().clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Ending,
}

/// What an actor acts on of a pod's object: not what its own status reports bring back.
#[derive(Clone, Debug, PartialEq)]
struct Essence {
    spec: Option<PodSpec>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    deletion: (Option<Time>, Option<i64>),
    /// Conditions that others write, for readiness gates.
    foreign: Vec<(String, String)>,
    phase: Option<String>,
    /// Why sizes are not given.
    pending: Option<(&'static str, String)>,
    orphaned: bool,
}

impl Essence {
    fn of(desired: &Desired) -> Self {
        let (meta, status) = (&desired.pod.metadata, desired.pod.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let foreign =
            conditions.iter().filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str()));
        let terminal = |phase: &String| matches!(phase.as_str(), "Succeeded" | "Failed");
        Self {
            spec: desired.pod.spec.clone(),
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            deletion: (meta.deletion_timestamp.clone(), meta.deletion_grace_period_seconds),
            foreign: foreign.map(|condition| (condition.type_.clone(), condition.status.clone())).collect(),
            phase: status.and_then(|status| status.phase.clone()).filter(terminal),
            pending: desired.pending.as_ref().map(|pending| (pending.reason, pending.message.clone())),
            orphaned: desired.orphaned,
        }
    }
}

enum Event {
    Desired,
    Poke,
    Probe(Report),
    Done(Outcome),
    Timer,
    Closed,
}

/// A probe that is being asked; dropping it ends it.
struct Prober {
    id: balsa_runtime::ContainerId,
    task: tokio::task::AbortHandle,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct PodActor {
    node: Arc<NodeContext>,
    desired: watch::Receiver<Desired>,
    seen: Essence,
    poke: Arc<Notify>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    running: watch::Sender<Running>,
    memory: SharedMemory,
    phase: Phase,
    work: Option<BoxFuture<'static, Outcome>>,
    /// Something happened while work was under way.
    again: bool,
    wake: Option<Instant>,
    probers: HashMap<(String, ProbeKind), Prober>,
    /// When the pod came, until its containers run.
    arrived: Option<Instant>,
}

/// Starts the actor of a pod; one that is refused runs nothing, and its status says why. `gone` is told its uid when nothing of the pod is left.
pub(crate) fn spawn(
    node: Arc<NodeContext>,
    desired: Desired,
    refused: Option<PutOut>,
    token: balsa_rt::CancellationToken,
    gone: mpsc::UnboundedSender<String>,
) -> PodHandle {
    let uid = desired.pod.metadata.uid.clone().unwrap_or_default();
    let seen = Essence::of(&desired);
    let (sender, receiver) = watch::channel(desired);
    let (running, shown) = watch::channel(Running::default());
    let (poke, memory) = (Arc::new(Notify::new()), SharedMemory::default());
    lock(&memory).put_out = refused;
    let mut actor = PodActor {
        node,
        desired: receiver,
        seen,
        poke: poke.clone(),
        // A few probes a container, each waiting for its report to be taken before it asks again.
        reports: mpsc::channel(16),
        running,
        memory: memory.clone(),
        phase: Phase::Running,
        work: None,
        again: false,
        wake: None,
        probers: HashMap::new(),
        arrived: Some(Instant::now()),
    };
    actor.recall();
    balsa_rt::spawn(TaskKind::PodActor, async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = actor.run() => {
                let _ = gone.send(uid);
            }
        }
    });
    PodHandle { desired: sender, poke, memory, running: shown }
}

impl PodActor {
    async fn run(&mut self) {
        self.begin();
        loop {
            let event = self.next().await;
            if self.handle(event).is_break() {
                return;
            }
        }
    }

    /// What the last status says of readiness holds until a probe says otherwise, so that an agent's
    /// restart takes no pod out of its services.
    fn recall(&mut self) {
        let pod = self.desired.borrow().pod.clone();
        let Some(status) = &pod.status else { return };
        let mut memory = lock(&self.memory);
        let lists = [&status.container_statuses, &status.init_container_statuses];
        for known in lists.into_iter().flatten().flatten() {
            let id = known.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
            if let Some(id) = id {
                memory.begin(&known.name, id);
                let health = &mut memory.of(&known.name).health;
                health.ready = known.ready.then_some(true);
                health.started = known.started.filter(|started| *started);
            }
        }
        // A pod that is adopted did not start now.
        if status.container_statuses.iter().flatten().any(|known| known.container_id.is_some()) {
            self.arrived = None;
        }
    }

    async fn next(&mut self) -> Event {
        let timer = async {
            match self.wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let work = async {
            match &mut self.work {
                Some(work) => work.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.desired.changed() => if changed.is_ok() { Event::Desired } else { Event::Closed },
            outcome = work => Event::Done(outcome),
            Some(report) = self.reports.1.recv() => Event::Probe(report),
            () = self.poke.notified() => Event::Poke,
            () = timer => Event::Timer,
        }
    }

    fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Closed => return ControlFlow::Break(()),
            Event::Desired => self.on_desired(),
            Event::Poke | Event::Timer => self.look_again(),
            Event::Probe(report) => self.on_report(&report),
            Event::Done(outcome) => return self.on_done(outcome),
        }
        ControlFlow::Continue(())
    }

    fn on_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        let essence = Essence::of(&desired);
        if essence == self.seen {
            return;
        }
        self.seen = essence;
        self.node.objects.acquire(desired.pod.metadata.uid.as_deref().unwrap_or_default(), &desired.pod);
        if desired.ends() {
            // Also when it is ending already: the grace period may have become shorter.
            self.phase = Phase::Ending;
            self.probers.clear();
            self.begin();
        } else {
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        if self.work.is_some() {
            self.again = true;
        } else {
            self.begin();
        }
    }

    /// Starts a piece of work; one that is under way is dropped.
    fn begin(&mut self) {
        let desired = self.desired.borrow().clone();
        if desired.ends() {
            self.phase = Phase::Ending;
        }
        self.node.objects.acquire(desired.pod.metadata.uid.as_deref().unwrap_or_default(), &desired.pod);
        self.again = false;
        self.wake = None;
        let Desired { pod, pending, .. } = desired.clone();
        let work = PodWork { node: self.node.clone(), pod, pending, memory: self.memory.clone() };
        self.work = Some(match self.phase {
            Phase::Running => work.converge().boxed(),
            Phase::Ending => work.terminate(!desired.orphaned).boxed(),
        });
    }

    fn on_done(&mut self, outcome: Outcome) -> ControlFlow<()> {
        self.work = None;
        if outcome.gone {
            self.running.send_replace(Running::default());
            return ControlFlow::Break(());
        }
        if let Some(observed) = &outcome.observed {
            self.publish(observed);
            if self.phase == Phase::Running {
                self.arrange_probes(observed);
            }
        }
        self.wake = Some(self.due(outcome.wake));
        if self.again {
            self.begin();
        }
        ControlFlow::Continue(())
    }

    fn due(&self, wake: Option<Timestamp>) -> Instant {
        let resync = self.node.config.timing.resync;
        let wait =
            wake.map(|at| Duration::try_from(at.duration_since(self.node.clock.now())).unwrap_or_default());
        // Never at once: a plan that wants the past would spin.
        Instant::now() + wait.map_or(resync, |wait| wait.max(Duration::from_millis(10)).min(resync))
    }

    fn publish(&mut self, observed: &Observed) {
        let pod = self.desired.borrow().pod.clone();
        let containers = running_containers(&pod, observed);
        let ids = observed
            .containers
            .iter()
            .filter_map(|(name, list)| Some((name.clone(), list.first()?.state.id.clone())));
        let sandbox = observed.sandbox();
        self.running.send_replace(Running {
            sandbox: sandbox.is_some(),
            containers,
            ids: ids.collect(),
            sandbox_pid: sandbox.and_then(|sandbox| sandbox.state.pid),
        });
        if containers == members(&pod).filter(|(role, _)| *role != Role::Init).count()
            && let Some(arrived) = self.arrived.take()
        {
            metrics::pod_started(arrived.elapsed());
        }
    }

    /// A running container has its startup probe asked, and after its success the two others.
    fn arrange_probes(&mut self, observed: &Observed) {
        let pod = self.desired.borrow().pod.clone();
        let address = lock(&self.memory).address;
        let mut wanted = HashMap::new();
        for (role, container) in members(&pod) {
            let Some(found) =
                observed.current(&container.name).filter(|f| f.is_running() && role != Role::Init)
            else {
                continue;
            };
            let id = &found.state.id;
            lock(&self.memory).begin(&container.name, id.as_str());
            let health = lock(&self.memory).health(&container.name, id.as_str());
            let started = container.startup_probe.is_none() || health.started == Some(true);
            let kinds: &[ProbeKind] = match (started, health.started) {
                (true, _) => &[ProbeKind::Liveness, ProbeKind::Readiness],
                (false, Some(false)) => &[],
                (false, _) => &[ProbeKind::Startup],
            };
            for kind in kinds {
                if let Some(probe) = kind.of(container) {
                    wanted.insert((container.name.clone(), *kind), (container, id.clone(), probe.clone()));
                }
            }
        }
        self.probers.retain(|key, prober| wanted.get(key).is_some_and(|(_, id, _)| *id == prober.id));
        for (key, (container, id, probe)) in wanted {
            let (kind, target) = (key.1, Target::new(container, id.clone(), address));
            self.probers.entry(key).or_insert_with(|| {
                let asking =
                    probe::run(self.node.runtime.clone(), target, kind, probe, self.reports.0.clone());
                Prober { id, task: balsa_rt::spawn(TaskKind::Helper, asking).abort_handle() }
            });
        }
    }

    fn on_report(&mut self, report: &Report) {
        let pod = self.desired.borrow().pod.clone();
        if let Some(failure) = &report.failure {
            let message = format!("{} probe failed: {failure}", report.kind.name());
            self.node.event(&pod, Some(&report.container), "Warning", "Unhealthy", message);
        }
        let Some(verdict) = report.verdict else { return };
        {
            let mut memory = lock(&self.memory);
            let memory = memory.of(&report.container);
            if memory.id != report.id.as_str() {
                return;
            }
            match report.kind {
                ProbeKind::Startup => memory.health.started = Some(verdict),
                ProbeKind::Readiness => memory.health.ready = Some(verdict),
                ProbeKind::Liveness => memory.health.alive = Some(verdict),
            }
        }
        if self.phase == Phase::Running {
            self.look_again();
        }
    }
}
