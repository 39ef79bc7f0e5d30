//! Nodes that fall silent count as dead: their conditions become Unknown, their pods not ready, and
//! taints say so to the scheduler and to whoever evicts.
//!
//! Reads nodes, leases and pods; writes conditions of silent nodes, the taints that follow from a
//! node's conditions, and the Ready condition of pods on dead nodes. What is in memory is disposable:
//! when each node was last heard of, by this server's clock, so that a node's wrong clock is no matter
//! and a new leader gives every node a full period.

mod plan;

pub(crate) use plan::{NOT_READY, UNREACHABLE};

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::kinds::node;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ControllerConfig;
use crate::caches::{Caches, every, settle};
use crate::pods;
use crate::taint_eviction::Homes;

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

/// The last sign of life of a node, and when we saw it.
#[derive(Clone, Debug, PartialEq)]
struct Heard {
    sign: Option<Timestamp>,
    at: Timestamp,
}

struct NodeLifecycle {
    client: Client,
    caches: Caches,
    homes: Homes,
    recorder: Recorder,
    clock: Clock,
    grace: Duration,
    heard: Mutex<HashMap<Key, Heard>>,
}

/// Starts the controller.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    homes: Homes,
    recorder: Recorder,
    clock: Clock,
    config: &ControllerConfig,
    scope: &Scope,
) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.nodes, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let nodes = caches.nodes.clone();
    every(config.node_period, &queue, scope, move || {
        nodes.list().into_iter().map(|o| o.key().clone()).collect::<Vec<_>>()
    });
    let this = NodeLifecycle {
        client,
        caches: caches.clone(),
        homes,
        recorder,
        clock,
        grace: config.node_grace,
        heard: Mutex::default(),
    };
    balsa_client::run(Arc::new(this), queue, 4, scope);
}

impl NodeLifecycle {
    /// Tells of a node that this controller has not seen before.
    fn greet(&self, key: &Key, node: &Node) {
        if self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains_key(key) {
            return;
        }
        let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
        self.recorder.event(&reference_to(node), "Normal", "RegisteredNode", message);
    }

    /// How long a node has been silent.
    fn silence(&self, key: &Key, node: &Node) -> Duration {
        let lease = self.caches.leases.get(&Key::new(LEASES, key.name.clone()));
        let lease = lease.and_then(|object| object.typed::<Lease>());
        let renewed = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
        // Conditions that we have written ourselves are no sign of life.
        let ready = node::condition(node, "Ready").filter(|condition| condition.status != "Unknown");
        let beat = ready.and_then(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0);
        let sign = renewed.max(beat);
        let now = self.clock.now();
        let mut heard = self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = heard.entry(key.clone()).or_insert_with(|| Heard { sign, at: now });
        if sign > last.sign {
            *last = Heard { sign, at: now };
        }
        now.duration_since(last.at).try_into().unwrap_or_default()
    }

    async fn mark_silent(&self, node: &Node) -> Result<Option<Node>, Failure> {
        let Some(changed) = plan::silent(node, self.clock.now_seconds()) else { return Ok(None) };
        let written = self.client.api::<Node>().update(&changed, Part::Status).await?;
        settle(&self.caches.nodes, written.revision()).await;
        Ok(written.to_typed::<Node>())
    }

    async fn taint(&self, node: &Node) -> Result<(), Failure> {
        let wanted = plan::taints(node, self.clock.now_seconds());
        if wanted == node::taints(node) {
            return Ok(());
        }
        let mut changed = node.clone();
        changed.spec.get_or_insert_default().taints = (!wanted.is_empty()).then_some(wanted);
        let written = self.client.api::<Node>().update(&changed, Part::Main).await?;
        settle(&self.caches.nodes, written.revision()).await;
        Ok(())
    }

    /// Nobody can ask the pods of a silent node, so nobody sends them traffic.
    async fn mark_pods(&self, node: &str) -> Result<(), Failure> {
        let now = Time(self.clock.now_seconds());
        for key in self.homes.get(&node.to_owned()) {
            let Some(object) = self.caches.pods.get(&key).filter(|pod| pod.is(pods::is_ready)) else {
                continue;
            };
            let api = self.client.api::<Pod>();
            api.modify(&key, Part::Status, |pod: &mut Pod| plan::not_ready(pod, &now)).await?;
            let about = balsa_client::events::reference_of(&object);
            self.recorder.event(&about, "Warning", "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for NodeLifecycle {
    type Key = Key;

    fn name(&self) -> &'static str {
        "node_lifecycle"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.nodes.get(key) else {
            self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
            return Ok(Next::Wait);
        };
        let Some(mut node) = object.to_typed::<Node>() else { return Ok(Next::Wait) };
        self.greet(key, &node);
        if self.silence(key, &node) >= self.grace
            && let Some(silent) = self.mark_silent(&node).await?
        {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.recorder.event(&reference_to(&silent), "Normal", "NodeNotReady", message);
            node = silent;
        }
        self.taint(&node).await?;
        if node::condition(&node, "Ready").is_some_and(|condition| condition.status == "Unknown") {
            self.mark_pods(&key.name).await?;
        }
        Ok(Next::Wait)
    }
}
