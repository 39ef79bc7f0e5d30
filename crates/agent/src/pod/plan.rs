//! What to do next for a pod: a pure function from what is wanted and what runs.
//!
//! Order: a sandbox; init containers one after the other (a sidecar counts as done when it has
//! started); then all app containers. A container that ended starts again as the restart policy says,
//! after its back-off. States never go back: a pod that has ended starts nothing.

use std::collections::BTreeMap;

use balsa_runtime::ContainerId;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::config::Timing;
use crate::pod::backoff::Ended;
use crate::pod::ephemeral;
use crate::pod::observed::{
    Found, Memory, Observed, Role, Waiting, app_containers, init_containers, members, restart_policy,
    spec_hash,
};
use crate::pod::resize;

/// Why a container that ended does not run again yet.
pub(crate) const CRASH_LOOP: &str = "CrashLoopBackOff";
/// Seconds that a container gets when its node puts it out.
const EVICTION_GRACE: i64 = 1;

/// A container to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Which.
    pub id: ContainerId,
    /// Its name in the pod.
    pub name: String,
    /// Why, for the event.
    pub why: String,
    /// How long it is given, when a probe says so.
    pub grace_seconds: Option<i64>,
}

/// A container to make and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Its name in the pod.
    pub name: String,
    /// Which try.
    pub attempt: u32,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Make a sandbox, the n-th.
    pub sandbox: Option<u32>,
    /// End these.
    pub stop: Vec<Stop>,
    /// Take these away; nobody needs them any more.
    pub remove: Vec<ContainerId>,
    /// Start these.
    pub start: Vec<Start>,
    /// Why containers that ended do not run again yet.
    pub waiting: BTreeMap<String, Waiting>,
    /// Look again then.
    pub wake: Option<Timestamp>,
    /// Nothing will run in this pod any more.
    pub finished: bool,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn wait(&mut self, name: &str, reason: &str, message: String) {
        self.waiting.insert(name.to_owned(), Waiting::new(reason, message));
    }
}

/// What the planner looks at.
pub(crate) struct Situation<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub now: Timestamp,
    pub timing: &'a Timing,
}

/// What to do next. Only the back-offs in `memory` change.
pub(crate) fn plan(situation: &Situation<'_>, memory: &mut Memory) -> Plan {
    let (pod, observed) = (situation.pod, situation.observed);
    let mut plan = Plan::default();
    plan.remove.extend(superseded(observed));
    if is_terminal(pod) || past_deadline(pod, situation.now) || memory.put_out.is_some() {
        stop_all(observed, &mut plan, "Stopping container");
        if memory.put_out.is_some() {
            plan.stop.iter_mut().for_each(|stop| stop.grace_seconds = Some(EVICTION_GRACE));
        }
        plan.finished = true;
        return plan;
    }
    if let Some(deadline) = deadline(pod) {
        plan.wake_at(deadline);
    }
    memory.restarted.retain(|id| observed.all().any(|(_, found)| found.state.id.as_str() == id));
    if observed.sandbox().is_none() {
        return without_sandbox(situation, plan);
    }
    if !all_ended(situation) {
        look_on(situation, memory, &mut plan);
    }
    if !has_app_started(situation) && !initialize(situation, memory, &mut plan) {
        return plan;
    }
    for (role, container) in members(pod).filter(|(role, _)| *role != Role::Init) {
        keep(situation, memory, &mut plan, role, container);
    }
    if plan.start.is_empty() && plan.waiting.is_empty() && all_ended(situation) {
        // Sidecars end with the work; then the sandbox has nothing to hold.
        stop_all(observed, &mut plan, "Stopping container");
        plan.finished = true;
    }
    plan
}

/// The pod has ended for good, says its status.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// It ran longer than `activeDeadlineSeconds`.
pub(crate) fn past_deadline(pod: &Pod, now: Timestamp) -> bool {
    deadline(pod).is_some_and(|deadline| now >= deadline)
}

/// Containers that nothing is read from any more: all but the newest two of a name, and the halves
/// that a crash leaves.
fn superseded(observed: &Observed) -> Vec<ContainerId> {
    let mut old: Vec<ContainerId> =
        observed.sandboxes.iter().skip(1).map(|found| found.state.id.clone()).collect();
    old.extend(
        observed.sandboxes.first().filter(|found| found.is_unstarted()).map(|found| found.state.id.clone()),
    );
    for list in observed.containers.values() {
        let (unstarted, real): (Vec<_>, Vec<_>) = list.iter().partition(|found| found.is_unstarted());
        old.extend(unstarted.into_iter().map(|found| found.state.id.clone()));
        old.extend(real.into_iter().skip(2).map(|found| found.state.id.clone()));
    }
    old
}

