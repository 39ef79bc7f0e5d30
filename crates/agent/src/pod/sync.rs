//! The work on one pod, round after round: look, plan, carry out, until there is nothing left to do.
//!
//! May be dropped at any await: everything it did is found again by the next look.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_rt::Backoff;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::context::NodeContext;
use crate::pod::backoff::PullBackoff;
use crate::pod::ephemeral;
use crate::pod::look::{key_of, look};
use crate::pod::observed::{Memory, Observed, PutOut, Role, Waiting, member, members};
use crate::pod::plan::{self, Plan, Situation};
use crate::pod::resize::{self, Pending};
use crate::pod::start::{Again, StartJob};
use crate::pod::status::{Facts, pod_status};
use crate::pod::{sandbox, terminate};
use crate::volumes;

/// Rounds of one piece of work; what is left then waits for the next.
const ROUNDS: usize = 12;
/// Why a pod ends that takes longer than it may.
const LATE: &str = "Pod was active on the node longer than the specified deadline";
/// How long the node's network is waited for.
const NETWORK_WAIT: Duration = Duration::from_secs(5);

/// What an actor remembers, shared with its own work. Each field has one writer: the actor those of
/// probes and of an eviction, the work all others.
pub(crate) type SharedMemory = Arc<Mutex<Memory>>;

/// Locks the memory; a panic elsewhere does not make it worse.
pub(crate) fn lock(memory: &SharedMemory) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How a piece of work ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was there at the end; none when the runtime did not answer.
    pub observed: Option<Observed>,
    /// Look again then.
    pub wake: Option<Timestamp>,
    /// Everything of the pod has been taken away.
    pub gone: bool,
}

/// A pod and all that is needed to work on it.
#[derive(Clone)]
pub(crate) struct PodWork {
    pub node: Arc<NodeContext>,
    pub pod: Arc<Pod>,
    /// Sizes that it wants and is not given.
    pub pending: Option<Pending>,
    pub memory: SharedMemory,
}

impl PodWork {
    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn soon(&self) -> Option<Timestamp> {
        self.node.clock.now().checked_add(self.node.config.timing.retry).ok()
    }

    /// When what fails now is tried again: later each time. What is missing often comes by itself, and nobody tells the
    /// node; but each try costs an event, and some would be made for ever.
    fn later(&self, retries: &mut Option<Backoff>) -> Option<Timestamp> {
        let timing = &self.node.config.timing;
        let backoff = retries.get_or_insert_with(|| Backoff::new(timing.retry, timing.retry_ceiling));
        self.node.clock.now().checked_add(backoff.next_delay()).ok()
    }

    fn address(&self) -> Option<IpAddr> {
        lock(&self.memory).address
    }

