//! A pod's status from what runs: phase and container states. Pure.

use balsa_model::KUBERNETES_VERSION;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::conditions::conditions;
use crate::pod::ephemeral;
use crate::pod::observed::{
    Found, Memory, Observed, Role, Waiting, app_containers, init_containers, members, restart_policy,
};
use crate::pod::plan::Plan;
use crate::pod::read_only;
use crate::pod::resize::{self, Pending};

/// The version that nodes report: the API level, and that it is ours.
pub(crate) fn kubelet_version() -> String {
    let (major, minor, patch) = KUBERNETES_VERSION;
    format!("v{major}.{minor}.{patch}+balsa")
}

/// What a status is computed from.
pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub plan: &'a Plan,
    /// Sizes that the pod wants and is not given.
    pub pending: Option<&'a Pending>,
    /// The scheme of container ids: `docker`.
    pub engine: &'a str,
    /// The engine can make read-only mounts so all the way down.
    pub recursive_read_only: bool,
    pub host_ip: &'a str,
    pub now: Timestamp,
    /// Set when the agent itself ends the pod: reason and message.
    pub verdict: Option<(&'a str, &'a str)>,
    /// The pod has never begun, and never will.
    pub refused: bool,
    /// Everything has been stopped because the pod is being deleted.
    pub terminated: bool,
}

/// The status of a pod.
pub(crate) fn pod_status(facts: &Facts<'_>) -> PodStatus {
    let old = facts.pod.status.clone().unwrap_or_default();
    let (init, apps) = container_statuses(facts);
    let phase = match facts.verdict {
        Some(_) => "Failed",
        None => phase(facts, &init, &apps, old.phase.as_deref()),
    };
    let network_host = facts.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let address = match (network_host, facts.memory.address) {
        (true, _) => Some(facts.host_ip.to_owned()),
        (false, Some(address)) => Some(address.to_string()),
        (false, None) => old.pod_ip.clone(),
    };
    let conditions = conditions(facts, &old, phase, &init, &apps);
    // Whoever was refused has no containers, also when another agent looks at what is left of it.
    let was_refused = old.phase.as_deref() == Some("Failed") && old.container_statuses.is_none();
    let (init, apps) = if facts.refused || was_refused { (Vec::new(), Vec::new()) } else { (init, apps) };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: Some(facts.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: facts.host_ip.to_owned() }]),
        pod_ips: address.clone().map(|ip| vec![PodIP { ip }]).or(old.pod_ips),
        pod_ip: address,
        start_time: old.start_time.or(Some(Time(facts.now))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!apps.is_empty()).then_some(apps),
        ephemeral_container_statuses: ephemeral_statuses(facts).or(old.ephemeral_container_statuses),
        reason: facts.verdict.map(|(reason, _)| reason.to_owned()).or(old.reason),
        message: facts.verdict.map(|(_, message)| message.to_owned()).or(old.message),
        observed_generation: old.observed_generation,
        ..old
    }
}

pub(super) type Statuses = Vec<ContainerStatus>;

fn container_statuses(facts: &Facts<'_>) -> (Statuses, Statuses) {
    let has_init = init_containers(facts.pod).next().is_some();
    let waiting = Waiting::new(if has_init { "PodInitializing" } else { "ContainerCreating" }, "");
    let init =
        init_containers(facts.pod).map(|(role, c)| container_status(facts, role, c, &waiting)).collect();
    let apps =
        app_containers(facts.pod).iter().map(|c| container_status(facts, Role::App, c, &waiting)).collect();
    (init, apps)
}

fn ephemeral_statuses(facts: &Facts<'_>) -> Option<Statuses> {
    let all = ephemeral::all(facts.pod);
    let waiting = Waiting::new("ContainerCreating", "");
    let statuses: Statuses = all
        .iter()
        .map(|container| ContainerStatus {
            ready: false,
            started: None,
            ..container_status(facts, Role::Ephemeral, container, &waiting)
        })
        .collect();
    (!statuses.is_empty()).then_some(statuses)
}

