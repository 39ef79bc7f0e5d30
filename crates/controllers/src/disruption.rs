//! Disruption budgets: how many of the pods they select may go just now.
//!
//! Reads budgets, pods and the workloads above them; alone writes the budgets' status, but for
//! `disruptedPods`, to which whoever evicts adds the pods that are on their way out. A pod that is listed
//! there and does not go within two minutes counts again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, feed};
use balsa_model::kinds::check::scaled;
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::caches::{Caches, settle};
use crate::owner::controller_of;
use crate::pods;

/// How long an evicted pod may take until it is seen to go.
const PATIENCE: i64 = 120;

struct Disruption {
    client: Client,
    caches: Caches,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.disruption_budgets, &queue, scope, |change| change.new.as_ref().map(|o| o.key().clone()));
    let budgets = caches.disruption_budgets.clone();
    feed(&caches.pods, &queue, scope, move |change| {
        let objects: Vec<_> = [&change.old, &change.new].into_iter().flatten().cloned().collect();
        let namespace = change.object().map(|object| object.key().namespace.clone()).unwrap_or_default();
        let all = budgets.list_in(&namespace);
        let meant = all.into_iter().filter(move |budget| {
            let selector = budget.typed().map(|budget| selector(&budget));
            objects.iter().any(|pod| selector.as_ref().is_some_and(|s| s.matches(pod.meta().labels.as_ref())))
        });
        meant.map(|budget| budget.key().clone()).collect::<Vec<_>>()
    });
    let this = Disruption { client, caches: caches.clone(), clock };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

/// An empty selector means every pod of the namespace, an absent one none.
fn selector(budget: &PodDisruptionBudget) -> LabelSelector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector
        .and_then(|selector| LabelSelector::from_meta(selector).ok())
        .unwrap_or_else(LabelSelector::nothing)
}

/// What was counted.
#[derive(Debug, Default, PartialEq)]
struct Counted {
    expected: i32,
    desired: i32,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
}

/// How many pods there should be, and how many of them healthy. `scales` are the sizes of the workloads
/// above the pods; `None` when some pod has none.
fn expectation(
    spec: &PodDisruptionBudgetSpec,
    there: i32,
    scales: Option<i32>,
) -> Result<(i32, i32), String> {
    let unmanaged = "found no controllers for some of the pods";
    if let Some(most) = &spec.max_unavailable {
        let expected = scales.ok_or(unmanaged)?;
        let missing = scaled(most, expected, true).ok_or("maxUnavailable is not readable")?;
        return Ok((expected, (expected - missing).max(0)));
    }
    let least = match &spec.min_available {
        None => return Ok((there, 0)),
        Some(least) => least,
    };
    let is_percentage = matches!(least, k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_));
    let expected = if is_percentage { scales.ok_or(unmanaged)? } else { there };
    let desired = scaled(least, expected, true).ok_or("minAvailable is not readable")?;
    Ok((expected, desired))
}

/// The pods that were evicted and may still be seen to go.
fn still_disrupted(
    before: Option<&BTreeMap<String, Time>>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let there = |name: &str| {
        pods.iter().any(|pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.deletion_timestamp.is_none()
        })
    };
    let fresh = |since: &Time| now.duration_since(since.0).as_secs() < PATIENCE;
    let entries = before.into_iter().flatten().filter(|(name, since)| there(name) && fresh(since));
    entries.map(|(name, since)| (name.clone(), since.clone())).collect()
}

fn healthy(pods: &[Arc<Pod>], disrupted: &BTreeMap<String, Time>) -> i32 {
    let counts = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none()
            && !disrupted.contains_key(pod.metadata.name.as_deref().unwrap_or_default())
            && pods::is_ready(pod)
    };
    i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

fn status_of(
    budget: &PodDisruptionBudget,
    counted: Result<Counted, String>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let before = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let (counted, status, reason, message) = match counted {
        Ok(counted) if counted.healthy > counted.desired && counted.expected > 0 => {
            (counted, "True", "SufficientPods", String::new())
        }
        Ok(counted) => (counted, "False", "InsufficientPods", String::new()),
        Err(message) => (Counted::default(), "False", "SyncFailed", message),
    };
    let mut conditions = before.conditions.unwrap_or_default();
    let same = conditions.iter().find(|c| c.type_ == "DisruptionAllowed" && c.status == status);
    let since = same.map_or(Time(now), |same| same.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    });
    let allowed = if status == "True" { counted.healthy - counted.desired } else { 0 };
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: counted.healthy,
        desired_healthy: counted.desired,
        disrupted_pods: (!counted.disrupted.is_empty()).then_some(counted.disrupted),
        disruptions_allowed: allowed,
        expected_pods: counted.expected,
        observed_generation: generation,
    }
}

