//! The caches that all controllers read: one informer a kind, started once for a term of leadership.

use balsa_client::{Client, Informer, Queue};
use balsa_model::kind::kind_of;
use balsa_model::selector::Filter;
use balsa_model::{Kind, KindRef, Revision};
use balsa_rt::{Scope, TaskKind};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::StorageClass;
use std::hash::Hash;
use std::time::Duration;

/// How long a run waits for the cache to show what it wrote, before it leaves that to the next run.
const SETTLE: Duration = Duration::from_secs(10);

/// One informer a kind. Cheap to clone. Events have none: nobody decides anything by them.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names are those of the kinds")]
pub struct Caches {
    pub pods: Informer,
    pub nodes: Informer,
    pub namespaces: Informer,
    pub replica_sets: Informer,
    pub replication_controllers: Informer,
    pub deployments: Informer,
    pub stateful_sets: Informer,
    pub daemon_sets: Informer,
    pub controller_revisions: Informer,
    pub jobs: Informer,
    pub cron_jobs: Informer,
    pub disruption_budgets: Informer,
    pub services: Informer,
    pub endpoints: Informer,
    pub endpoint_slices: Informer,
    pub config_maps: Informer,
    pub secrets: Informer,
    pub service_accounts: Informer,
    pub leases: Informer,
    pub volumes: Informer,
    pub claims: Informer,
    pub storage_classes: Informer,
    pub quotas: Informer,
    pub cluster_roles: Informer,
    pub autoscalers: Informer,
    pub ip_addresses: Informer,
    pub service_cidrs: Informer,
    pub flow_schemas: Informer,
    pub priority_levels: Informer,
    /// Every kind but Event, the above included.
    pub all: Vec<(KindRef, Informer)>,
}

impl Caches {
    /// Starts to fill them; they end with `scope`.
    pub fn start(client: &Client, scope: &Scope) -> Self {
        let start = |kind| Informer::start(client.backend().clone(), kind, Filter::everything(), scope);
        let mut all: Vec<(KindRef, Informer)> = Vec::new();
        for kind in balsa_model::kinds::all() {
            if *kind != kind_of::<Event>() {
                all.push((*kind, start(*kind)));
            }
        }
        Self {
            pods: pick::<Pod>(&mut all, &start),
            nodes: pick::<Node>(&mut all, &start),
            namespaces: pick::<Namespace>(&mut all, &start),
            replica_sets: pick::<ReplicaSet>(&mut all, &start),
            replication_controllers: pick::<ReplicationController>(&mut all, &start),
            deployments: pick::<Deployment>(&mut all, &start),
            stateful_sets: pick::<StatefulSet>(&mut all, &start),
            daemon_sets: pick::<DaemonSet>(&mut all, &start),
            controller_revisions: pick::<ControllerRevision>(&mut all, &start),
            jobs: pick::<Job>(&mut all, &start),
            cron_jobs: pick::<CronJob>(&mut all, &start),
            disruption_budgets: pick::<PodDisruptionBudget>(&mut all, &start),
            services: pick::<Service>(&mut all, &start),
            endpoints: pick::<Endpoints>(&mut all, &start),
            endpoint_slices: pick::<EndpointSlice>(&mut all, &start),
            config_maps: pick::<ConfigMap>(&mut all, &start),
            secrets: pick::<Secret>(&mut all, &start),
            service_accounts: pick::<ServiceAccount>(&mut all, &start),
            leases: pick::<Lease>(&mut all, &start),
            volumes: pick::<PersistentVolume>(&mut all, &start),
            claims: pick::<PersistentVolumeClaim>(&mut all, &start),
            storage_classes: pick::<StorageClass>(&mut all, &start),
            quotas: pick::<ResourceQuota>(&mut all, &start),
            cluster_roles: pick::<ClusterRole>(&mut all, &start),
            autoscalers: pick::<HorizontalPodAutoscaler>(&mut all, &start),
            ip_addresses: pick::<IPAddress>(&mut all, &start),
            service_cidrs: pick::<ServiceCIDR>(&mut all, &start),
            flow_schemas: pick::<FlowSchema>(&mut all, &start),
            priority_levels: pick::<PriorityLevelConfiguration>(&mut all, &start),
            all,
        }
    }

    /// Waits until all of them show what was there when they started. A controller that ran earlier
    /// would take objects that it has not heard of yet for missing.
    pub async fn synced(&self) {
        for (_, informer) in &self.all {
            informer.synced().await;
        }
    }

    /// The cache of a kind.
    pub fn of(&self, kind: KindRef) -> Option<&Informer> {
        self.all.iter().find(|(candidate, _)| *candidate == kind).map(|(_, informer)| informer)
    }
}

fn pick<K: Kind>(all: &mut Vec<(KindRef, Informer)>, start: &impl Fn(KindRef) -> Informer) -> Informer {
    let kind = kind_of::<K>();
    if let Some((_, informer)) = all.iter().find(|(candidate, _)| *candidate == kind) {
        return informer.clone();
    }
    let informer = start(kind);
    all.push((kind, informer.clone()));
    informer
}

/// Adds the keys that `keys` gives every `period`: what no signal has woken is looked at all the same.
pub(crate) fn every<K, I>(
    period: Duration,
    queue: &Queue<K>,
    scope: &Scope,
    keys: impl Fn() -> I + Send + 'static,
) where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: IntoIterator<Item = K> + Send,
    I::IntoIter: Send,
{
    let (queue, token) = (queue.clone(), scope.token());
    scope.spawn(TaskKind::Controller, async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = ticks.tick() => {}
            }
            for key in keys() {
                queue.add(key);
            }
        }
    });
}

/// Waits until `informer` shows a write, so that the next run does not do it again.
pub(crate) async fn settle(informer: &Informer, revision: Revision) {
    if tokio::time::timeout(SETTLE, informer.reached(revision)).await.is_err() {
        tracing::warn!(%revision, "a cache does not show what was written; going on without");
    }
}
