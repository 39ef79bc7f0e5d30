//! How many pods there should be, by what they use: pure. The rules are those of Kubernetes' calculator:
//! pods that are just starting or have no numbers never make for more change than there would be without.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

/// How far usage may be off the target before anything changes.
const TOLERANCE: f64 = 0.1;
/// How long after its start a pod's processor use may be that of its start.
const INITIALIZING: Duration = Duration::from_secs(300);
/// How long after its start a pod that has never been ready may take for it.
const FIRST_READY: Duration = Duration::from_secs(30);
/// For how long fewer pods must have been enough, unless somebody says otherwise, in seconds.
const STABLE_DOWN: i32 = 300;

/// What is known of one pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) standing: Standing,
    /// What it uses; `None`: nobody knows.
    pub(super) used: Option<f64>,
    /// What it should use, in the same unit.
    pub(super) target: f64,
    /// What it is taken to use when nobody knows and it would be scaled down.
    pub(super) at_least: f64,
}

/// Whether a pod's numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They do.
    Ready,
    /// Not yet.
    Unready,
    /// It is on its way out.
    Ignored,
}

/// Where a pod stands; `measured` says when its use was measured and over how long.
pub(super) fn standing(
    pod: &Pod,
    of_cpu: bool,
    measured: Option<(Timestamp, Duration)>,
    now: Timestamp,
) -> Standing {
    if pod.metadata.deletion_timestamp.is_some() || pods::phase(pod) == "Failed" {
        return Standing::Ignored;
    }
    if pods::phase(pod) == "Pending" {
        return Standing::Unready;
    }
    let Some((at, window)) = measured.filter(|_| of_cpu) else { return Standing::Ready };
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let ready = pods::condition(pod, "Ready");
    let (Some(start), Some(ready)) = (start, ready) else { return Standing::Unready };
    let changed = ready.last_transition_time.as_ref().map_or(start, |time| time.0);
    let not_ready = ready.status == "False";
    let unready = if start + INITIALIZING > now {
        not_ready || at < changed + window
    } else {
        not_ready && start + FIRST_READY > changed
    };
    if unready { Standing::Unready } else { Standing::Ready }
}

/// How many pods there should be for these; with it what all that count use of their targets together.
///
/// # Errors
/// When of no pod the use is known.
pub(super) fn wanted(current: i32, samples: &[Sample]) -> Result<(i32, f64), &'static str> {
    let is = |standing| move |sample: &&Sample| sample.standing == standing;
    let known: Vec<(f64, f64)> = samples
        .iter()
        .filter(is(Standing::Ready))
        .filter_map(|sample| Some((sample.used?, sample.target)))
        .collect();
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)");
    }
    let ratio = ratio_of(&known);
    let missing: Vec<&Sample> =
        samples.iter().filter(is(Standing::Ready)).filter(|sample| sample.used.is_none()).collect();
    let unready: Vec<&Sample> = samples.iter().filter(is(Standing::Unready)).collect();
    let more_with_unready = !unready.is_empty() && ratio > 1.0;
    if missing.is_empty() && !more_with_unready {
        let enough = (ratio - 1.0).abs() <= TOLERANCE;
        return Ok((if enough { current } else { times(ratio, known.len()) }, ratio));
    }
    let mut all = known;
    for sample in missing {
        all.push((if ratio < 1.0 { sample.at_least } else { 0.0 }, sample.target));
    }
    if more_with_unready {
        all.extend(unready.iter().map(|sample| (0.0, sample.target)));
    }
    let cautious = ratio_of(&all);
    let turned = (ratio < 1.0 && cautious > 1.0) || (ratio > 1.0 && cautious < 1.0);
    if turned || (cautious - 1.0).abs() <= TOLERANCE {
        return Ok((current, ratio));
    }
    let count = times(cautious, all.len());
    let backwards = (cautious < 1.0 && count > current) || (cautious > 1.0 && count < current);
    Ok((if backwards { current } else { count }, ratio))
}

fn ratio_of(pods: &[(f64, f64)]) -> f64 {
    let (used, target) = pods.iter().fold((0.0, 0.0), |(a, b), (used, target)| (a + used, b + target));
    if target > 0.0 { used / target } else { 1.0 }
}

