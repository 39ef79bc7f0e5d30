//! Evicts pods from nodes whose NoExecute taints they do not tolerate, or no longer.
//!
//! Reads nodes and pods; deletes pods, with their own grace. When the time runs out is counted from
//! the taint's own time, so a new leader counts on; of a taint without one, from when it was seen first. Which pods are on which node it has from an index,
//! as do others that ask for it. While no node at all is ready it is more likely the
//! control plane that is cut off: then nobody is evicted from silent nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::events::reference_of;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::kinds::{node, pod};
use balsa_model::strategy::DeleteOptions;
use balsa_model::{Failure, Key, Object};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ControllerConfig;
use crate::caches::Caches;
use crate::index::{Index, feed_indexed};
use crate::node_lifecycle::{NOT_READY, UNREACHABLE};

/// Pods by the node that they are bound to.
pub(crate) type Homes = Index<String>;

struct TaintEviction {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    clock: Clock,
    period: Duration,
    homes: Homes,
    /// Taints of nodes, since when they are there.
    seen: Mutex<HashMap<Key, Vec<Taint>>>,
}

/// Starts the controller; answers where pods are.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    recorder: Recorder,
    clock: Clock,
    config: &ControllerConfig,
    scope: &Scope,
) -> Homes {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.nodes, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let homes = feed_indexed(&caches.pods, &queue, scope, home, |change| {
        let homes = change.new.as_deref().map(home).unwrap_or_default();
        homes.into_iter().map(|node| Key::new("", node))
    });
    let this = TaintEviction {
        client,
        caches: caches.clone(),
        recorder,
        clock,
        period: config.node_period,
        homes: homes.clone(),
        seen: Mutex::default(),
    };
    balsa_client::run(Arc::new(this), queue, 4, scope);
    homes
}

/// The node of a pod that has one.
fn home(object: &Object) -> Vec<String> {
    let pod = object.typed::<Pod>();
    pod.and_then(|pod| pod::node_name(&pod).map(str::to_owned)).into_iter().collect()
}

/// When a pod that is there since `began` must leave a node with these taints; `None`: it may stay.
fn leaves_at(
    taints: &[Taint],
    tolerations: &[Toleration],
    began: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let mut matching =
            tolerations.iter().filter(|toleration| node::tolerates(toleration, taint)).peekable();
        let since = taint.time_added.as_ref().map_or(now, |time| time.0).max(began);
        let at = if matching.peek().is_none() {
            Some(since.min(now))
        } else {
            // The shortest of those with a limit counts, as one without would be no limit at all.
            let seconds = matching.filter_map(|toleration| toleration.toleration_seconds).min();
            seconds.map(|seconds| {
                since.saturating_add(jiff::SignedDuration::from_secs(seconds.max(0))).unwrap_or(now)
            })
        };
        earliest = match (earliest, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    earliest
}

/// NoExecute taints with the time since when they are there: their own, or, of those that were written without one, as
/// kubectl does, when they were seen first.
fn dated(taints: &[Taint], seen: &[Taint], now: Timestamp) -> Vec<Taint> {
    let lasting = taints.iter().filter(|taint| taint.effect == "NoExecute").cloned();
    let date = |mut taint: Taint| {
        let same = |seen: &&Taint| seen.key == taint.key && seen.value == taint.value;
        let first = || seen.iter().find(same).and_then(|seen| seen.time_added.clone()).or(Some(Time(now)));
        taint.time_added = taint.time_added.clone().or_else(first);
        taint
    };
    lasting.map(date).collect()
}

/// Since when a pod is on its node.
fn began(pod: &Pod) -> Timestamp {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0)
}