fn container_status(
    facts: &Facts<'_>,
    role: Role,
    container: &Container,
    unborn: &Waiting,
) -> ContainerStatus {
    let name = &container.name;
    let list = facts.observed.containers.get(name).map(Vec::as_slice).unwrap_or_default();
    let real: Vec<&Found> = list.iter().filter(|found| !found.is_unstarted()).collect();
    let remembered = facts.memory.containers.get(name).and_then(|memory| memory.waiting.as_ref());
    let waiting = facts.plan.waiting.get(name).or(remembered);
    let old = old_status(facts.pod, name);
    let Some(latest) = real.first() else {
        return never_made(facts, container, waiting.unwrap_or(unborn), old);
    };
    let before = real.get(1).map(|found| terminated(facts.engine, found));
    let (state, last) = if latest.is_running() {
        (running(latest), before)
    } else if let Some(waiting) = waiting.filter(|_| !facts.terminated) {
        (waiting_state(waiting), Some(terminated(facts.engine, latest)))
    } else {
        (terminated(facts.engine, latest), before)
    };
    let health = facts.memory.health(name, latest.state.id.as_str());
    let started = latest.is_running() && (container.startup_probe.is_none() || health.started == Some(true));
    let ready = match role {
        Role::Init => latest.succeeded(),
        _ => started && (container.readiness_probe.is_none() || health.ready == Some(true)),
    };
    let mut status = ContainerStatus {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: latest.image_id().to_owned(),
        container_id: Some(format!("{}://{}", facts.engine, latest.state.id)),
        restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
        ready,
        started: Some(if role == Role::Init { false } else { started }),
        state: Some(state),
        volume_mounts: mounts(container, facts.recursive_read_only),
        last_state: Some(last.or_else(|| old.and_then(|old| old.last_state.clone())).unwrap_or_default()),
        ..ContainerStatus::default()
    };
    resize::tell(&mut status, container, latest, facts.memory, old);
    status
}

fn old_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// No container of that name is there. One that had ended when it was last reported has not come back.
fn never_made(
    facts: &Facts<'_>,
    container: &Container,
    waiting: &Waiting,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return ContainerStatus { ready: old.ready && facts.plan.finished, ..old.clone() };
    }
    let known = old.filter(|old| old.container_id.is_some());
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: known.map(|old| old.image_id.clone()).unwrap_or_default(),
        container_id: known.and_then(|old| old.container_id.clone()),
        restart_count: known.map_or(0, |old| old.restart_count),
        started: Some(false),
        state: Some(if facts.terminated && known.is_some() { lost() } else { waiting_state(waiting) }),
        last_state: Some(known.and_then(|old| old.last_state.clone()).unwrap_or_default()),
        volume_mounts: mounts(container, facts.recursive_read_only),
        ..ContainerStatus::default()
    }
}

/// What the container has mounted.
fn mounts(container: &Container, recursive_read_only: bool) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: read_only::shown(mount, recursive_read_only),
    });
    Some(mounts.collect())
}