fn times(ratio: f64, pods: usize) -> i32 {
    // What is far beyond every limit is cut off there.
    (ratio * pods as f64).ceil().min(f64::from(i32::MAX)) as i32
}

/// What was recommended and done before; disposable: a new leader begins without.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    pub(super) recommended: Vec<(Timestamp, i32)>,
    pub(super) added: Vec<(Timestamp, i32)>,
    pub(super) removed: Vec<(Timestamp, i32)>,
}

impl Past {
    /// Forgets what is older than anybody looks back.
    pub(super) fn trim(&mut self, now: Timestamp) {
        let recent = |(at, _): &(Timestamp, i32)| now.duration_since(*at).as_secs() <= 3600;
        self.recommended.retain(recent);
        self.added.retain(recent);
        self.removed.retain(recent);
    }
}

/// What limits a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    Most,
    Least,
    RateUp,
    RateDown,
    Stabilized,
}

/// The number of pods after what an autoscaler says of changes, and what limited it.
pub(super) fn limited(
    desired: i32,
    current: i32,
    (least, most): (i32, i32),
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    past: &Past,
    now: Timestamp,
) -> (i32, Limit) {
    let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
    let up = behavior.and_then(|b| b.scale_up.clone()).unwrap_or_else(|| HPAScalingRules {
        policies: Some(vec![policy("Pods", 4), policy("Percent", 100)]),
        ..HPAScalingRules::default()
    });
    let down = behavior.and_then(|b| b.scale_down.clone()).unwrap_or_else(|| HPAScalingRules {
        policies: Some(vec![policy("Percent", 100)]),
        ..HPAScalingRules::default()
    });
    let stable = stabilized(desired, current, (&up, &down), past, now);
    let (wanted, mut limit) =
        if stable == desired { (desired, Limit::None) } else { (stable, Limit::Stabilized) };
    let mut allowed = wanted;
    if wanted > current {
        let most_now = rate_up(current, &up, past, now).max(current);
        if wanted > most_now.min(most) {
            allowed = most_now.min(most);
            limit = if most_now < most { Limit::RateUp } else { Limit::Most };
        }
    } else if wanted < current {
        let least_now = rate_down(current, &down, past, now).min(current);
        if wanted < least_now.max(least) {
            allowed = least_now.max(least);
            limit = if least_now > least { Limit::RateDown } else { Limit::Least };
        }
    }
    (allowed, limit)
}

/// The least change that every recommendation of the window agrees with.
fn stabilized(
    desired: i32,
    current: i32,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    past: &Past,
    now: Timestamp,
) -> i32 {
    let within = |rules: &HPAScalingRules, default| {
        let window = i64::from(rules.stabilization_window_seconds.unwrap_or(default));
        past.recommended
            .iter()
            .filter(move |(at, _)| now.duration_since(*at).as_secs() < window)
            .map(|(_, n)| *n)
    };
    let lowest = within(up, 0).fold(desired, i32::min);
    let highest = within(down, STABLE_DOWN).fold(desired, i32::max);
    if current < lowest { lowest } else { current.min(highest) }
}

fn total(changes: &[(Timestamp, i32)], seconds: i32, now: Timestamp) -> i32 {
    let recent = changes.iter().filter(|(at, _)| now.duration_since(*at).as_secs() < i64::from(seconds));
    recent.map(|(_, count)| *count).sum()
}

