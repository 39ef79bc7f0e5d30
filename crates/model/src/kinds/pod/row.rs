//! The row of a pod: how `kubectl get pods` sums up its containers.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};

use super::{condition, has_condition, ip, is_terminal};
use crate::kinds::cells::{NONE, or_none};
use crate::table::{Cell, age};

/// What the containers add up to, as it is read off them.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

/// Restarts, and when the last one was.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += i64::from(status.restart_count);
        let ended = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let ended = ended.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        self.last = self.last.max(ended);
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, age(last, now)),
            _ => self.count.to_string(),
        }
    }
}

/// The cells.
pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Cell> {
    let summary = summarize(pod);
    let spec = pod.spec.as_ref();
    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
    vec![
        Cell::name(pod.metadata()),
        Cell::text(format!("{}/{}", summary.ready, summary.total)),
        Cell::text(summary.reason),
        Cell::text(summary.restarts.text(now)),
        Cell::age(pod.metadata(), now),
        or_none(ip(pod)),
        or_none(spec.and_then(|s| s.node_name.as_deref())),
        or_none(nominated),
        Cell::text(readiness_gates(pod)),
    ]
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let passed = gates.iter().filter(|gate| has_condition(pod, &gate.condition_type)).count();
    format!("{passed}/{}", gates.len())
}

fn summarize(pod: &Pod) -> Summary {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let keeps_running: HashSet<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"))
        .map(|c| c.name.as_str())
        .collect();
    let own = status.reason.as_deref().filter(|r| !r.is_empty()).or(status.phase.as_deref());
    let gated = condition(pod, "PodScheduled").and_then(|c| c.reason.as_deref()) == Some("SchedulingGated");
    let mut summary = Summary {
        reason: if gated { "SchedulingGated" } else { own.unwrap_or_default() }.to_owned(),
        ready: 0,
        total: spec.containers.len() + keeps_running.len(),
        restarts: Restarts::default(),
    };
    let init_total = spec.init_containers.as_ref().map_or(0, Vec::len);
    let (initializing, sidecars) = add_init(&mut summary, status, &keeps_running, init_total);
    if !initializing || has_condition(pod, "Initialized") {
        summary.restarts = sidecars;
        add_regular(&mut summary, pod, status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if !is_terminal(pod) {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether init containers still hold the pod up, and the restarts of those that keep running.
fn add_init(
    summary: &mut Summary,
    status: &PodStatus,
    keeps_running: &HashSet<&str>,
    total: usize,
) -> (bool, Restarts) {
    let mut sidecars = Restarts::default();
    for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let is_sidecar = keeps_running.contains(container.name.as_str());
        summary.restarts.add(container);
        if is_sidecar {
            sidecars.add(container);
        }
        let state = container.state.as_ref();
        let terminated = state.and_then(|s| s.terminated.as_ref());
        if terminated.is_some_and(|t| t.exit_code == 0) {
            continue;
        }
        if is_sidecar && container.started == Some(true) {
            summary.ready += usize::from(container.ready);
            continue;
        }
        let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
        summary.reason = match (terminated, waiting) {
            (Some(terminated), _) => format!("Init:{}", how_it_ended(terminated)),
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{i}/{total}"),
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

fn add_regular(summary: &mut Summary, pod: &Pod, status: &PodStatus) {
    let mut has_running = false;
    // From the last to the first, so that the first container with something to say has the last word.
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let state = container.state.as_ref();
        let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
        if let Some(reason) = waiting.filter(|r| !r.is_empty()) {
            summary.reason = reason.to_owned();
        } else if let Some(terminated) = state.and_then(|s| s.terminated.as_ref()) {
            summary.reason = how_it_ended(terminated);
        } else if container.ready && state.is_some_and(|s| s.running.is_some()) {
            has_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && has_running {
        let ready = has_condition(pod, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn how_it_ended(terminated: &ContainerStateTerminated) -> String {
    match (terminated.reason.as_deref(), terminated.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", terminated.exit_code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(init: usize, deleting: bool, status: Value) -> Vec<String> {
        let container = |i: usize| json!({"name": format!("c{i}"), "image": "a"});
        let mut pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [container(0), container(1)],
                "initContainers": (10..10 + init).map(container).collect::<Vec<_>>()},
            "status": status});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let cells = cells(&pod, "2026-01-01T00:05:00Z".parse().unwrap());
        cells[1..4].iter().map(|c| c.0.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn containers_are_summed_up() {
        let running = || json!({"running": {}});
        let status = |name: &str, ready: bool, restarts: i32, state: Value| json!({"name": name, "ready": ready, "restartCount": restarts, "image": "", "imageID": "", "state": state});
        let of = |statuses: Vec<Value>| json!({"phase": "Running", "containerStatuses": statuses});
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let mut restarted = status("c0", true, 3, running());
        restarted["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}});
        let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [status("c10", false, 0, state)]});
        let ended = |state: Value| json!({"terminated": state});
        for (init_count, deleting, pod, wanted) in [
            (0, false, json!({"phase": "Pending"}), ["0/2", "Pending", "0"]),
            (
                0,
                false,
                of(vec![status("c0", true, 2, running()), status("c1", false, 3, crash.clone())]),
                ["1/2", "CrashLoopBackOff", "5"],
            ),
            (
                0,
                false,
                of(vec![restarted, status("c1", true, 0, running())]),
                ["2/2", "Running", "3 (5m ago)"],
            ),
            (
                0,
                false,
                of(vec![
                    status("c0", false, 2, ended(json!({"exitCode": 3}))),
                    status("c1", false, 0, ended(json!({"exitCode": 0, "signal": 9}))),
                ]),
                ["0/2", "ExitCode:3", "2"],
            ),
            (
                0,
                false,
                of(vec![
                    status("c0", false, 0, ended(json!({"exitCode": 0, "reason": "Completed"}))),
                    status("c1", true, 0, running()),
                ]),
                ["1/2", "NotReady", "0"],
            ),
            (0, false, json!({"phase": "Failed", "reason": "Evicted"}), ["0/2", "Evicted", "0"]),
            (0, true, json!({"phase": "Running"}), ["0/2", "Terminating", "0"]),
            (0, true, json!({"phase": "Running", "reason": "NodeLost"}), ["0/2", "Unknown", "0"]),
            (2, false, init(running()), ["0/2", "Init:0/2", "0"]),
            (2, false, init(ended(json!({"exitCode": 1, "reason": "Error"}))), ["0/2", "Init:Error", "0"]),
            (2, false, init(crash), ["0/2", "Init:CrashLoopBackOff", "0"]),
        ] {
            assert_eq!(row(init_count, deleting, pod), wanted);
        }
    }
}