fn stop_all(observed: &Observed, plan: &mut Plan, why: &str) {
    for (name, found) in observed.all().filter(|(_, found)| found.is_running()) {
        plan.stop.push(Stop {
            id: found.state.id.clone(),
            name: name.to_owned(),
            why: format!("{why} {name}"),
            grace_seconds: None,
        });
    }
}

fn without_sandbox(situation: &Situation<'_>, mut plan: Plan) -> Plan {
    let (pod, observed) = (situation.pod, situation.observed);
    stop_all(observed, &mut plan, "Pod sandbox changed, stopping container");
    let had_one = !observed.sandboxes.is_empty();
    let restarts = restart_policy(pod) == "Always";
    let done = |container: &Container| {
        observed
            .latest(&container.name)
            .is_some_and(|found| found.has_ended() && (found.succeeded() || restart_policy(pod) == "Never"))
    };
    if had_one && !restarts && app_containers(pod).iter().all(done) {
        plan.finished = true;
        return plan;
    }
    // An unstarted one is taken away in this round, so its number is free again.
    let newest = observed.sandboxes.iter().find(|found| !found.is_unstarted());
    plan.remove.extend(newest.map(|found| found.state.id.clone()).filter(|id| !plan.remove.contains(id)));
    plan.sandbox = Some(newest.map_or(0, |found| found.attempt + 1));
    plan
}

fn has_app_started(situation: &Situation<'_>) -> bool {
    app_containers(situation.pod).iter().any(|container| {
        situation.observed.current(&container.name).is_some_and(|found| !found.is_unstarted())
    })
}

/// Starts ephemeral containers, each once: one that was there, in whatever sandbox, does not come again.
fn look_on(situation: &Situation<'_>, memory: &mut Memory, plan: &mut Plan) {
    let told = situation.pod.status.as_ref().and_then(|s| s.ephemeral_container_statuses.as_deref());
    for container in ephemeral::all(situation.pod) {
        let name = &container.name;
        let seen = situation.observed.containers.get(name).into_iter().flatten();
        let known = told.unwrap_or_default().iter().any(|s| s.name == *name && s.container_id.is_some());
        if !known && seen.filter(|found| !found.is_unstarted()).count() == 0 {
            begin(situation, memory, plan, name);
        }
    }
}

/// Takes the init containers one step on; true when all are done.
fn initialize(situation: &Situation<'_>, memory: &mut Memory, plan: &mut Plan) -> bool {
    for (role, container) in init_containers(situation.pod) {
        let current = situation.observed.current(&container.name).filter(|found| !found.is_unstarted());
        if role == Role::Sidecar {
            keep(situation, memory, plan, role, container);
            let started = current.filter(|found| found.is_running()).is_some_and(|found| {
                let health = memory.health(&container.name, found.state.id.as_str());
                container.startup_probe.is_none() || health.started == Some(true)
            });
            if !started {
                return false;
            }
            continue;
        }
        match current {
            Some(found) if found.succeeded() => {}
            Some(found) if found.is_running() => return false,
            Some(_) if restart_policy(situation.pod) == "Never" => {
                stop_all(situation.observed, plan, "Stopping container");
                plan.finished = true;
                return false;
            }
            Some(found) => {
                restart(situation, memory, plan, &container.name, found);
                return false;
            }
            None => {
                begin(situation, memory, plan, &container.name);
                return false;
            }
        }
    }
    true
}

/// Sees to one container that is meant to run.
fn keep(situation: &Situation<'_>, memory: &mut Memory, plan: &mut Plan, role: Role, container: &Container) {
    let name = &container.name;
    let Some(found) = situation.observed.current(name).filter(|found| !found.is_unstarted()) else {
        return begin(situation, memory, plan, name);
    };
    if found.is_running() {
        if let Some(stop) = why_stop(memory, container, found) {
            plan.stop.push(stop);
        } else if resize::restarts(container, found, memory) {
            memory.restarted.insert(found.state.id.as_str().to_owned());
            plan.stop.push(Stop {
                id: found.state.id.clone(),
                name: name.clone(),
                why: format!("Container {name} resize requires restart"),
                grace_seconds: None,
            });
        }
        return;
    }
    if memory.restarted.contains(found.state.id.as_str()) {
        // Whatever it ended with, and without a back-off: it did nothing wrong.
        return begin(situation, memory, plan, name);
    }
    let again = role == Role::Sidecar
        || match restart_policy(situation.pod) {
            "Never" => false,
            "OnFailure" => !found.succeeded(),
            _ => true,
        };
    if again {
        restart(situation, memory, plan, name, found);
    }
}

