//! Evictions: deletions of pods that ask the disruption budgets first.
//!
//! A budget is charged before the pod goes, under the version that was read, so that two evictions
//! never share one disruption; its controller gives back what came to nothing.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use balsa_model::kind::{kind_of, to_value};
use balsa_model::kinds::pod::{is_terminal, set_disrupted};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Failure, Key, Object, Precondition, Reason};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{ResourceCall, body, respond};
use crate::authorize::Authorized;
use crate::engine::Engine;

/// The version of evictions that clients of old name.
const BETA: &str = "policy/v1beta1";
/// Of the condition of a pod that goes.
const REASON: &str = "EvictionByEvictionAPI";
const BLOCKED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
/// Evictions that a budget remembers at most: more means that its controller does not keep up.
const MAX_DISRUPTED: usize = 2000;
/// How often a budget that others charge too is read again.
const ATTEMPTS: usize = 8;

/// Serves `POST …/pods/NAME/eviction`.
pub(super) async fn serve(call: ResourceCall, body: Body) -> Result<Response, Failure> {
    let who = call.authorize("create")?;
    let bytes = body::read(body).await?;
    let (value, _) = body::parse(&call.call.headers, &bytes, "policy.v1.Eviction")?;
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let version = if version == BETA { BETA } else { "policy/v1" };
    body::require_type("Eviction", version, &value)?;
    body::require_name("Eviction", &call.path.name, &value)?;
    let dry_run = call.call.query.dry_run("CreateOptions")?
        || value.pointer("/deleteOptions/dryRun").and_then(Value::as_array).is_some_and(|a| !a.is_empty());
    let options = DeleteOptions {
        grace_period_seconds: value.pointer("/deleteOptions/gracePeriodSeconds").and_then(Value::as_i64),
        propagation: None,
    };
    let condition =
        |field: &str| value.pointer(&format!("/deleteOptions/preconditions/{field}")).and_then(Value::as_str);
    let precondition = Precondition {
        uid: condition("uid").map(str::to_owned),
        revision: condition("resourceVersion").and_then(|v| v.parse().ok()).map(balsa_model::Revision),
    };
    let engine = &call.call.front.engine;
    let (pods, key) = (kind_of::<Pod>(), call.key());
    let object =
        engine.state().get(pods, &key).ok_or_else(|| Failure::not_found(pods.descriptor(), &key.name))?;
    if let Some(pod) = object.typed::<Pod>().filter(|pod| counts(pod)) {
        charge(engine, &who, &object, &pod, dry_run).await?;
    }
    let precondition = if dry_run { precondition } else { marked(engine, &who, &key, precondition).await? };
    engine.delete(&who, pods, &key, &options, &precondition, dry_run).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &status))
}

/// Pods that are over, going, or have not begun yet are no loss.
fn counts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed" | "Pending" | "")
}

/// Says on the pod that it is evicted, before it goes; the condition under which it may be deleted then. Where
/// the given one does not hold nothing is said: the deletion will tell.
async fn marked(
    engine: &Engine,
    who: &Authorized,
    key: &Key,
    precondition: Precondition,
) -> Result<Precondition, Failure> {
    let pods = kind_of::<Pod>();
    let mut last = Failure::internal("no attempt was made");
    for _ in 0..ATTEMPTS {
        let Some(object) = engine.state().get(pods, key) else { return Ok(precondition) };
        let holds = precondition.uid.as_deref().is_none_or(|uid| uid == object.uid())
            && precondition.revision.is_none_or(|revision| revision == object.revision());
        let Some(mut pod) = object.to_typed::<Pod>().filter(|_| holds) else { return Ok(precondition) };
        let now = engine.clock().now_seconds();
        if is_terminal(&pod) || !set_disrupted(&mut pod, REASON, "Eviction API: evicting", now) {
            return Ok(precondition);
        }
        match engine.update(who, pods, key, Part::Status, to_value(&pod), false).await {
            // Its agent tells its status at any time.
            Err(failure) if failure.reason == Reason::Conflict => last = failure,
            Err(failure) => return Err(failure),
            Ok(written) => {
                let revision = precondition.revision.map(|_| written.object.revision());
                return Ok(Precondition { revision, ..precondition });
            }
        }
    }
    Err(last)
}