impl TaintEviction {
    /// The taints of a node, as they have been seen.
    fn taints(&self, key: &Key, node: &Node) -> Vec<Taint> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.remove(key).unwrap_or_default();
        let taints = dated(node::taints(node), &before, self.clock.now());
        if !taints.is_empty() {
            seen.insert(key.clone(), taints.clone());
        }
        taints
    }

    fn forget(&self, key: &Key) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn is_cut_off(&self, taints: &[Taint]) -> bool {
        taints.iter().any(|taint| taint.key == NOT_READY || taint.key == UNREACHABLE)
            && !self.caches.nodes.list().iter().any(|object| object.is(node::is_ready))
    }

    /// Deletes the pod if its time is up; how long until then.
    async fn judge(&self, key: &Key, taints: &[Taint]) -> Result<Option<Duration>, Failure> {
        let Some(object) = self.caches.pods.get(key).filter(|object| !object.is_deleting()) else {
            return Ok(None);
        };
        let Some(pod) = object.typed::<Pod>().filter(|pod| !pod::is_terminal(pod)) else { return Ok(None) };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let now = self.clock.now();
        let Some(at) = leaves_at(taints, tolerations, began(&pod), now) else { return Ok(None) };
        if at > now {
            return Ok(Some(now.duration_until(at).try_into().unwrap_or_default()));
        }
        let (api, now) = (self.client.api::<Pod>(), self.clock.now_seconds());
        let why = "Taint manager: deleting due to NoExecute taint";
        let mark = |pod: &mut Pod| pod::set_disrupted(pod, "DeletionByTaintManager", why, now);
        api.mark_and_delete(key, object.uid(), mark, DeleteOptions::default()).await?;
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event(&reference_of(&object), "Normal", "TaintManagerEviction", message);
        metrics::counter!("taint_eviction_controller_pod_deletions_total").increment(1);
        Ok(None)
    }
}

#[async_trait]
impl Reconciler for TaintEviction {
    type Key = Key;

    fn name(&self) -> &'static str {
        "taint_eviction"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.nodes.get(key) else {
            self.forget(key);
            return Ok(Next::Wait);
        };
        let Some(node) = object.typed::<Node>() else { return Ok(Next::Wait) };
        let taints = self.taints(key, &node);
        if taints.is_empty() {
            return Ok(Next::Wait);
        }
        if self.is_cut_off(&taints) {
            return Ok(Next::After(self.period));
        }
        let mut soonest: Option<Duration> = None;
        for pod in self.homes.get(&key.name.to_string()) {
            let left = self.judge(&pod, &taints).await?;
            soonest = soonest.into_iter().chain(left).min();
        }
        // Looked at again in the ordinary period at the latest: the clock of a test runs by itself.
        Ok(soonest.map_or(Next::Wait, |left| Next::After(left.min(self.period))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn when_pods_leave() {
        let taint: Taint = serde_json::from_value(
            json!({"key": NOT_READY, "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:00Z"}),
        )
        .unwrap();
        let now: Timestamp = "2025-01-01T00:00:10Z".parse().unwrap();
        for (tolerations, expected) in [
            (json!([]), Some(0)),
            (json!([{"key": "other", "operator": "Exists"}]), Some(0)),
            (json!([{"operator": "Exists"}]), None),
            (json!([{"key": NOT_READY, "operator": "Exists", "tolerationSeconds": 300}]), Some(300)),
            (json!([{"key": NOT_READY, "operator": "Exists", "tolerationSeconds": 0}]), Some(0)),
        ] {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            let at = leaves_at(std::slice::from_ref(&taint), &tolerations, Timestamp::MIN, now);
            let seconds = at.map(|at| at.duration_since(taint.time_added.as_ref().unwrap().0).as_secs());
            assert_eq!(seconds, expected);
        }
        let tolerations = [Toleration {
            operator: Some("Exists".to_owned()),
            toleration_seconds: Some(60),
            ..Toleration::default()
        }];
        let began: Timestamp = "2025-01-01T00:00:05Z".parse().unwrap();
        let at = leaves_at(&[taint], &tolerations, began, now);
        assert_eq!(at, Some("2025-01-01T00:01:05Z".parse().unwrap()), "it came to a node that had the taint");
    }

    #[test]
    fn a_taint_without_a_time_is_counted_from_when_it_was_seen() {
        let taint =
            |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = dated(&[taint("a"), Taint { effect: "NoSchedule".to_owned(), ..taint("b") }], &[], at(5));
        let later = dated(&[taint("a"), taint("c")], &first, at(9));
        let told = |taints: &[Taint]| -> Vec<_> {
            let time = |t: &Taint| t.time_added.as_ref().unwrap().0.as_second();
            taints.iter().map(|taint| (taint.key.clone(), time(taint))).collect()
        };
        assert_eq!(told(&first), [("a".to_owned(), 5)]);
        assert_eq!(told(&later), [("a".to_owned(), 5), ("c".to_owned(), 9)]);
    }
}
