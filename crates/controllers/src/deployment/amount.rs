//! How many pods a Deployment wants, and how many more or fewer it tolerates while it rolls.

use balsa_model::kinds::check::scaled;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many pods it wants.
pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}

fn strategy(deployment: &Deployment) -> Option<&DeploymentStrategy> {
    deployment.spec.as_ref()?.strategy.as_ref()
}

/// Whether all old pods go before the first new one comes.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    strategy(deployment).and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// In pods, of `total`; what is not given is the default.
fn resolve(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let quarter = IntOrString::String("25%".to_owned());
    scaled(value.unwrap_or(&quarter), total, up).unwrap_or(0).max(0)
}

/// `(maxSurge, maxUnavailable)` in pods. Both zero would stand still: then one may be missing.
fn limits(deployment: &Deployment) -> (i32, i32) {
    let rolling = strategy(deployment).and_then(|s| s.rolling_update.as_ref());
    let total = wanted(deployment);
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods there may be beyond those wanted.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { limits(deployment).0 }
}

/// How many of those wanted may be unavailable.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = wanted(deployment);
    if is_recreate(deployment) || total == 0 { 0 } else { limits(deployment).1.min(total) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        for (replicas, surge, unavailable, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (3, json!(0), json!("10%"), (0, 1)),
            (3, json!(2), json!(5), (2, 3)),
            (0, json!(1), json!(1), (1, 0)),
        ] {
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": {},
                "spec": {"replicas": replicas, "selector": {}, "template": {},
                         "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
            }))
            .unwrap();
            assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected);
        }
    }
}