/// It was reported once and is nowhere to be found.
fn lost() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn waiting_state(waiting: &Waiting) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(waiting.reason.clone()),
        message: (!waiting.message.is_empty()).then(|| waiting.message.clone()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn running(found: &Found) -> ContainerState {
    let running = ContainerStateRunning { started_at: found.state.started_at.map(seconds) };
    ContainerState { running: Some(running), ..ContainerState::default() }
}

fn terminated(engine: &str, found: &Found) -> ContainerState {
    let state = &found.state;
    let unstarted = found.failed_to_start();
    let reason = match state.exit_code {
        _ if unstarted => "StartError",
        _ if state.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    let message = if unstarted { &state.error } else { &found.message };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{engine}://{}", state.id)),
        exit_code: if unstarted { 128 } else { state.exit_code },
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.clone()),
        started_at: state.started_at.or(state.created_at).map(seconds),
        finished_at: found.finished_at().map(seconds),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn phase(facts: &Facts<'_>, init: &Statuses, apps: &Statuses, old: Option<&str>) -> &'static str {
    match old {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let policy = restart_policy(facts.pod);
    let exit = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|terminated| terminated.exit_code)
    };
    let plain_init = init.iter().zip(init_containers(facts.pod)).filter(|(_, (role, _))| *role == Role::Init);
    for (status, _) in plain_init {
        match exit(status) {
            Some(0) => {}
            Some(_) if policy == "Never" || facts.terminated => return "Failed",
            _ if facts.terminated => return "Failed",
            _ => return "Pending",
        }
    }
    let running = apps.iter().any(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()));
    // A container that waits for its next run has run before.
    let unborn = |s: &ContainerStatus| {
        exit(s).is_none()
            && s.state.as_ref().is_none_or(|state| state.running.is_none())
            && s.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
    };
    if facts.terminated {
        return if apps.iter().all(|s| exit(s) == Some(0)) { "Succeeded" } else { "Failed" };
    }
    if apps.iter().any(unborn) {
        return "Pending";
    }
    let ended = apps.iter().all(|s| exit(s).is_some());
    if running || !ended || policy == "Always" || !facts.plan.start.is_empty() {
        return "Running";
    }
    match (apps.iter().all(|s| exit(s) == Some(0)), policy) {
        (true, _) => "Succeeded",
        (false, "Never") => "Failed",
        (false, _) => "Running",
    }
}

/// Names of the containers that run, for metrics.
pub(crate) fn running_containers(pod: &Pod, observed: &Observed) -> usize {
    members(pod).filter(|(_, c)| observed.latest(&c.name).is_some_and(Found::is_running)).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use balsa_runtime::{ContainerStatus as Status, labels};
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn found(name: &str, attempt: u32, status: Status, exit_code: i32) -> Found {
        let kind = if name == "POD" { labels::KIND_SANDBOX } else { labels::KIND_CONTAINER };
        let labels: BTreeMap<String, String> = [
            (labels::KIND, kind.to_owned()),
            (labels::CONTAINER_NAME, name.to_owned()),
            (labels::ATTEMPT, attempt.to_string()),
            (labels::SANDBOX, "POD-0".to_owned()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
        let state = balsa_runtime::ContainerState {
            id: format!("{name}-{attempt}").into(),
            name: name.to_owned(),
            status,
            pid: None,
            exit_code,
            oom_killed: exit_code == 137,
            error: String::new(),
            created_at: Some(now()),
            started_at: Some(now()),
            finished_at: (status == Status::Exited).then(now),
            labels,
            image: "i".to_owned(),
            image_id: "sha256:1".to_owned(),
            ip: None,
            tty: false,
            log_path: None,
        };
        Found::new(state, String::new()).unwrap()
    }

    /// A pod of which nobody has decided anything.
    fn facts<'a>(pod: &'a Pod, observed: &'a Observed, memory: &'a Memory, plan: &'a Plan) -> Facts<'a> {
        Facts {
            pod,
            observed,
            memory,
            plan,
            pending: None,
            engine: "docker",
            recursive_read_only: false,
            host_ip: "192.0.2.1",
            now: now(),
            verdict: None,
            refused: false,
            terminated: false,
        }
    }

    fn status(pod: &Pod, found: Vec<Found>, waiting: &[(&str, &str)]) -> PodStatus {
        let (observed, memory) = (Observed::new(found), Memory::default());
        let waiting = waiting.iter().map(|(n, r)| ((*n).to_owned(), Waiting::new(r, ""))).collect();
        let plan = Plan { waiting, ..Plan::default() };
        pod_status(&facts(pod, &observed, &memory, &plan))
    }

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]},
        }))
        .unwrap()
    }

    fn condition(status: &PodStatus, type_: &str) -> String {
        status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap().status.clone()
    }

    #[test]
    fn phases() {
        use Status::{Exited, Running};
        let sandbox = || found("POD", 0, Running, 0);
        for (policy, found, waiting, expected) in [
            ("Always", vec![], vec![], "Pending"),
            ("Always", vec![sandbox(), found("a", 0, Running, 0)], vec![], "Running"),
            ("Always", vec![sandbox(), found("a", 1, Exited, 1)], vec![("a", "CrashLoopBackOff")], "Running"),
            ("Always", vec![sandbox(), found("a", 0, Exited, 0)], vec![], "Running"),
            ("OnFailure", vec![sandbox(), found("a", 0, Exited, 0)], vec![], "Succeeded"),
            ("OnFailure", vec![sandbox(), found("a", 0, Exited, 1)], vec![], "Running"),
            ("Never", vec![sandbox(), found("a", 0, Exited, 1)], vec![], "Failed"),
        ] {
            let status = status(&pod(policy), found, &waiting);
            assert_eq!(status.phase.as_deref(), Some(expected), "{policy} {waiting:?}");
        }
    }

    #[test]
    fn who_was_refused_has_no_containers() {
        let (observed, memory, plan) = (Observed::default(), Memory::default(), Plan::default());
        let mut pod = pod("Always");
        let told = |pod: &Pod, verdict: Option<(&str, &str)>| {
            let facts = facts(pod, &observed, &memory, &plan);
            pod_status(&Facts { verdict, refused: verdict.is_some(), ..facts })
        };
        let refused = told(&pod, Some(("OutOfcpu", "too much")));
        assert_eq!((refused.phase.as_deref(), refused.container_statuses.as_ref()), (Some("Failed"), None));
        pod.status = Some(refused.clone());
        assert_eq!(told(&pod, None), refused, "an agent that starts anew says the same");
    }

    #[test]
    fn a_crash_loop_shows_why_it_waits_and_how_it_ended() {
        let status = status(
            &pod("Always"),
            vec![found("POD", 0, Status::Running, 0), found("a", 3, Status::Exited, 137)],
            &[("a", "CrashLoopBackOff")],
        );
        let container = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!(container.restart_count, 3);
        assert_eq!(
            container.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("CrashLoopBackOff")
        );
        let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((last.reason.as_deref(), last.exit_code), (Some("OOMKilled"), 137));
        assert_eq!(condition(&status, "Ready"), "False");
    }

    #[test]
    fn conditions_keep_their_time_and_foreign_ones_stay() {
        let mut pod = pod("Always");
        pod.status = serde_json::from_value(json!({"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "example.com/mine", "status": "True"},
        ]}))
        .unwrap();
        let status =
            status(&pod, vec![found("POD", 0, Status::Running, 0), found("a", 0, Status::Running, 0)], &[]);
        for type_ in
            ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers", "example.com/mine"]
        {
            assert_eq!(condition(&status, type_), "True", "{type_}");
        }
        let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled").unwrap();
        assert_eq!(scheduled.last_transition_time.as_ref().unwrap().0.as_second(), 1_577_836_800);
    }

    #[test]
    fn images_are_told_by_what_was_known_of_them_when_the_container_was_made() {
        let told = |container: Found| {
            let status = status(&pod("Always"), vec![found("POD", 0, Status::Running, 0), container], &[]);
            let container = status.container_statuses.unwrap().remove(0);
            (container.image, container.image_id)
        };
        let mut container = found("a", 0, Status::Running, 0);
        assert_eq!(told(container.clone()), ("i".to_owned(), "sha256:1".to_owned()));
        container.state.labels.insert(labels::IMAGE_ID.to_owned(), "r.io/i@sha256:2".to_owned());
        assert_eq!(told(container), ("i".to_owned(), "r.io/i@sha256:2".to_owned()));
    }

    #[test]
    fn before_anything_runs_it_is_being_created() {
        let status = status(&pod("Always"), vec![], &[]);
        let container = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!(
            container.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("ContainerCreating")
        );
        assert_eq!(condition(&status, "PodReadyToStartContainers"), "False");
    }
}
