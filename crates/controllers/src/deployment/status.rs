//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure in
//! Kubernetes' reasons and words, which `kubectl rollout status` reads. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::amount;
use super::scale::size;

const PROGRESSING: &str = "Progressing";
const DONE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The conditions as this run leaves them.
pub(super) struct Conditions(Vec<DeploymentCondition>);

impl Conditions {
    /// As they are.
    pub(super) fn of(deployment: &Deployment) -> Self {
        Self(deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default())
    }

    /// As a status carries them.
    pub(super) fn list(&self) -> Option<Vec<DeploymentCondition>> {
        (!self.0.is_empty()).then(|| self.0.clone())
    }

    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.0.iter().find(|condition| condition.type_ == type_)
    }

    fn remove(&mut self, type_: &str) {
        self.0.retain(|condition| condition.type_ != type_);
    }

    /// Sets a condition unless it says the same already.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String, now: Timestamp) {
        let before = self.get(type_);
        if before.is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
            return;
        }
        self.replace(type_, status, reason, message, now);
    }

    /// Sets a condition and the time of its last update.
    fn replace(&mut self, type_: &str, status: &str, reason: &str, message: String, now: Timestamp) {
        let same = self.get(type_).filter(|before| before.status == status);
        let since = same.and_then(|before| before.last_transition_time.clone()).unwrap_or(Time(now));
        self.remove(type_);
        self.0.push(DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
            last_update_time: Some(Time(now)),
        });
    }
}

/// The progress deadline, unless there is none.
fn deadline(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| i64::from(seconds))
}

/// What the sets report, added up.
pub(super) fn count(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSet) -> Option<i32>| sets.iter().filter_map(of).sum::<i32>();
    let available = sum(&|set| set.status.as_ref()?.available_replicas);
    let asked: i32 = sets.iter().map(size).sum();
    let updated = new.and_then(|new| sets[new].status.as_ref()).map_or(0, |status| status.replicas);
    let positive = |number: i32| (number > 0).then_some(number);
    let before = deployment.status.as_ref();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(sum(&|set| Some(set.status.as_ref()?.replicas))),
        updated_replicas: positive(updated),
        ready_replicas: positive(sum(&|set| set.status.as_ref()?.ready_replicas)),
        available_replicas: positive(available),
        unavailable_replicas: positive(asked - available),
        terminating_replicas: before.and_then(|status| status.terminating_replicas),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: None,
    }
}

/// Whether every pod is a new one, and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = amount::wanted(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let updated = |status: &DeploymentStatus| status.updated_replicas.unwrap_or(0);
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - updated(status);
    updated(after) > updated(before)
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

/// Judges the progress; answers when the deadline passes.
pub(super) fn judge(
    deployment: &Deployment,
    status: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    conditions: &mut Conditions,
    now: Timestamp,
) -> Option<Duration> {
    let Some(deadline) = deadline(deployment) else {
        conditions.remove(PROGRESSING);
        return None;
    };
    let name = new.and_then(|set| set.metadata.name.as_deref());
    let subject = match name {
        Some(set) => format!("ReplicaSet \"{set}\""),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let reason = conditions.get(PROGRESSING).and_then(|condition| condition.reason.clone());
    let settled = reason.as_deref() == Some(DONE) && status.replicas == status.updated_replicas;
    let before = deployment.status.clone().unwrap_or_default();
    if settled {
        return None;
    }
    if is_complete(deployment, status) {
        conditions.set(PROGRESSING, "True", DONE, format!("{subject} has successfully progressed."), now);
        return None;
    }
    if has_progressed(&before, status) {
        conditions.replace(
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
            now,
        );
        return Some(seconds(deadline + 1));
    }
    let condition = conditions.get(PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(DONE | LATE)) {
        return None;
    }
    let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
    let left = deadline - now.duration_since(since).as_secs();
    if left < 0 {
        conditions.set(PROGRESSING, "False", LATE, format!("{subject} has timed out progressing."), now);
        return None;
    }
    Some(seconds(left + 1))
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Whether enough pods are available.
pub(super) fn note_availability(
    deployment: &Deployment,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    now: Timestamp,
) {
    let least = amount::wanted(deployment) - amount::max_unavailable(deployment);
    let (status, reason, word) = if status.available_replicas.unwrap_or(0) >= least {
        ("True", "MinimumReplicasAvailable", "has")
    } else {
        ("False", "MinimumReplicasUnavailable", "does not have")
    };
    conditions.set("Available", status, reason, format!("Deployment {word} minimum availability."), now);
}

/// Whether a set cannot create or delete pods; the new one's trouble comes first.
pub(super) fn note_failures(
    sets: &[ReplicaSet],
    new: Option<usize>,
    conditions: &mut Conditions,
    now: Timestamp,
) {
    let failure = |set: &ReplicaSet| {
        let all = set.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True").cloned()
    };
    let first = new.and_then(|new| failure(&sets[new])).or_else(|| sets.iter().find_map(failure));
    match first {
        Some(found) => {
            let (reason, message) = (found.reason.unwrap_or_default(), found.message.unwrap_or_default());
            conditions.set("ReplicaFailure", "True", &reason, message, now);
        }
        None => conditions.remove("ReplicaFailure"),
    }
}

/// A pause stops the progress deadline; the end of it starts the count anew.
pub(super) fn note_pause(deployment: &Deployment, conditions: &mut Conditions, paused: bool, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = conditions.get(PROGRESSING).and_then(|condition| condition.reason.as_deref());
    let was_paused = reason == Some(PAUSED);
    if reason == Some(LATE) {
        return;
    }
    if paused && !was_paused {
        conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned(), now);
    } else if !paused && was_paused {
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now);
    }
}

/// The rollout of a new template starts.
pub(super) fn note_created(deployment: &Deployment, set: &str, conditions: &mut Conditions, now: Timestamp) {
    if deadline(deployment).is_some() {
        let message = format!("Created new replica set \"{set}\"");
        conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", message, now);
    }
}

/// The set of the present template was there already.
pub(super) fn note_found(deployment: &Deployment, set: &str, conditions: &mut Conditions, now: Timestamp) {
    if deadline(deployment).is_some() && conditions.get(PROGRESSING).is_none() {
        let message = format!("Found new replica set \"{set}\"");
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", message, now);
    }
}

/// The server refused the new set.
pub(super) fn create_failed(deployment: &mut Deployment, why: &str, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let mut conditions = Conditions::of(deployment);
    conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", why.to_owned(), now);
    deployment.status.get_or_insert_default().conditions = conditions.list();
}