/// Takes one disruption from the budget of a pod, if it has one.
async fn charge(
    engine: &Engine,
    who: &Authorized,
    object: &Object,
    pod: &Pod,
    dry_run: bool,
) -> Result<(), Failure> {
    let mut last = Failure::internal("no attempt was made");
    for _ in 0..ATTEMPTS {
        let Some((key, budget)) = budget_of(engine, object)? else { return Ok(()) };
        if !judge(&key, &budget, pod)? {
            return Ok(());
        }
        let charged = charged(&budget, &object.key().name, engine.clock().now_seconds());
        let value = to_value(&charged);
        let kind = kind_of::<PodDisruptionBudget>();
        match engine.update(who, kind, &key, Part::Status, value, dry_run).await {
            Err(failure) if failure.reason == Reason::Conflict => last = failure,
            Err(failure) => return Err(failure),
            Ok(_) => return Ok(()),
        }
    }
    Err(last)
}

fn budget_of(engine: &Engine, pod: &Object) -> Result<Option<(Key, PodDisruptionBudget)>, Failure> {
    let view = engine.state().view(kind_of::<PodDisruptionBudget>());
    let selects = |budget: &PodDisruptionBudget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.and_then(|selector| LabelSelector::from_meta(selector).ok());
        selector.is_some_and(|selector| selector.matches(pod.meta().labels.as_ref()))
    };
    let budgets = view.list(&pod.key().namespace).filter_map(|object| {
        let budget = object.typed().filter(|budget| selects(budget))?;
        Some((object.key().clone(), Arc::unwrap_or_clone(budget)))
    });
    let mut found: Vec<_> = budgets.collect();
    if found.len() > 1 {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Failure::new(Reason::InternalError, why));
    }
    Ok(found.pop())
}

/// Whether an eviction is to be counted; a refusal when the budget does not allow it.
fn judge(key: &Key, budget: &PodDisruptionBudget, pod: &Pod) -> Result<bool, Failure> {
    let blocked = |why: String| Failure::new(Reason::TooManyRequests, BLOCKED).cause(CAUSE, why, "");
    let status = budget.status.clone().unwrap_or_default();
    if !is_ready(pod) {
        let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
        let enough = status.current_healthy >= status.desired_healthy && status.desired_healthy > 0;
        if policy == Some("AlwaysAllow") || enough {
            return Ok(false);
        }
    }
    if status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0) {
        let why = format!("The disruption budget {} is still being processed by the server.", key.name);
        return Err(blocked(why).retry_after(10));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Failure::forbidden(kind_of::<PodDisruptionBudget>().descriptor(), &key.name, why));
    }
    if status.disruptions_allowed <= 0 {
        return Err(blocked(format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            key.name, status.desired_healthy, status.current_healthy
        )));
    }
    Ok(true)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn charged(budget: &PodDisruptionBudget, pod: &str, now: jiff::Timestamp) -> PodDisruptionBudget {
    let mut budget = budget.clone();
    let status = budget.status.get_or_insert_default();
    status.disruptions_allowed -= 1;
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(now));
    budget
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i32, observed: i64) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 2},
            "status": {"disruptionsAllowed": allowed, "observedGeneration": observed,
                "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        }))
        .unwrap()
    }

    fn pod(ready: &str) -> Pod {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn budgets_allow_wait_or_refuse() {
        let key = Key::new("ns", "b");
        assert!(judge(&key, &budget(1, 2), &pod("True")).unwrap());
        let refused = judge(&key, &budget(0, 2), &pod("True")).unwrap_err();
        assert_eq!((refused.reason, refused.causes[0].reason.as_str()), (Reason::TooManyRequests, CAUSE));
        assert_eq!(
            refused.causes[0].message,
            "The disruption budget b needs 1 healthy pods and has 1 currently"
        );
        assert_eq!(judge(&key, &budget(1, 1), &pod("True")).unwrap_err().retry_after_seconds, 10);
        assert!(
            !judge(&key, &budget(0, 2), &pod("False")).unwrap(),
            "an unready pod of a healthy set may go"
        );
    }

    #[test]
    fn a_charge_is_remembered() {
        let charged = charged(&budget(1, 2), "p", jiff::Timestamp::UNIX_EPOCH);
        let status = charged.status.unwrap();
        assert_eq!(status.disruptions_allowed, 0);
        assert!(status.disrupted_pods.unwrap().contains_key("p"));
    }
}
