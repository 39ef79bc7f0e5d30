//! What the scheduler says about pods: Events, and the condition PodScheduled.

use std::sync::Arc;

use balsa_client::{Client, Recorder};
use balsa_model::Failure;
use balsa_model::kinds::pod;
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_rt::{Clock, Scope, TaskKind};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::needs::Needs;
use crate::preemption::Preemption;

/// Conditions written at a time.
const PARALLEL: usize = 16;

/// Says what was decided.
#[derive(Clone)]
pub(crate) struct Reporter {
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

impl Reporter {
    pub(crate) fn new(client: Client, recorder: Recorder, clock: Clock) -> Self {
        Self { client, recorder, clock }
    }

    /// A pod has its node.
    pub(crate) fn scheduled(&self, pod: &Needs, node: &str) {
        metrics::counter!("scheduler_schedule_attempts_total", "result" => "scheduled").increment(1);
        let message = format!("Successfully assigned {} to {node}", pod.key);
        self.recorder.event(&reference(pod), "Normal", "Scheduled", message);
    }

    /// Others make way for a pod: deletes them, and says so on all of them.
    pub(crate) fn preempt(&self, pod: &Arc<Needs>, preemption: Preemption, scope: &Scope) {
        let (this, pod) = (self.clone(), pod.clone());
        scope.spawn(TaskKind::Helper, async move {
            let Preemption { node, victims } = preemption;
            // The nomination is for people, and for the next leader: what it says is known here.
            let nominate = |current: &mut Pod| {
                let status = current.status.get_or_insert_default();
                let same = status.nominated_node_name.as_deref() == Some(node.as_str());
                status.nominated_node_name = Some(node.clone());
                !same && current.metadata.uid.as_deref() == Some(pod.uid.as_str())
            };
            if let Err(failure) = this.client.api::<Pod>().modify(&pod.key, Part::Status, nominate).await {
                tracing::debug!(pod = %pod.key, %failure, "nomination not written");
            }
            for victim in victims.into_iter().filter(|victim| !victim.leaving) {
                match this.remove(&victim).await {
                    Ok(()) => {
                        let message = format!("Preempted by pod {} on node {node}", pod.uid);
                        this.recorder.event(&reference(&victim), "Normal", "Preempted", message);
                    }
                    // It is tried again when the pod is.
                    Err(failure) => tracing::warn!(pod = %victim.key, %failure, "not preempted"),
                }
            }
        });
    }

    async fn remove(&self, victim: &Needs) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let (now, why) =
            (self.clock.now_seconds(), "default-scheduler: preempting to accommodate a higher priority pod");
        let mark = |pod: &mut Pod| pod::set_disrupted(pod, "PreemptionByScheduler", why, now);
        api.mark_and_delete(&victim.key, &victim.uid, mark, DeleteOptions::default()).await
    }

    /// These pods have none, and why.
    pub(crate) fn unschedulable(&self, pods: Vec<(Arc<Needs>, String)>, scope: &Scope) {
        if pods.is_empty() {
            return;
        }
        for (pod, message) in &pods {
            metrics::counter!("scheduler_schedule_attempts_total", "result" => "unschedulable").increment(1);
            self.recorder.event(&reference(pod), "Warning", "FailedScheduling", message.clone());
        }
        let (client, now) = (self.client.clone(), Time(self.clock.now_seconds()));
        scope.spawn(TaskKind::Helper, async move {
            let writes =
                pods.into_iter().map(|(pod, message)| write_condition(&client, pod, message, now.clone()));
            futures::stream::iter(writes).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
        });
    }
}

fn reference(pod: &Needs) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.to_string()),
        name: Some(pod.key.name.to_string()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

async fn write_condition(client: &Client, pod: Arc<Needs>, message: String, now: Time) {
    let api = client.api::<Pod>();
    let change = |current: &mut Pod| {
        let bound = current.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if bound || current.metadata.uid.as_deref() != Some(pod.uid.as_str()) {
            return false;
        }
        set_unschedulable(current, &message, &now)
    };
    // A condition that is not written is written with the next attempt.
    if let Err(failure) = api.modify(&pod.key, Part::Status, change).await {
        tracing::debug!(pod = %pod.key, %failure, "condition not written");
    }
}

/// Sets the condition; whether that changed anything.
fn set_unschedulable(pod: &mut Pod, message: &str, now: &Time) -> bool {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let at = conditions.iter().position(|condition| condition.type_ == "PodScheduled");
    let before = at.map(|at| &conditions[at]);
    if before.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(message)) {
        return false;
    }
    let since = before.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        ..PodCondition::default()
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    true
}