    /// The pod with the status that was put up last: that may not have come back from the server yet.
    fn known(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod);
        if let Some(last) = self.node.board.last(self.uid()) {
            pod.status = Some(last);
        }
        pod
    }

    fn post(&self, observed: &Observed, plan: &Plan, terminated: bool, delete: bool) {
        let pod = self.known();
        let late =
            plan::past_deadline(&pod, self.node.clock.now()) && !plan::is_terminal(&self.pod) && !terminated;
        let late = late.then_some(("DeadlineExceeded", LATE));
        let memory = {
            let mut memory = lock(&self.memory);
            if late.is_some() && !std::mem::replace(&mut memory.told_late, true) {
                self.node.event(&self.pod, None, "Normal", "DeadlineExceeded", LATE);
            }
            memory.clone()
        };
        let put_out = memory.put_out.as_ref().filter(|_| !plan::is_terminal(&self.pod) && !terminated);
        let put_out = put_out.map(|why| (why.reason.as_ref(), why.message()));
        let status = pod_status(&Facts {
            pod: &pod,
            observed,
            memory: &memory,
            plan,
            pending: self.pending.as_ref(),
            engine: &self.node.engine,
            recursive_read_only: self.node.recursive_read_only,
            host_ip: &self.node.config.node_ip.to_string(),
            now: self.node.clock.now_seconds(),
            refused: memory.put_out.as_ref().is_some_and(PutOut::is_refused),
            verdict: put_out.as_ref().map(|(reason, message)| (*reason, message.as_ref())).or(late),
            terminated,
        });
        self.node.board.post(self.uid(), key_of(&self.pod), status, delete);
    }

    /// Brings what runs toward what is wanted.
    pub(crate) async fn converge(self) -> Outcome {
        let mut last = Outcome { observed: None, wake: self.soon(), gone: false };
        for _ in 0..ROUNDS {
            let observed = match look(&self.node, &self.pod).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = %key_of(&self.pod), %error, "runtime does not answer; will look again");
                    return last;
                }
            };
            let plan = self.plan(&observed).await;
            self.tell_back_off(&observed, &plan);
            let done = self.carry_out(&observed, &plan).await;
            self.post(&observed, &plan, false, false);
            last = Outcome { observed: Some(observed), wake: plan.wake, gone: false };
            match done {
                Ok(true) => lock(&self.memory).retries = None,
                // Perhaps only because it is too early to try again: that is no success.
                Ok(false) => return last,
                Err(()) => {
                    let again = self.later(&mut lock(&self.memory).retries);
                    return Outcome { wake: earlier(last.wake, again), ..last };
                }
            }
        }
        Outcome { wake: self.soon(), ..last }
    }

    /// Once for each end of a container that is waited for before the next start.
    fn tell_back_off(&self, observed: &Observed, plan: &Plan) {
        let looping = plan.waiting.iter().filter(|(_, waiting)| waiting.reason == plan::CRASH_LOOP);
        for (name, _) in looping {
            let ended = observed.latest(name).map(|found| found.state.id.as_str()).unwrap_or_default();
            let told = std::mem::replace(&mut lock(&self.memory).of(name).told_back_off, ended.to_owned());
            if told != ended {
                let (key, uid) = (key_of(&self.pod), self.uid());
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({uid})",
                    key.name, key.namespace
                );
                self.node.event(&self.pod, Some(name), "Warning", "BackOff", message);
            }
        }
    }

    async fn plan(&self, observed: &Observed) -> Plan {
        if let Some(found) = observed.sandbox()
            && self.address().is_none()
        {
            match sandbox::address(&self.node, &self.pod, found).await {
                Ok(address) => lock(&self.memory).address = address,
                Err(error) => tracing::warn!(pod = %key_of(&self.pod), error, "sandbox has no address"),
            }
        }
        // When it began says how long it may go on.
        let pod = self.known();
        let situation =
            Situation { pod: &pod, observed, now: self.node.clock.now(), timing: &self.node.config.timing };
        let mut memory = lock(&self.memory);
        for (_, container) in members(&pod) {
            memory.of(&container.name).wants(container.image.as_deref().unwrap_or_default());
        }
        plan::plan(&situation, &mut memory)
    }

    /// Does what the plan says; true when something was done, so that another look is worth it.
    async fn carry_out(&self, observed: &Observed, plan: &Plan) -> Result<bool, ()> {
        let mut acted = false;
        if resize::in_progress(&self.pod, observed, &lock(&self.memory)).is_some() {
            self.post(observed, plan, false, false);
        }
        if !plan.stop.is_empty() {
            acted = true;
            self.stop(plan).await?;
        }
        for id in &plan.remove {
            acted = true;
            terminate::remove(&self.node, id)
                .await
                .map_err(|error| self.warn("container not removed", &error))?;
        }
        if plan.finished {
            if observed.sandbox().is_some() {
                let stopped = terminate::stop_sandbox(&self.node, &self.pod, observed).await;
                stopped.map_err(|error| self.warn("sandbox not stopped", &error))?;
            }
            let torn = terminate::remove_volumes(&self.node, &self.pod).await;
            torn.map_err(|error| self.warn("volumes not removed", &error))?;
            return Ok(acted || observed.sandbox().is_some());
        }
        if let Some(attempt) = plan.sandbox {
            self.post(observed, plan, false, false);
            self.prepare(attempt).await?;
            return Ok(true);
        }
        if plan.start.is_empty() {
            self.resize(observed).await;
            self.refresh_volumes(observed).await;
            return Ok(acted);
        }
        let volumes = self.set_up_volumes().await?;
        let mut failed = false;
        for start in &plan.start {
            failed |= !self.start(observed, start, &volumes).await;
        }
        if failed { Err(()) } else { Ok(true) }
    }

    fn warn(&self, what: &str, error: &dyn std::fmt::Display) {
        tracing::warn!(pod = %key_of(&self.pod), %error, "{what}; will try again");
    }

    async fn stop(&self, plan: &Plan) -> Result<(), ()> {
        let stops = plan.stop.iter().map(|stop| async {
            let own = terminate::grace(&self.pod);
            let grace =
                stop.grace_seconds.and_then(|s| u64::try_from(s).ok()).map_or(own, Duration::from_secs);
            terminate::stop(&self.node, &self.pod, &stop.name, &stop.id, &stop.why, grace, self.address())
                .await
        });
        let all: Result<Vec<()>, _> = join_all(stops).await.into_iter().collect();
        all.map(drop).map_err(|error| self.warn("container not stopped", &error))
    }

    /// Volumes first, as the sandbox is of no use without them; then the sandbox.
    async fn prepare(&self, attempt: u32) -> Result<(), ()> {
        if !sandbox::is_host_network(&self.pod) {
            let mut ready = self.node.network_ready.clone();
            let waited = tokio::time::timeout(NETWORK_WAIT, ready.wait_for(|ready| *ready)).await;
            if !matches!(waited, Ok(Ok(_))) {
                let message =
                    "network is not ready: container runtime network not ready: the node has no pod CIDR yet";
                self.node.event(&self.pod, None, "Warning", "NetworkNotReady", message);
                return Err(());
            }
        }
        self.set_up_volumes().await?;
        match sandbox::create(&self.node, &self.pod, attempt).await {
            Ok(address) => {
                lock(&self.memory).address = address;
                Ok(())
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.node.event(&self.pod, None, "Warning", "FailedCreatePodSandBox", message);
                Err(())
            }
        }
    }

    async fn set_up_volumes(&self) -> Result<BTreeMap<String, PathBuf>, ()> {
        let facts = self.node.facts(self.address());
        volumes::set_up(&self.pod, &facts, &self.node.volumes).await.map_err(|(volume, error)| {
            let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}");
            self.node.event(&self.pod, None, "Warning", "FailedMount", message);
        })
    }

    /// Running containers see changed ConfigMaps, Secrets and tokens; what cannot be had now stays.
    async fn refresh_volumes(&self, observed: &Observed) {
        if observed.sandbox().is_none() {
            return;
        }
        let facts = self.node.facts(self.address());
        if let Err((volume, error)) = volumes::set_up(&self.pod, &facts, &self.node.volumes).await {
            tracing::debug!(pod = %key_of(&self.pod), volume, %error, "volume not refreshed");
        }
    }

    /// Starts one container; false when it is to be tried again.
    async fn start(
        &self,
        observed: &Observed,
        start: &plan::Start,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> bool {
        let Some(sandbox) = observed.sandbox() else { return false };
        let ephemeral = ephemeral::find(&self.pod, &start.name);
        let ephemeral = ephemeral.as_ref().map(|container| (Role::Ephemeral, container));
        let Some((role, container)) = ephemeral.or(member(&self.pod, &start.name)) else { return true };
        let now = self.node.clock.now();
        let (back_off, before) = {
            let mut memory = lock(&self.memory);
            let memory = memory.of(&start.name);
            (memory.pull.waits_until(now), memory.waiting.clone())
        };
        if let Some(until) = back_off {
            self.wait_for_image(container.image.as_deref().unwrap_or_default(), &start.name, until, before);
            return true;
        }
        let address = self.address();
        let job = StartJob {
            node: &self.node,
            pod: &self.pod,
            role,
            container,
            start,
            sandbox: &sandbox.state.id,
            target: ephemeral::target(&self.pod, &start.name).map(|name| observed.current(name)),
            address,
            volumes,
        };
        let result = job.run().await;
        let mut memory = lock(&self.memory);
        let memory = memory.of(&start.name);
        match result {
            Ok(()) => {
                (memory.waiting, memory.retry_at, memory.retries) = (None, None, None);
                memory.pull = PullBackoff::default();
                true
            }
            Err(not_started) => {
                if not_started.again == Again::Pull {
                    memory.pull.failed(now, &self.node.config.timing);
                }
                memory.retry_at = match not_started.again {
                    Again::Sometime => now.checked_add(self.node.config.timing.restart_first).ok(),
                    Again::Soon => self.later(&mut memory.retries),
                    // Only to say that it waits: when it is asked for again is the pull's own affair.
                    Again::Pull => self.soon(),
                };
                memory.waiting = Some(not_started.waiting);
                false
            }
        }
    }

    fn wait_for_image(&self, image: &str, name: &str, until: Timestamp, before: Option<Waiting>) {
        let message = format!("Back-off pulling image \"{image}\"");
        self.node.event(&self.pod, Some(name), "Normal", "BackOff", message.clone());
        self.node.event(&self.pod, Some(name), "Warning", "Failed", "Error: ImagePullBackOff");
        let detail = before.filter(|before| before.reason != "ImagePullBackOff").map(|before| before.message);
        let message = detail.map_or(message.clone(), |detail| format!("{message}: {detail}"));
        let mut memory = lock(&self.memory);
        let memory = memory.of(name);
        memory.waiting = Some(Waiting::new("ImagePullBackOff", message));
        memory.retry_at = Some(until);
    }

    /// Ends the pod: containers, then everything that was made for it. `report`: the server still has it.
    pub(crate) async fn terminate(self, report: bool) -> Outcome {
        match self.end(report).await {
            Ok(()) => Outcome { observed: None, wake: None, gone: true },
            Err(error) => {
                self.warn("pod not ended", &error);
                Outcome { observed: None, wake: self.soon(), gone: false }
            }
        }
    }

    async fn end(&self, report: bool) -> Result<(), String> {
        let text = |error: balsa_runtime::Error| error.to_string();
        let observed = look(&self.node, &self.pod).await.map_err(text)?;
        if report && !terminate::grace(&self.pod).is_zero() {
            self.node.shown.let_go(self.uid()).await;
        }
        terminate::stop_containers(&self.node, &self.pod, &observed, self.address()).await.map_err(text)?;
        let observed = look(&self.node, &self.pod).await.map_err(text)?;
        let nothing = Plan::default();
        if report {
            self.post(&observed, &nothing, true, false);
        }
        terminate::clean_up(&self.node, &self.pod, &observed).await?;
        // Before the server hears of it: a successor comes as soon as it does.
        self.node.admission.release(self.uid());
        if report {
            self.post(&observed, &nothing, true, true);
        }
        Ok(())
    }
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
