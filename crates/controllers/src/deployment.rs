//! Deployments: roll pods from one template to the next through ReplicaSets.
//!
//! Reads Deployments, ReplicaSets and (for Recreate) pods; creates, scales and deletes ReplicaSets;
//! alone writes the Deployment's status and its revision annotation. Each run takes at most one step
//! and waits until the cache shows it. Nothing is kept in memory: what limits (the progress deadline)
//! counts from a condition in the status, so a new leader goes on where the old one was. A second call
//! without a change does nothing. Rolling back is kubectl's: it puts an older template back.

mod amount;
mod plan;
mod revision;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Object, Reason};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use crate::caches::{Caches, settle};
use crate::owner::{claim, concerned, controller_of, controller_uid, key_of, settle_claims};
use crate::pods;
use plan::{Plan, View};

struct Deployments {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.deployments, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let deployments = caches.deployments.clone();
    feed(&caches.replica_sets, &queue, scope, move |change| {
        concerned::<Deployment>(change, &deployments, selector)
    });
    let sets = caches.replica_sets.clone();
    // Recreate waits for the last old pod to be gone.
    feed(&caches.pods, &queue, scope, move |change| {
        let pod = change.old.as_ref().filter(|_| change.new.is_none())?;
        let set =
            sets.get(&Key::new(pod.key().namespace.clone(), controller_of(pod.meta())?.name.as_str()))?;
        let name = controller_of(set.meta())?.name.as_str();
        Some(Key::new(pod.key().namespace.clone(), name))
    });
    let this = Deployments { client, caches: caches.clone(), recorder, clock };
    balsa_client::run(Arc::new(this), queue, 4, scope);
}

fn selector(deployment: &Deployment) -> LabelSelector {
    let selector = deployment.spec.as_ref().and_then(|spec| LabelSelector::from_meta(&spec.selector).ok());
    selector.filter(|selector| !selector.selects_all()).unwrap_or_else(LabelSelector::nothing)
}

impl Deployments {
    /// The UIDs of those of the `sets` that have pods which may still run.
    fn running(&self, namespace: &str, sets: &[Arc<Object>]) -> HashSet<String> {
        let sets: HashSet<&str> = sets.iter().map(|set| set.uid()).collect();
        let pods = self.caches.pods.list_in(namespace);
        let theirs = pods.iter().filter(|pod| sets.contains(controller_uid(pod.meta())));
        let running = theirs.filter(|object| object.is(|pod| !pods::is_terminal(pod)));
        running.map(|pod| controller_uid(pod.meta()).to_owned()).collect()
    }

    async fn carry_out(&self, deployment: &Deployment, plan: &Plan) -> Result<(), Failure> {
        if let Some(set) = &plan.create {
            self.create(deployment, set).await?;
        }
        for (set, from) in &plan.updates {
            self.scale(deployment, set, *from).await?;
        }
        for set in &plan.deletes {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            self.client.api::<ReplicaSet>().delete_in_background(&key_of(&set.metadata), uid).await?;
        }
        self.write_status(deployment, plan).await
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Failure> {
        match self.client.api::<ReplicaSet>().create(set).await {
            Ok(created) => {
                let replicas = scale::size(set);
                if replicas > 0 {
                    let message =
                        format!("Scaled up replica set {} from 0 to {replicas}", created.key().name);
                    self.recorder.event(&reference_to(deployment), "Normal", "ScalingReplicaSet", message);
                }
                settle(&self.caches.replica_sets, created.revision()).await;
                Ok(())
            }
            Err(failure) if failure.reason == Reason::AlreadyExists => self.collide(deployment, set).await,
            Err(failure) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Failed to create new replica set \"{name}\": {failure}");
                self.recorder.event(&reference_to(deployment), "Warning", "ReplicaSetCreateError", &message);
                let mut failed = deployment.clone();
                status::create_failed(&mut failed, &failure.message, self.clock.now_seconds());
                self.client.api::<Deployment>().update(&failed, Part::Status).await?;
                Err(failure)
            }
        }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by another template with
    /// the same hash, and then the next hash is another.
    async fn collide(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Failure> {
        let found = self.client.api::<ReplicaSet>().get(&key_of(&set.metadata)).await?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let ours = controller_uid(found.meta()) == uid
            && found.is(|found| revision::same_template(deployment, found));
        if ours {
            settle(&self.caches.replica_sets, found.revision()).await;
            return Ok(());
        }
        let mut changed = deployment.clone();
        let status = changed.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        let written = self.client.api::<Deployment>().update(&changed, Part::Status).await?;
        settle(&self.caches.deployments, written.revision()).await;
        Err(Failure::conflict(found.kind().descriptor(), &found.key().name, "the template's hash is taken"))
    }

    async fn scale(&self, deployment: &Deployment, set: &ReplicaSet, from: i32) -> Result<(), Failure> {
        let written = self.client.api::<ReplicaSet>().update(set, Part::Main).await?;
        let to = scale::size(set);
        if to != from {
            let way = if to > from { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {} from {from} to {to}", written.key().name);
            self.recorder.event(&reference_to(deployment), "Normal", "ScalingReplicaSet", message);
        }
        settle(&self.caches.replica_sets, written.revision()).await;
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, plan: &Plan) -> Result<(), Failure> {
        let mut changed = deployment.clone();
        changed.status = Some(plan.status.clone());
        if let Some(number) = &plan.revision {
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.to_owned(), number.clone());
        }
        if changed == *deployment {
            return Ok(());
        }
        let part = if changed.metadata == deployment.metadata { Part::Status } else { Part::Whole };
        let written = self.client.api::<Deployment>().update(&changed, part).await?;
        settle(&self.caches.deployments, written.revision()).await;
        Ok(())
    }

    async fn run(&self, key: &Key, deployment: &Deployment) -> Result<Next, Failure> {
        let candidates = self.caches.replica_sets.list_in(&key.namespace);
        let claims = claim(&deployment.metadata, &selector(deployment), candidates);
        let owned: Vec<Arc<Object>> =
            settle_claims::<_, ReplicaSet>(&self.client, deployment, claims).await?;
        let sets: Vec<ReplicaSet> = owned.iter().filter_map(|o| o.to_typed::<ReplicaSet>()).collect();
        let running = if amount::is_recreate(deployment) {
            self.running(&key.namespace, &owned)
        } else {
            HashSet::new()
        };
        let now = self.clock.now_seconds();
        let plan = plan::plan(View { deployment, sets, running: &running, now });
        self.carry_out(deployment, &plan).await?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

#[async_trait]
impl Reconciler for Deployments {
    type Key = Key;

    fn name(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.deployments.get(key) else { return Ok(Next::Wait) };
        let Some(deployment) = object.typed::<Deployment>() else { return Ok(Next::Wait) };
        self.run(key, &deployment).await
    }
}
