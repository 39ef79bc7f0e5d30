//! Liveness, readiness and startup probes: a pure counter of results, a task that asks, and the ways
//! of asking.

mod ask;

use std::sync::Arc;
use std::time::Duration;

use balsa_runtime::{ContainerId, Runtime};
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

pub(crate) use ask::{Target, get};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    /// The container has come up.
    Startup,
    /// It can take requests.
    Readiness,
    /// It is well.
    Liveness,
}

impl ProbeKind {
    /// As events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// What a probe has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Of which container in the pod.
    pub container: String,
    /// Of which try of it.
    pub id: ContainerId,
    /// Which probe.
    pub kind: ProbeKind,
    /// The result that holds from now on; `None`: as before.
    pub verdict: Option<bool>,
    /// How a single try failed, for the event.
    pub failure: Option<String>,
}

fn at_least(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

/// Counts results against the thresholds: enough of one kind in a row change the verdict.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    pub(crate) fn new(probe: &Probe) -> Self {
        let (success, failure) = (at_least(probe.success_threshold, 1), at_least(probe.failure_threshold, 3));
        Self { success, failure, last: None, run: 0 }
    }

    /// One more result; the verdict, when there are enough of them.
    pub(crate) fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success } else { self.failure };
        (self.run >= threshold).then_some(success)
    }
}

/// Asks again and again until nobody listens or a verdict ends it: a startup probe's success, or a
/// failure after which the container is stopped.
pub(crate) async fn run(
    runtime: Arc<dyn Runtime>,
    target: Target,
    kind: ProbeKind,
    probe: Probe,
    reports: mpsc::Sender<Report>,
) {
    let seconds = |value: Option<i32>, default: u32| Duration::from_secs(u64::from(at_least(value, default)));
    let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
    let mut counter = Counter::new(&probe);
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        ticks.tick().await;
        let result = ask::ask(&*runtime, &target, &probe, limit).await;
        let verdict = counter.count(result.is_ok());
        let result_label = if result.is_ok() { "successful" } else { "failed" };
        metrics::counter!("prober_probe_total", "probe_type" => kind.name(), "result" => result_label)
            .increment(1);
        let changed = verdict.filter(|verdict| told != Some(*verdict));
        let failure = result.err();
        if changed.is_none() && failure.is_none() {
            continue;
        }
        told = changed.or(told);
        let (container, id) = (target.container.clone(), target.id.clone());
        let report = Report { container, id, kind, verdict: changed, failure };
        let ended =
            matches!((kind, changed), (ProbeKind::Startup, Some(_)) | (ProbeKind::Liveness, Some(false)));
        if reports.send(report).await.is_err() || ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_results_in_a_row_change_the_verdict() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let results = [true, true, false, false, true, false, false, false, false];
        let verdicts: Vec<_> = results.into_iter().map(|result| counter.count(result)).collect();
        let expected = [None, Some(true), None, None, None, None, None, Some(false), Some(false)];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn thresholds_have_kubernetes_defaults() {
        let mut counter = Counter::new(&Probe::default());
        assert_eq!(counter.count(true), Some(true));
        assert_eq!([(); 3].map(|()| counter.count(false)), [None, None, Some(false)]);
    }
}