impl Disruption {
    /// The sizes of all workloads above the pods, each once; `None` when some pod has none.
    fn scales(&self, pods: &[Arc<Pod>]) -> Option<i32> {
        let mut seen = BTreeSet::new();
        let mut total = 0_i32;
        for pod in pods {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let mut meta = pod.metadata.clone();
            let mut scale = None;
            // Up to the top: a ReplicaSet's Deployment says how many there should be.
            while let Some(owner) = controller_of(&meta).cloned() {
                let kind = balsa_model::kinds::by_api_version(&owner.api_version, &owner.kind)?;
                let object =
                    self.caches.of(kind.stored())?.get(&Key::new(namespace.as_str(), owner.name.as_str()))?;
                if object.uid() != owner.uid {
                    break;
                }
                if let Some(found) = object.decode().and_then(|decoded| decoded.scale()) {
                    scale = Some((owner.uid.clone(), found.replicas));
                }
                meta = object.meta().clone();
            }
            let (uid, replicas) = scale?;
            if seen.insert(uid) {
                total = total.saturating_add(replicas);
            }
        }
        Some(total)
    }

    fn count(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Result<Counted, String> {
        let spec = budget.spec.clone().unwrap_or_default();
        let there = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let (expected, desired) = expectation(&spec, there, self.scales(pods))?;
        let before = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
        let disrupted = still_disrupted(before, pods, now);
        Ok(Counted { expected, desired, healthy: healthy(pods, &disrupted), disrupted })
    }
}

#[async_trait]
impl Reconciler for Disruption {
    type Key = Key;

    fn name(&self) -> &'static str {
        "disruption"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.disruption_budgets.get(key) else { return Ok(Next::Wait) };
        let Some(budget) = object.typed::<PodDisruptionBudget>() else { return Ok(Next::Wait) };
        let selector = selector(&budget);
        let objects = self.caches.pods.list_in(&key.namespace);
        let selected = objects.iter().filter(|pod| selector.matches(pod.meta().labels.as_ref()));
        let pods: Vec<Arc<Pod>> =
            selected.filter_map(|object| object.typed()).filter(|pod| !pods::is_terminal(pod)).collect();
        let now = self.clock.now_seconds();
        let status = status_of(&budget, self.count(&budget, &pods, now), now);
        let waits = status.disrupted_pods.is_some();
        if budget.status.as_ref() != Some(&status) {
            let mut changed = PodDisruptionBudget::clone(&budget);
            changed.status = Some(status);
            let written = self.client.api::<PodDisruptionBudget>().update(&changed, Part::Status).await?;
            settle(&self.caches.disruption_budgets, written.revision()).await;
        }
        Ok(if waits { Next::After(Duration::from_secs(10)) } else { Next::Wait })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodDisruptionBudgetSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_expected() {
        for (value, there, scales, expected) in [
            (json!({"minAvailable": 2}), 3, None, Ok((3, 2))),
            (json!({"minAvailable": "50%"}), 3, Some(5), Ok((5, 3))),
            (json!({"maxUnavailable": 1}), 3, Some(5), Ok((5, 4))),
            (json!({"maxUnavailable": "30%"}), 3, Some(5), Ok((5, 3))),
            (
                json!({"maxUnavailable": 1}),
                3,
                None,
                Err("found no controllers for some of the pods".to_owned()),
            ),
        ] {
            assert_eq!(expectation(&spec(value.clone()), there, scales), expected, "{value}");
        }
    }

    #[test]
    fn evicted_pods_count_no_more_for_a_while() {
        let now: Timestamp = "2025-01-01T01:00:00Z".parse().unwrap();
        let pod = |name: &str| {
            let pod = json!({"metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let all = [pod("a"), pod("b"), pod("c")];
        let at = |text: &str| Time(text.parse().unwrap());
        let before: BTreeMap<String, Time> = [
            ("a".to_owned(), at("2025-01-01T00:59:00Z")),
            ("b".to_owned(), at("2025-01-01T00:50:00Z")),
            ("gone".to_owned(), at("2025-01-01T00:59:59Z")),
        ]
        .into();
        let disrupted = still_disrupted(Some(&before), &all, now);
        assert_eq!(disrupted.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(healthy(&all, &disrupted), 2);
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {"generation": 2}, "spec": {"minAvailable": 1}}))
                .unwrap();
        let counted = Counted { expected: 3, desired: 1, healthy: 2, disrupted };
        let status = status_of(&budget, Ok(counted), now);
        assert_eq!((status.disruptions_allowed, status.observed_generation), (1, Some(2)));
        assert_eq!(status.conditions.unwrap()[0].reason, "SufficientPods");
        let status = status_of(&budget, Err("why".to_owned()), now);
        assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
    }
}
