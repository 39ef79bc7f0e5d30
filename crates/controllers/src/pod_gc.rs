//! Pods that nobody else clears away: on nodes that are gone, deleted before they had a node, or ended
//! and too many.
//!
//! Reads pods and nodes; deletes pods at once, without grace. One key, looked at in a slow period and
//! when a node goes. What is in memory is disposable: since when each node has been missing, so that
//! one that is just being replaced costs no pods.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::kinds::pod::set_disrupted;
use balsa_model::strategy::DeleteOptions;
use balsa_model::{Failure, Key, Object};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::ControllerConfig;
use crate::caches::{Caches, every};
use crate::index::{Index, feed_indexed};
use crate::owner::key_of;
use crate::pods;
use crate::taint_eviction::Homes;

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whole;

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cluster")
    }
}

struct PodGc {
    client: Client,
    caches: Caches,
    homes: Homes,
    /// Pods that have ended.
    ended: Index<()>,
    clock: Clock,
    grace: Duration,
    ended_pods: usize,
    missing: Mutex<HashMap<String, Timestamp>>,
}

/// Starts the controller.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    homes: Homes,
    clock: Clock,
    config: &ControllerConfig,
    scope: &Scope,
) {
    let queue: Queue<Whole> = Queue::new();
    feed(&caches.nodes, &queue, scope, |change| change.new.is_none().then_some(Whole));
    let has_ended = |object: &Object| object.is(pods::is_terminal).then_some(()).into_iter().collect();
    let ended = feed_indexed(&caches.pods, &queue, scope, has_ended, |_| None);
    every(config.node_period * 4, &queue, scope, || [Whole]);
    let this = PodGc {
        client,
        caches: caches.clone(),
        homes,
        ended,
        clock,
        grace: config.node_grace,
        ended_pods: config.ended_pods,
        missing: Mutex::default(),
    };
    balsa_client::run(Arc::new(this), queue, 1, scope);
}

/// The pods to delete: those on a node that `is_gone`, those that are to go and have no node, and the
/// oldest ended ones beyond `keep`.
fn plan(all: &[Arc<Pod>], is_gone: impl Fn(&str) -> bool, keep: usize) -> Vec<&Pod> {
    let mut doomed = Vec::new();
    let mut ended = Vec::new();
    for pod in all {
        let node = pods::node_name(pod);
        let unbound = node.is_empty() && pod.metadata.deletion_timestamp.is_some();
        if unbound || (!node.is_empty() && is_gone(node)) {
            doomed.push(&**pod);
        } else if pods::is_terminal(pod) {
            ended.push(&**pod);
        }
    }
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let surplus = ended.len().saturating_sub(keep);
    doomed.extend(ended.into_iter().take(surplus));
    doomed
}

impl PodGc {
    /// The nodes that pods name, are not there, and have been missing for long enough; and whether
    /// there are some that have not.
    fn gone(&self) -> (Vec<String>, bool) {
        let now = self.clock.now();
        let mut missing = self.missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_missing = |name: &str| self.caches.nodes.get(&Key::new("", name)).is_none();
        missing.retain(|name, _| is_missing(name));
        for node in self.homes.values() {
            if is_missing(&node) {
                missing.entry(node).or_insert(now);
            }
        }
        let grace = i64::try_from(self.grace.as_secs()).unwrap_or(i64::MAX);
        let long = |since: &Timestamp| now.duration_since(*since).as_secs() >= grace;
        let gone: Vec<String> =
            missing.iter().filter(|(_, since)| long(since)).map(|(name, _)| name.clone()).collect();
        let pending = gone.len() < missing.len();
        (gone, pending)
    }

    /// The pods that may be among those to delete, when these nodes are gone. There are few of them beside those
    /// that stay, which nobody decodes here.
    fn candidates(&self, gone: &[String]) -> Vec<Arc<Pod>> {
        let mut keys: BTreeSet<Key> = gone.iter().flat_map(|node| self.homes.get(node)).collect();
        let deleting = self.caches.pods.list().into_iter().filter(|object| object.is_deleting());
        keys.extend(deleting.map(|object| object.key().clone()));
        let ended = self.ended.get(&());
        if ended.len() > self.ended_pods {
            keys.extend(ended);
        }
        keys.iter().filter_map(|key| self.caches.pods.get(key)?.typed()).collect()
    }

    async fn delete(&self, pod: &Pod) -> Result<(), Failure> {
        let (key, now) = (key_of(&pod.metadata), self.clock.now_seconds());
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        let mark = |pod: &mut Pod| mark_failed(pod, now);
        self.client.api::<Pod>().mark_and_delete(&key, uid, mark, options).await?;
        metrics::counter!("pod_gc_collector_force_delete_pods_total").increment(1);
        Ok(())
    }
}

/// Whoever watches the pod learns that it did not end well.
fn mark_failed(pod: &mut Pod, now: Timestamp) -> bool {
    pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
    set_disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists", now);
    true
}

#[async_trait]
impl Reconciler for PodGc {
    type Key = Whole;

    fn name(&self) -> &'static str {
        "pod_gc"
    }

    async fn reconcile(&self, _key: &Whole) -> Result<Next, Failure> {
        let (gone, pending) = self.gone();
        for pod in plan(&self.candidates(&gone), |node| gone.iter().any(|name| name == node), self.ended_pods)
        {
            self.delete(pod).await?;
        }
        Ok(if pending { Next::After(self.grace.min(Duration::from_secs(5))) } else { Next::Wait })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_cleared_away() {
        let pod = |name: &str, node: &str, phase: &str, age: i64, deleting: bool| {
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}}))
            .unwrap();
            pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(100 - age).unwrap()));
            pod.metadata.deletion_timestamp = deleting.then_some(Time(Timestamp::UNIX_EPOCH));
            Arc::new(pod)
        };
        let all = [
            pod("runs", "here", "Running", 1, false),
            pod("lost", "gone", "Running", 1, false),
            pod("waits", "", "Pending", 1, false),
            pod("never-ran", "", "Pending", 1, true),
            pod("leaves", "here", "Running", 1, true),
            pod("ended-early", "here", "Succeeded", 9, false),
            pod("ended-late", "here", "Failed", 1, false),
        ];
        let doomed = plan(&all, |node| node == "gone", 1);
        let names: Vec<_> = doomed.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["lost", "never-ran", "ended-early"]);
    }
}
