//! A pod's conditions from the states of its containers. Pure.

use balsa_model::kinds::pod::{IN_PROGRESS, PENDING};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::observed::{Role, init_containers};
use crate::pod::resize;
use crate::pod::status::{Facts, Statuses};

/// The conditions that a node writes; all others are somebody else's.
pub(crate) const OWN_CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    PENDING,
    IN_PROGRESS,
];

struct Verdict {
    type_: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Ours by what runs, with those that somebody else writes.
pub(super) fn conditions(
    facts: &Facts<'_>,
    old: &PodStatus,
    phase: &str,
    init: &Statuses,
    apps: &Statuses,
) -> Vec<PodCondition> {
    let succeeded = phase == "Succeeded";
    let ended = succeeded || phase == "Failed" || facts.terminated;
    let unready: Vec<&str> = apps
        .iter()
        .chain(
            init.iter()
                .zip(init_containers(facts.pod))
                .filter(|(_, (r, _))| *r == Role::Sidecar)
                .map(|(s, _)| s),
        )
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let uninitialized: Vec<&str> = init
        .iter()
        .zip(init_containers(facts.pod))
        .filter(|(status, (role, _))| match role {
            Role::Init => !status.ready,
            _ => status.started != Some(true),
        })
        .map(|(status, _)| status.name.as_str())
        .collect();
    let app_began = apps.iter().any(|status| status.container_id.is_some());
    let initialized = uninitialized.is_empty() || app_began || succeeded;
    let sandbox = facts.observed.sandbox().is_some() && !ended;
    let containers_ready = unready.is_empty() && !ended;
    let why = if succeeded {
        Some("PodCompleted")
    } else if phase == "Failed" {
        Some("PodFailed")
    } else {
        Some("ContainersNotReady")
    };
    let message = (!ended).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let gates = closed_gates(facts.pod, old);
    let (ready_reason, ready_message) = if containers_ready && !gates.is_empty() {
        (Some("ReadinessGatesNotReady"), Some(gates.join(", ")))
    } else {
        (why, message.clone())
    };
    let not_initialized = format!("containers with incomplete status: [{}]", uninitialized.join(" "));
    let ours = [
        Verdict { type_: "PodReadyToStartContainers", holds: sandbox, reason: None, message: None },
        Verdict {
            type_: "Initialized",
            holds: initialized,
            reason: if succeeded {
                Some("PodCompleted")
            } else {
                (!initialized).then_some("ContainersNotInitialized")
            },
            message: (!initialized).then_some(not_initialized),
        },
        Verdict {
            type_: "Ready",
            holds: containers_ready && gates.is_empty(),
            reason: ready_reason,
            message: ready_message,
        },
        Verdict { type_: "ContainersReady", holds: containers_ready, reason: why, message },
        Verdict { type_: "PodScheduled", holds: true, reason: None, message: None },
    ];
    let mut conditions = merge(ours, old, facts.now);
    if !ended {
        conditions.extend(resizing(facts, old));
    }
    conditions
}

/// What is said of a pod whose sizes are not those that it wants; nothing of all others.
fn resizing(facts: &Facts<'_>, old: &PodStatus) -> Vec<PodCondition> {
    let condition = |type_: &str, reason: Option<&str>, message: Option<&str>| {
        let before = old.conditions.iter().flatten().find(|before| before.type_ == type_);
        let since = before.filter(|before| before.reason.as_deref() == reason);
        PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            last_transition_time: since
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(facts.now))),
            ..PodCondition::default()
        }
    };
    let pending = facts.pending.map(|why| condition(PENDING, Some(why.reason), Some(&why.message)));
    let on_the_way = resize::in_progress(facts.pod, facts.observed, facts.memory);
    let on_the_way =
        on_the_way.map(|error| condition(IN_PROGRESS, error.as_ref().map(|_| "Error"), error.as_deref()));
    pending.into_iter().chain(on_the_way).collect()
}

fn closed_gates(pod: &Pod, old: &PodStatus) -> Vec<String> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let open = |type_: &str| {
        old.conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    gates
        .iter()
        .filter(|gate| !open(&gate.condition_type))
        .map(|gate| {
            format!("the status of pod readiness gate \"{}\" is not \"True\", but False", gate.condition_type)
        })
        .collect()
}

/// Keeps the time of conditions that did not change, and every condition that somebody else writes.
fn merge(ours: [Verdict; 5], old: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let known = old.conditions.as_deref().unwrap_or_default();
    let mut conditions: Vec<PodCondition> = Vec::with_capacity(5);
    for verdict in &ours {
        let status = if verdict.holds { "True" } else { "False" };
        let before = known.iter().find(|condition| condition.type_ == verdict.type_);
        let since = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone());
        // A completed pod's conditions hold their reason also where they are true.
        let tell = !verdict.holds || verdict.reason == Some("PodCompleted");
        conditions.push(PodCondition {
            type_: verdict.type_.to_owned(),
            status: status.to_owned(),
            last_transition_time: since.or(Some(Time(now))),
            reason: verdict.reason.filter(|_| tell).map(str::to_owned),
            message: verdict.message.clone().filter(|_| !verdict.holds),
            ..PodCondition::default()
        });
    }
    conditions.extend(known.iter().filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str())).cloned());
    conditions
}
