//! StatefulSets: pods with names that stay, one after the other, each with claims of its own.
//!
//! Reads StatefulSets, pods, claims and ControllerRevisions; creates and deletes pods, creates claims
//! and ties them to set or pod as the retention policy says; alone writes the set's status. A pod that
//! is deleted is waited for: there are never two of one name. Nothing is kept in memory; each step is
//! taken when the cache shows the one before.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Reason, Revision};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use crate::caches::{Caches, settle};
use crate::owner::{claim, concerned, key_of, settle_claims};
use crate::revisions::{History, Revisioned, forget_old, settle_history};
use plan::{Plan, Step, View};

impl Revisioned for StatefulSet {
    const REVISION_LABEL: &'static str = "controller.kubernetes.io/hash";

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

struct StatefulSets {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.stateful_sets, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let sets = caches.stateful_sets.clone();
    feed(&caches.pods, &queue, scope, move |change| {
        concerned::<StatefulSet>(change, &sets, StatefulSet::selector)
    });
    let this = StatefulSets { client, caches: caches.clone(), recorder, clock };
    balsa_client::run(Arc::new(this), queue, 4, scope);
}

impl StatefulSets {
    fn tell(&self, set: &StatefulSet, type_: &'static str, reason: &str, message: String) {
        self.recorder.event(&reference_to(set), type_, reason, message);
    }

    /// The claims that a pod needs and that are not there yet.
    async fn create_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), Failure> {
        let api = self.client.api::<PersistentVolumeClaim>();
        let names = (identity::pod_name(set, ordinal), set.metadata.name.as_deref().unwrap_or_default());
        let mut latest = Revision::default();
        for claim in identity::claims(set, ordinal) {
            let key = key_of(&claim.metadata);
            if self.caches.claims.get(&key).is_some() {
                continue;
            }
            match api.create(&claim).await {
                Ok(created) => {
                    latest = latest.max(created.revision());
                    let message = format!(
                        "create Claim {} Pod {} in StatefulSet {} success",
                        key.name, names.0, names.1
                    );
                    self.tell(set, "Normal", "SuccessfulCreate", message);
                }
                Err(failure) if failure.reason == Reason::AlreadyExists => {}
                Err(failure) => {
                    let message = format!(
                        "create Claim {} for Pod {} in StatefulSet {} failed error: {failure}",
                        key.name, names.0, names.1
                    );
                    self.tell(set, "Warning", "FailedCreate", message);
                    return Err(failure);
                }
            }
        }
        settle(&self.caches.claims, latest).await;
        Ok(())
    }

    /// Ties the claims of an ordinal to whoever takes them along, as the retention policy says.
    async fn tie_claims(
        &self,
        set: &StatefulSet,
        ordinal: i32,
        pod: Option<&Pod>,
        condemned: bool,
    ) -> Result<(), Failure> {
        let api = self.client.api::<PersistentVolumeClaim>();
        for wanted in identity::claims(set, ordinal) {
            let key = key_of(&wanted.metadata);
            let Some(object) = self.caches.claims.get(&key) else { continue };
            let Some(mut claim) = object.to_typed::<PersistentVolumeClaim>() else { continue };
            if identity::tie(&mut claim, set, pod, condemned) {
                let written = api.modify(&key, Part::Main, |claim| identity::tie(claim, set, pod, condemned));
                if let Some(written) = written.await? {
                    settle(&self.caches.claims, written.revision()).await;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, ordinal: i32, pod: &Pod) -> Result<(), Failure> {
        self.create_claims(set, ordinal).await?;
        self.tie_claims(set, ordinal, None, false).await?;
        let (pod_name, name) =
            (identity::pod_name(set, ordinal), set.metadata.name.as_deref().unwrap_or_default());
        match self.client.api::<Pod>().create(pod).await {
            Ok(created) => {
                let message = format!("create Pod {pod_name} in StatefulSet {name} successful");
                self.tell(set, "Normal", "SuccessfulCreate", message);
                settle(&self.caches.pods, created.revision()).await;
                Ok(())
            }
            Err(failure) => {
                let message = format!("create Pod {pod_name} in StatefulSet {name} failed error: {failure}");
                self.tell(set, "Warning", "FailedCreate", message);
                Err(failure)
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod, condemned: bool) -> Result<(), Failure> {
        if condemned {
            self.tie_claims(set, identity::ordinal_of(set, &pod.metadata).unwrap_or(0), Some(pod), true)
                .await?;
        }
        let key = key_of(&pod.metadata);
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match self.client.api::<Pod>().delete_in_background(&key, uid).await {
            Ok(()) => {
                let message = format!("delete Pod {} in StatefulSet {name} successful", key.name);
                self.tell(set, "Normal", "SuccessfulDelete", message);
                Ok(())
            }
            Err(failure) => {
                let message =
                    format!("delete Pod {} in StatefulSet {name} failed error: {failure}", key.name);
                self.tell(set, "Warning", "FailedDelete", message);
                Err(failure)
            }
        }
    }

    async fn carry_out(&self, set: &StatefulSet, plan: &Plan) -> Result<(), Failure> {
        for step in &plan.steps {
            match step {
                Step::Create(ordinal, pod) => self.create(set, *ordinal, pod).await?,
                Step::CreateClaims(ordinal) => self.create_claims(set, *ordinal).await?,
                Step::Delete { pod, condemned } => self.delete(set, pod, *condemned).await?,
                Step::Recreate(pod) => {
                    let message = format!(
                        "StatefulSet {} is recreating {} Pod {}",
                        key_of(&set.metadata),
                        if crate::pods::phase(pod) == "Failed" { "failed" } else { "succeeded" },
                        pod.metadata.name.as_deref().unwrap_or_default()
                    );
                    self.tell(set, "Warning", "RecreatingTerminatedPod", message);
                    self.delete(set, pod, false).await?;
                }
            }
        }
        for (ordinal, pod) in &plan.standing {
            self.tie_claims(set, *ordinal, Some(pod), false).await?;
        }
        Ok(())
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Failure> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        let written = self.client.api::<StatefulSet>().update(&changed, Part::Status).await?;
        settle(&self.caches.stateful_sets, written.revision()).await;
        Ok(())
    }

    async fn run(&self, key: &Key, set: &StatefulSet) -> Result<Next, Failure> {
        let history: History = settle_history(&self.client, &self.caches.controller_revisions, set).await?;
        let mut claims = claim(&set.metadata, &set.selector(), self.caches.pods.list_in(&key.namespace));
        // Orphans with a name that this set would not give are somebody else's.
        claims.adopt.retain(|object| identity::ordinal_of(set, object.meta()).is_some());
        let children = settle_claims::<StatefulSet, Pod>(&self.client, set, claims).await?;
        let pods: Vec<Arc<Pod>> = children.iter().filter_map(|child| child.typed()).collect();
        let now = self.clock.now();
        let plan = plan::plan(&View { set, history: &history, pods: &pods, now });
        let outcome = self.carry_out(set, &plan).await;
        self.write_status(set, plan.status).await?;
        outcome?;
        forget_old(&self.client, set, &history, |revision| {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            plan.current_revision == name || pods.iter().any(|pod| identity::revision_of(pod) == name)
        })
        .await?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

#[async_trait]
impl Reconciler for StatefulSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "statefulset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.stateful_sets.get(key) else { return Ok(Next::Wait) };
        let Some(set) = object.typed::<StatefulSet>() else { return Ok(Next::Wait) };
        self.run(key, &set).await
    }
}
