//! Statuses on their way to the server: the latest of each pod, written when it differs.
//!
//! Actors put statuses up and never wait. Writers take pods one by one, so many changes of one pod in
//! quick succession become one write. Where no server answers they try again until one does; a pod
//! whose end was reported is then deleted, under the precondition that it is still the same pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_client::{Client, Queue};
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Failure, Key, Reason};
use balsa_rt::{Scope, TaskKind};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use crate::pod::conditions::OWN_CONDITIONS;

/// Writes under way at a time.
const WRITERS: usize = 8;
/// Between two tries of a write that failed.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Posted {
    key: Key,
    status: PodStatus,
    /// The pod has ended and its object may go.
    delete: bool,
}

/// The statuses of this node's pods.
pub(crate) struct StatusBoard {
    client: Client,
    posted: Mutex<HashMap<String, Posted>>,
    queue: Queue<String>,
}

impl StatusBoard {
    /// A board with its writers, which end with the scope.
    pub(crate) fn start(client: Client, scope: &Scope) -> Arc<Self> {
        let board = Arc::new(Self { client, posted: Mutex::default(), queue: Queue::new() });
        for _ in 0..WRITERS {
            let (board, token) = (board.clone(), scope.token());
            scope.spawn(TaskKind::Agent, async move {
                loop {
                    let uid = tokio::select! {
                        () = token.cancelled() => return,
                        uid = board.queue.next() => uid,
                    };
                    board.work(uid).await;
                }
            });
        }
        board
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Posted>> {
        self.posted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts up a status. `delete`: it is the last one, and the object may go after it.
    pub(crate) fn post(&self, uid: &str, key: Key, status: PodStatus, delete: bool) {
        let mut posted = self.lock();
        if let Some(before) = posted.get(uid)
            && before.status == status
            && before.delete == delete
        {
            return;
        }
        posted.insert(uid.to_owned(), Posted { key, status, delete });
        drop(posted);
        self.queue.add(uid.to_owned());
    }

    /// The status put up last.
    pub(crate) fn last(&self, uid: &str) -> Option<PodStatus> {
        self.lock().get(uid).map(|posted| posted.status.clone())
    }

    /// The object is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    async fn work(&self, uid: String) {
        let posted = self.lock().get(&uid).cloned();
        let outcome = match posted {
            Some(posted) => self.write(&uid, &posted).await,
            None => Ok(()),
        };
        self.queue.done(&uid);
        if let Err(failure) = outcome {
            tracing::debug!(uid, %failure, "status not written; will try again");
            self.queue.add_after(uid, RETRY);
        }
    }

    async fn write(&self, uid: &str, posted: &Posted) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let written = api
            .modify(&posted.key, Part::Status, |pod| {
                let old = pod.status.clone().unwrap_or_default();
                if pod.metadata.uid.as_deref() != Some(uid)
                    || is_terminal(&old) && !is_terminal(&posted.status)
                {
                    return false;
                }
                let merged = merge(&old, &posted.status);
                let changed = merged != old;
                pod.status = Some(merged);
                changed
            })
            .await;
        match written {
            Ok(_) => {}
            Err(failure) if matches!(failure.reason, Reason::NotFound) => return Ok(()),
            // What a server will never take must not keep the pod from going.
            Err(failure) if matches!(failure.reason, Reason::Invalid | Reason::BadRequest) => {
                tracing::warn!(pod = %posted.key, %failure, "status refused");
            }
            Err(failure) => return Err(failure),
        }
        if posted.delete {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            api.delete(&posted.key, uid, options).await?;
        }
        Ok(())
    }
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Ours, with the conditions and fields that others write as they are now.
fn merge(old: &PodStatus, ours: &PodStatus) -> PodStatus {
    let is_ours = |condition: &&PodCondition| OWN_CONDITIONS.contains(&condition.type_.as_str());
    let mut conditions: Vec<PodCondition> =
        ours.conditions.iter().flatten().filter(is_ours).cloned().collect();
    for condition in &mut conditions {
        let before = old.conditions.iter().flatten().find(|old| old.type_ == condition.type_);
        if let Some(before) = before.filter(|before| before.status == condition.status) {
            condition.last_transition_time.clone_from(&before.last_transition_time);
        }
    }
    conditions.extend(old.conditions.iter().flatten().filter(|condition| !is_ours(condition)).cloned());
    PodStatus {
        conditions: Some(conditions),
        start_time: old.start_time.clone().or_else(|| ours.start_time.clone()),
        qos_class: old.qos_class.clone(),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        resize: old.resize.clone(),
        observed_generation: old.observed_generation,
        ..ours.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_write_is_kept() {
        let old: PodStatus = serde_json::from_value(json!({
            "qosClass": "Burstable", "startTime": "2020-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                           {"type": "DisruptionTarget", "status": "True"}],
        }))
        .unwrap();
        let ours: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "startTime": "2021-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2021-01-01T00:00:00Z"}],
        }))
        .unwrap();
        let merged = merge(&old, &ours);
        assert_eq!(merged.qos_class.as_deref(), Some("Burstable"));
        assert_eq!(merged.start_time, old.start_time);
        assert_eq!(merged.conditions, old.conditions);
        assert_eq!(merge(&merged, &ours), merged, "written once");
    }
}
