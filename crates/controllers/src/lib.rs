//! The controllers: each brings one thing closer to what is wanted, again and again.
//!
//! One controller a file. Each is a [`balsa_client::Reconciler`] on a keyed queue: it reads the shared
//! [`Caches`], computes a plan with a pure function and carries it out through the client, like
//! anybody else. They run in the server that leads; dropping the scope stops all of them, and whatever
//! they keep in memory can be thrown away.
//!
//! | file | what it keeps true |
//! | --- | --- |
//! | `replica_set`, `replication_controller` (core: `replicas`) | so many pods of a template |
//! | `deployment` | pods roll from one template to the next |
//! | `stateful_set` | pods with names and claims that stay |
//! | `daemon_set` | one pod on every node that will have it |
//! | `job`, `cron_job`, `ttl_after_finished` | pods that run to their end, at times, and go |
//! | `disruption` | how many pods may be evicted just now |
//! | `endpoint_slices`, `endpoints`, `endpoint_slice_mirroring` | what stands behind a Service |
//! | `ephemeral_volumes` | the claims of volumes that live as long as their pod |
//! | `namespace` | a namespace that is being deleted is emptied |
//! | `garbage_collector` | what has no owner left goes |
//! | `node_lifecycle`, `taint_eviction`, `pod_gc` | what becomes of dead nodes and their pods |
//! | `node_ipam` | each node has its range of pod addresses |
//! | `token_secrets` | Secrets that hold an account's token |
//! | `namespace_objects` | what every namespace has: its default account, the cluster's certificate |
//! | `volumes` | claims have volumes |
//! | `resource_quota` | quotas say what is used of them |
//! | `cluster_roles` | roles that are put together out of others |
//! | `ip_addresses` | whose an address of a Service is |
//! | `flow_schemas` | flow schemas say whether their level is missing; what every cluster must have is there |
//! | `horizontal_pod_autoscaler` | as many pods as what they use asks for |

mod caches;
mod cluster_roles;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_plan;
mod endpoint_slice_mirroring;
mod endpoint_slices;
mod endpoints;
mod ephemeral_volumes;
mod flow_schemas;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod index;
mod ip_addresses;
mod job;
mod namespace;
mod namespace_objects;
mod node_ipam;
mod node_lifecycle;
mod owner;
mod pod_control;
mod pod_gc;
mod pods;
mod replica_set;
mod replicas;
mod replication_controller;
mod resource_quota;
mod revisions;
mod stateful_set;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod stories;
mod taint_eviction;
pub mod token_secrets;
mod ttl_after_finished;
pub mod usage;
mod volumes;

pub use caches::Caches;

/// How long a node may be silent unless somebody says otherwise; Kubernetes' default.
pub const NODE_GRACE: Duration = Duration::from_secs(40);

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Client, Recorder};
use balsa_rt::{Clock, Scope, TaskKind};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;

/// What the controllers must be told.
#[derive(Clone)]
pub struct ControllerConfig {
    /// Where pod addresses come from; each node gets a part of it.
    pub cluster_cidr: Option<ipnet::IpNet>,
    /// How long a node may be silent before it counts as dead.
    pub node_grace: Duration,
    /// How often nodes are looked at.
    pub node_period: Duration,
    /// Ended pods beyond this number are deleted, the oldest first.
    pub ended_pods: usize,
    /// The certificate of the cluster's CA, for `kube-root-ca.crt`.
    pub root_ca: String,
    /// Where on a node the built-in provisioner puts its volumes.
    pub local_path_dir: String,
    /// Who knows what pods use; without, nothing is scaled by it.
    pub usage: Option<Arc<dyn usage::UsageSource>>,
    /// Who signs the tokens of Secrets; without, they stay empty.
    pub tokens: Option<Arc<dyn token_secrets::TokenSource>>,
}