fn why_stop(memory: &Memory, container: &Container, found: &Found) -> Option<Stop> {
    let name = &container.name;
    let stop = |why: String, probe: Option<&k8s_openapi::api::core::v1::Probe>| Stop {
        id: found.state.id.clone(),
        name: name.clone(),
        why,
        grace_seconds: probe.and_then(|probe| probe.termination_grace_period_seconds),
    };
    let health = memory.health(name, found.state.id.as_str());
    if found.spec_hash != spec_hash(container) {
        return Some(stop(format!("Container {name} definition changed, will be restarted"), None));
    }
    if health.started == Some(false) {
        let why = format!("Container {name} failed startup probe, will be restarted");
        return Some(stop(why, container.startup_probe.as_ref()));
    }
    if health.alive == Some(false) {
        let why = format!("Container {name} failed liveness probe, will be restarted");
        return Some(stop(why, container.liveness_probe.as_ref()));
    }
    None
}

/// Starts a container for the first time in this sandbox, unless its last try has just failed.
fn begin(situation: &Situation<'_>, memory: &mut Memory, plan: &mut Plan, name: &str) {
    let memory = memory.of(name);
    if let Some(at) = memory.retry_at.filter(|at| *at > situation.now) {
        let waiting = memory.waiting.clone().unwrap_or_else(|| Waiting::new("ContainerCreating", ""));
        plan.waiting.insert(name.to_owned(), waiting);
        return plan.wake_at(at);
    }
    plan.start.push(Start { name: name.to_owned(), attempt: next_attempt(situation, name) });
}

fn restart(situation: &Situation<'_>, memory: &mut Memory, plan: &mut Plan, name: &str, found: &Found) {
    let finished = found.finished_at().unwrap_or(situation.now);
    let ended = Ended { attempt: found.attempt, started: found.state.started_at, finished };
    let delay = memory.of(name).restart.delay(ended, situation.timing);
    let due = finished.checked_add(delay).unwrap_or(situation.now);
    // A clock that was set back must not make anybody wait for longer than the back-off.
    let due = due.min(situation.now.checked_add(delay).unwrap_or(due));
    if due <= situation.now {
        return begin(situation, memory, plan, name);
    }
    let meta = &situation.pod.metadata;
    let message = format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        short(delay),
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    );
    plan.wait(name, CRASH_LOOP, message);
    plan.wake_at(due);
}

/// `10s`, `1m20s`: a duration as Kubernetes writes it.
fn short(delay: std::time::Duration) -> String {
    match (delay.as_secs() / 60, delay.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// One more than any try that is known, from containers or, where they are gone, from the status.
fn next_attempt(situation: &Situation<'_>, name: &str) -> u32 {
    let seen = situation.observed.containers.get(name).into_iter().flatten();
    if let Some(found) = seen.filter(|found| !found.is_unstarted()).map(|found| found.attempt).max() {
        return found + 1;
    }
    let status = situation.pod.status.as_ref();
    let lists = status.into_iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]);
    lists
        .flatten()
        .flatten()
        .find(|status| status.name == name && status.container_id.is_some())
        .and_then(|status| u32::try_from(status.restart_count).ok())
        .map_or(0, |count| count + 1)
}

