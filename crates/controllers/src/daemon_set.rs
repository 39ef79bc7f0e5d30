//! DaemonSets: one pod of a template on every node that will have it.
//!
//! Reads DaemonSets, nodes, pods and ControllerRevisions; creates and deletes pods, each tied to its
//! node by an affinity that the scheduler honours; alone writes the set's status. Creations and
//! deletions: `pod_control`. A failed pod is replaced no sooner than some time after it was made, which
//! is in the pod itself, so that a new leader does not hurry.

mod nodes;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Changed, Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Object};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};

use crate::caches::{Caches, settle};
use crate::owner::{claim, concerned, settle_claims};
use crate::pod_control::PodControl;
use crate::revisions::{Revisioned, forget_old, hash_of, settle_history};
use plan::View;

impl Revisioned for DaemonSet {
    const REVISION_LABEL: &'static str = crate::revisions::HASH_LABEL;

    fn selector(&self) -> LabelSelector {
        let selector = self.spec.as_ref().and_then(|spec| LabelSelector::from_meta(&spec.selector).ok());
        selector.filter(|selector| !selector.selects_all()).unwrap_or_else(LabelSelector::nothing)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }

    fn collide(&mut self) {
        let status = self.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    }

    fn history_limit(&self) -> usize {
        let limit = self.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        usize::try_from(limit).unwrap_or(0)
    }
}

struct DaemonSets {
    client: Client,
    caches: Caches,
    pods: PodControl,
    recorder: Recorder,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.daemon_sets, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let sets = caches.daemon_sets.clone();
    feed(&caches.pods, &queue, scope, move |change| {
        concerned::<DaemonSet>(change, &sets, DaemonSet::selector)
    });
    let sets = caches.daemon_sets.clone();
    feed(&caches.nodes, &queue, scope, move |change| {
        let all = if matters(change) { sets.list() } else { Vec::new() };
        all.into_iter().map(|set| set.key().clone())
    });
    let pods = PodControl::new(client.clone(), caches.pods.clone(), recorder.clone());
    let this = DaemonSets { client, caches: caches.clone(), pods, recorder, clock };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

/// Whether a change of a node may change where daemons run. Most are its heartbeat.
fn matters(change: &Changed) -> bool {
    let typed = |object: &Option<Arc<Object>>| object.as_ref().and_then(|object| object.typed::<Node>());
    match (typed(&change.old), typed(&change.new)) {
        (Some(old), Some(new)) => old.spec != new.spec || old.metadata.labels != new.metadata.labels,
        _ => true,
    }
}

impl DaemonSets {
    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Failure> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        let written = self.client.api::<DaemonSet>().update(&changed, Part::Status).await?;
        settle(&self.caches.daemon_sets, written.revision()).await;
        Ok(())
    }

    async fn run(&self, key: &Key, set: &DaemonSet) -> Result<Next, Failure> {
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let history = settle_history(&self.client, &self.caches.controller_revisions, set).await?;
        let hash = hash_of::<DaemonSet>(&history.update);
        let claims = claim(&set.metadata, &set.selector(), self.pods.candidates(&key.namespace));
        let children = settle_claims::<DaemonSet, Pod>(&self.client, set, claims).await?;
        let doomed = self.pods.doomed(key, &children);
        let pods: Vec<Arc<Pod>> = children.iter().filter_map(|child| child.typed()).collect();
        let objects = self.caches.nodes.list();
        let nodes: Vec<Arc<Node>> = objects.iter().filter_map(|object| object.typed()).collect();
        let view =
            View { set, hash: &hash, nodes: &nodes, pods: &pods, doomed: &doomed, now: self.clock.now() };
        let plan = plan::plan(&view);
        for (node, pod) in &plan.failed {
            let message = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
            self.recorder.event(&reference_to(set), "Warning", "FailedDaemonPod", message);
        }
        let new = plan.create.iter().map(|node| nodes::pod_for(set, node, &hash));
        let created = self.pods.create(set, new).await;
        let deleted = self.pods.delete(set, key, &plan.delete).await;
        self.write_status(set, plan.status).await?;
        created?;
        deleted?;
        forget_old(&self.client, set, &history, |revision| {
            let hash = hash_of::<DaemonSet>(revision);
            pods.iter().any(|pod| plan::hash_of_pod(pod) == hash)
        })
        .await?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

#[async_trait]
impl Reconciler for DaemonSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "daemonset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.daemon_sets.get(key) else {
            self.pods.forget(key);
            return Ok(Next::Wait);
        };
        let Some(set) = object.typed::<DaemonSet>() else { return Ok(Next::Wait) };
        self.run(key, &set).await
    }
}