impl std::fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("cluster_cidr", &self.cluster_cidr)
            .field("node_grace", &self.node_grace)
            .field("node_period", &self.node_period)
            .field("ended_pods", &self.ended_pods)
            .field("local_path_dir", &self.local_path_dir)
            .finish_non_exhaustive()
    }
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            cluster_cidr: None,
            node_grace: NODE_GRACE,
            node_period: Duration::from_secs(5),
            ended_pods: 12_500,
            root_ca: String::new(),
            local_path_dir: "/var/lib/balsa/local-path".to_owned(),
            usage: None,
            tokens: None,
        }
    }
}

/// Starts all controllers; they stop when `scope` ends. Nothing runs before the caches show all that
/// was there.
pub fn start(client: Client, clock: Clock, config: ControllerConfig, scope: &Scope) {
    let token = scope.token();
    scope.spawn(TaskKind::Controller, async move {
        let inner = Scope::under(&token);
        let caches = Caches::start(&client, &inner);
        tokio::select! {
            () = token.cancelled() => return,
            () = caches.synced() => {}
        }
        start_all(&client, &caches, &clock, &config, &inner);
        token.cancelled().await;
    });
}

fn start_all(client: &Client, caches: &Caches, clock: &Clock, config: &ControllerConfig, scope: &Scope) {
    let recorder = |component| Recorder::new(client.clone(), component, clock.clone());
    replicas::Replicas::<ReplicaSet>::start(
        client.clone(),
        caches.replica_sets.clone(),
        caches.pods.clone(),
        recorder("replicaset-controller"),
        clock.clone(),
        scope,
    );
    replicas::Replicas::<ReplicationController>::start(
        client.clone(),
        caches.replication_controllers.clone(),
        caches.pods.clone(),
        recorder("replication-controller"),
        clock.clone(),
        scope,
    );
    deployment::start(client.clone(), caches, recorder("deployment-controller"), clock.clone(), scope);
    stateful_set::start(client.clone(), caches, recorder("statefulset-controller"), clock.clone(), scope);
    daemon_set::start(client.clone(), caches, recorder("daemonset-controller"), clock.clone(), scope);
    job::start(client.clone(), caches, recorder("job-controller"), clock.clone(), scope);
    cron_job::start(client.clone(), caches, recorder("cronjob-controller"), clock.clone(), scope);
    ttl_after_finished::start(client.clone(), caches, clock.clone(), scope);
    disruption::start(client.clone(), caches, clock.clone(), scope);
    endpoint_slices::start(client.clone(), caches, scope);
    endpoints::start(client.clone(), caches, scope);
    endpoint_slice_mirroring::start(client.clone(), caches, scope);
    ephemeral_volumes::start(client.clone(), caches, recorder("ephemeral_volume"), scope);
    namespace::start(client.clone(), caches, clock.clone(), scope);
    garbage_collector::start(client.clone(), caches, scope);
    if let Some(cluster) = config.cluster_cidr {
        node_ipam::start(client.clone(), caches, recorder("cidrAllocator"), cluster, scope);
    }
    let eviction_recorder = recorder("taint-eviction-controller");
    let homes =
        taint_eviction::start(client.clone(), caches, eviction_recorder, clock.clone(), config, scope);
    let node_recorder = recorder("node-controller");
    node_lifecycle::start(client.clone(), caches, homes.clone(), node_recorder, clock.clone(), config, scope);
    pod_gc::start(client.clone(), caches, homes, clock.clone(), config, scope);
    namespace_objects::start(client.clone(), caches, config.root_ca.clone(), scope);
    if let Some(source) = &config.tokens {
        token_secrets::start(client.clone(), caches, source.clone(), config.root_ca.clone(), scope);
    }
    volumes::start(client.clone(), caches, recorder("persistentvolume-controller"), config, scope);
    resource_quota::start(client.clone(), caches, scope);
    cluster_roles::start(client.clone(), caches, scope);
    ip_addresses::start(client.clone(), caches, clock.clone(), scope);
    flow_schemas::start(client.clone(), caches, clock.clone(), scope);
    if let Some(usage) = &config.usage {
        let recorder = recorder("horizontal-pod-autoscaler");
        horizontal_pod_autoscaler::start(
            client.clone(),
            caches,
            usage.clone(),
            recorder,
            clock.clone(),
            scope,
        );
    }
}