fn all_ended(situation: &Situation<'_>) -> bool {
    app_containers(situation.pod)
        .iter()
        .all(|container| situation.observed.current(&container.name).is_some_and(Found::has_ended))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use balsa_runtime::{ContainerState, ContainerStatus, labels};
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec,
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn found(name: &str, attempt: u32, status: ContainerStatus, exit_code: i32) -> Found {
        let sandbox = name == "POD";
        let kind = if sandbox { labels::KIND_SANDBOX } else { labels::KIND_CONTAINER };
        let image = Container { name: name.to_owned(), image: Some("i".to_owned()), ..Container::default() };
        let labels: BTreeMap<String, String> = [
            (labels::KIND, kind.to_owned()),
            (labels::CONTAINER_NAME, name.to_owned()),
            (labels::ATTEMPT, attempt.to_string()),
            (labels::SANDBOX, "POD-0".to_owned()),
            (labels::SPEC_HASH, spec_hash(&image)),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
        let state = ContainerState {
            id: format!("{name}-{attempt}").into(),
            name: name.to_owned(),
            status,
            pid: None,
            exit_code,
            oom_killed: false,
            error: String::new(),
            created_at: Some(now()),
            started_at: Some(now()),
            finished_at: (status == ContainerStatus::Exited).then(now),
            labels,
            image: "i".to_owned(),
            image_id: String::new(),
            ip: None,
            tty: false,
            log_path: None,
        };
        Found::new(state, String::new()).unwrap()
    }

    fn next(pod: &Pod, found: Vec<Found>, memory: &mut Memory) -> Plan {
        let (observed, timing) = (Observed::new(found), Timing::default());
        plan(&Situation { pod, observed: &observed, now: now(), timing: &timing }, memory)
    }

    fn starts(plan: &Plan) -> Vec<(&str, u32)> {
        plan.start.iter().map(|start| (start.name.as_str(), start.attempt)).collect()
    }

    use ContainerStatus::{Created, Exited, Running};

    #[test]
    fn sandbox_then_init_then_apps() {
        let pod = pod(json!({
            "initContainers": [{"name": "i1", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        }));
        let memory = &mut Memory::default();
        assert_eq!(next(&pod, vec![], memory).sandbox, Some(0));
        let sandbox = found("POD", 0, Running, 0);
        assert_eq!(starts(&next(&pod, vec![sandbox.clone()], memory)), [("i1", 0)]);
        let done = found("i1", 0, Exited, 0);
        assert_eq!(starts(&next(&pod, vec![sandbox.clone(), done.clone()], memory)), [("side", 0)]);
        let side = found("side", 0, Running, 0);
        let plan = next(&pod, vec![sandbox, done, side], memory);
        assert_eq!(starts(&plan), [("a", 0), ("b", 0)]);
    }

    #[test]
    fn a_crash_waits_and_then_starts_the_next_attempt() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
        let memory = &mut Memory::default();
        let sandbox = found("POD", 0, Running, 0);
        let plan = next(&pod, vec![sandbox.clone(), found("a", 0, Exited, 1)], memory);
        assert_eq!(starts(&plan), [("a", 1)], "the first restart is at once");
        let plan = next(&pod, vec![sandbox, found("a", 1, Exited, 1), found("a", 0, Exited, 1)], memory);
        assert!(plan.start.is_empty());
        assert_eq!(plan.waiting["a"].reason, "CrashLoopBackOff");
        assert_eq!(plan.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_n(u)");
        assert_eq!(plan.wake, now().checked_add(std::time::Duration::from_secs(10)).ok());
    }

    #[test]
    fn restart_policies() {
        for (policy, exit, again) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}));
            let plan = next(
                &pod,
                vec![found("POD", 0, Running, 0), found("a", 0, Exited, exit)],
                &mut Memory::default(),
            );
            assert_eq!((!plan.start.is_empty(), plan.finished), (again, !again), "{policy} {exit}");
        }
    }

    #[test]
    fn a_lost_sandbox_takes_its_containers_along() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
        let plan =
            next(&pod, vec![found("POD", 0, Exited, 137), found("a", 0, Running, 0)], &mut Memory::default());
        assert_eq!(plan.sandbox, Some(1));
        assert_eq!(plan.stop.len(), 1);
        assert_eq!(plan.remove, [ContainerId::from("POD-0".to_owned())]);
    }

    #[test]
    fn a_failed_liveness_probe_and_a_new_image_stop_a_container() {
        let mut pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
        let memory = &mut Memory::default();
        let containers = || vec![found("POD", 0, Running, 0), found("a", 0, Running, 0)];
        assert_eq!(next(&pod, containers(), memory), Plan::default());
        memory.begin("a", "a-0");
        memory.of("a").health.alive = Some(false);
        assert!(next(&pod, containers(), memory).stop[0].why.contains("failed liveness probe"));
        memory.of("a").health.alive = None;
        pod.spec.as_mut().unwrap().containers[0].image = Some("j".to_owned());
        assert!(next(&pod, containers(), memory).stop[0].why.contains("definition changed"));
    }

    #[test]
    fn halves_and_old_attempts_are_removed() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
        let all = vec![
            found("POD", 0, Running, 0),
            found("a", 3, Created, 0),
            found("a", 2, Running, 0),
            found("a", 1, Exited, 1),
            found("a", 0, Exited, 1),
        ];
        let plan = next(&pod, all, &mut Memory::default());
        let removed: Vec<_> = plan.remove.iter().map(ContainerId::as_str).collect();
        assert_eq!(removed, ["a-3", "a-0"]);
    }

    #[test]
    fn what_has_ended_starts_nothing() {
        let mut pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "i"}]}));
        pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        let plan = next(&pod, vec![], &mut Memory::default());
        assert!(plan.finished && plan.sandbox.is_none());
        pod.status =
            serde_json::from_value(json!({"phase": "Running", "startTime": "1970-01-01T00:00:00Z"})).unwrap();
        let plan =
            next(&pod, vec![found("POD", 0, Running, 0), found("a", 0, Running, 0)], &mut Memory::default());
        assert!(plan.finished && plan.stop.len() == 1, "past its deadline");
    }
}