fn rate_up(current: i32, rules: &HPAScalingRules, past: &Past, now: Timestamp) -> i32 {
    let limits = rules.policies.iter().flatten().map(|policy| {
        let (added, removed) = (
            total(&past.added, policy.period_seconds, now),
            total(&past.removed, policy.period_seconds, now),
        );
        let start = current - added + removed;
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits.min().unwrap_or(i32::MAX),
        _ => limits.max().unwrap_or(i32::MAX),
    }
}

fn rate_down(current: i32, rules: &HPAScalingRules, past: &Past, now: Timestamp) -> i32 {
    let limits = rules.policies.iter().flatten().map(|policy| {
        let (added, removed) = (
            total(&past.added, policy.period_seconds, now),
            total(&past.removed, policy.period_seconds, now),
        );
        let start = current - added + removed;
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits.max().unwrap_or(0),
        _ => limits.min().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn ready(used: f64) -> Sample {
        Sample { standing: Standing::Ready, used: Some(used), target: 50.0, at_least: 100.0 }
    }

    fn count(current: i32, samples: &[Sample]) -> i32 {
        wanted(current, samples).unwrap().0
    }

    #[test]
    fn as_many_as_usage_asks_for() {
        assert_eq!(count(2, &[ready(100.0), ready(100.0)]), 4);
        assert_eq!(count(2, &[ready(52.0), ready(53.0)]), 2, "within the tolerance");
        assert_eq!(count(3, &[ready(10.0), ready(10.0), ready(10.0)]), 1);
        assert!(wanted(1, &[]).is_err());
    }

    #[test]
    fn what_is_not_known_slows_changes() {
        let missing = Sample { used: None, ..ready(0.0) };
        let starting = Sample { standing: Standing::Unready, ..ready(500.0) };
        let ignored = Sample { standing: Standing::Ignored, ..ready(500.0) };
        // Would be 4 by the first alone; the one without numbers is taken to use nothing.
        assert_eq!(count(2, &[ready(200.0), missing.clone()]), 4);
        assert_eq!(count(2, &[ready(80.0), missing.clone()]), 2);
        // Would be 1; the one without numbers is taken to use all it asked for.
        assert_eq!(count(2, &[ready(10.0), missing]), 2);
        assert_eq!(count(2, &[ready(100.0), starting]), 2);
        assert_eq!(count(1, &[ready(50.0), ignored]), 1);
    }

    #[test]
    fn changes_are_limited() {
        let now = Timestamp::from_second(10_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(10_000 - seconds).unwrap();
        let fresh = Past::default();
        assert_eq!(limited(50, 1, (1, 100), None, &fresh, now), (5, Limit::RateUp));
        assert_eq!(limited(50, 10, (1, 15), None, &fresh, now), (15, Limit::Most));
        assert_eq!(limited(0, 3, (2, 5), None, &fresh, now), (2, Limit::Least));
        let busy = Past { recommended: vec![(at(100), 6)], ..Past::default() };
        assert_eq!(limited(2, 6, (1, 10), None, &busy, now), (6, Limit::Stabilized));
        let old = Past { recommended: vec![(at(400), 6)], ..Past::default() };
        assert_eq!(limited(2, 6, (1, 10), None, &old, now), (2, Limit::None));
        let slow: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}], "selectPolicy": "Max"},
            "scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0},
        }))
        .unwrap();
        assert_eq!(limited(9, 3, (1, 10), Some(&slow), &fresh, now), (4, Limit::RateUp));
        let grown = Past { added: vec![(at(30), 1)], ..Past::default() };
        assert_eq!(limited(9, 4, (1, 10), Some(&slow), &grown, now), (4, Limit::RateUp));
        assert_eq!(limited(1, 4, (1, 10), Some(&slow), &fresh, now), (4, Limit::RateDown));
    }

    #[test]
    fn pods_that_have_just_started_do_not_count_yet() {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let pod = |start: &str, ready: &str, since: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Running", "startTime": start,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}))
            .unwrap()
        };
        let measured = Some((now, Duration::from_secs(10)));
        for (start, state, since, standing_is) in [
            ("2024-01-01T00:00:00Z", "True", "2024-01-01T00:00:10Z", Standing::Ready),
            ("2024-01-01T00:59:00Z", "False", "2024-01-01T00:59:00Z", Standing::Unready),
            ("2024-01-01T00:59:00Z", "True", "2024-01-01T00:59:55Z", Standing::Unready),
            ("2024-01-01T00:00:00Z", "False", "2024-01-01T00:30:00Z", Standing::Ready),
        ] {
            assert_eq!(
                standing(&pod(start, state, since), true, measured, now),
                standing_is,
                "{start} {state} {since}"
            );
        }
        assert_eq!(
            standing(&pod("2024-01-01T00:59:00Z", "False", "2024-01-01T00:59:00Z"), false, measured, now),
            Standing::Ready
        );
    }
}
