//! HorizontalPodAutoscaler: as many pods as what they use asks for, looked at every quarter of a minute.
//!
//! Reads autoscalers, what they scale, pods, and what those use ([`crate::usage`]); writes the replicas of
//! what is scaled, and alone the autoscaler's status. A second call at once comes to the same. What it
//! remembers of its own recommendations is disposable: a new leader begins without, and is at most a few
//! minutes quicker to scale down. Metrics other than the use of processors and memory come from servers
//! that are not there: the status says so.

mod plan;
mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::quantity::Quantity;
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{AnyObject, Failure, Key, KindRef, Object, Reason, Subresource};
use balsa_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricStatus, MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;

use crate::caches::{Caches, settle};
use crate::usage::{Amount, PodUsage, UsageSource};
use plan::{Past, Sample, Standing};
use status::Report;

/// How often each autoscaler is looked at.
const PERIOD: Duration = Duration::from_secs(15);

struct Autoscalers {
    client: Client,
    caches: Caches,
    usage: Arc<dyn UsageSource>,
    recorder: Recorder,
    clock: Clock,
    past: Mutex<HashMap<Key, Past>>,
}

/// Starts the controller.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    usage: Arc<dyn UsageSource>,
    recorder: Recorder,
    clock: Clock,
    scope: &Scope,
) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.autoscalers, &queue, scope, |change| {
        // Its own status is no reason to look again.
        let spec = |object: &Arc<Object>| object.typed::<HorizontalPodAutoscaler>().map(|a| a.spec.clone());
        let same = change.old.as_ref().and_then(spec) == change.new.as_ref().and_then(spec);
        change.object().filter(|_| !same).map(|object| object.key().clone())
    });
    let this = Autoscalers { client, caches: caches.clone(), usage, recorder, clock, past: Mutex::default() };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

/// What is scaled, as it is.
struct Scaled {
    kind: KindRef,
    object: Arc<Object>,
    decoded: Box<dyn AnyObject>,
    replicas: i32,
    selector: String,
}

/// What one metric comes to.
struct Proposal {
    replicas: i32,
    /// What of it is above or below its target, for the event.
    about: String,
    status: MetricStatus,
}

impl Autoscalers {
    fn past(&self) -> MutexGuard<'_, HashMap<Key, Past>> {
        self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What an autoscaler scales.
    async fn scaled(&self, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Result<Scaled, String> {
        let target = &spec.scale_target_ref;
        let unknown = |why: &dyn std::fmt::Display| {
            format!("the HPA controller was unable to get the target's current scale: {why}")
        };
        let version = target.api_version.as_deref().unwrap_or_default();
        let kind = balsa_model::kinds::by_api_version(version, &target.kind)
            .map(|kind| kind.stored())
            .filter(|kind| kind.descriptor().has(Subresource::Scale));
        let kind = kind.ok_or_else(|| {
            unknown(&format!(
                "no matches for kind \"{}\" in version \"{version}\" that can be scaled",
                target.kind
            ))
        })?;
        let key = Key::new(namespace, target.name.as_str());
        let object = self.client.backend().get(kind, &key).await.map_err(|failure| unknown(&failure))?;
        let decoded = object.decode().ok_or_else(|| unknown(&"it does not decode"))?;
        let scale = decoded.scale().ok_or_else(|| unknown(&"it has no scale"))?;
        let selector = scale.status.selector.unwrap_or_default();
        Ok(Scaled { kind, object, decoded, replicas: scale.replicas, selector })
    }

    /// What a metric asks for.
    ///
    /// # Errors
    /// The reason and the words of the condition that says why it asks for nothing.
    fn proposal(
        &self,
        metric: &MetricSpec,
        current: i32,
        (pods, usage): (&[Arc<Object>], &[PodUsage]),
        now: Timestamp,
    ) -> Result<Proposal, (String, String)> {
        let (resource, container, target) = match (&metric.resource, &metric.container_resource) {
            (Some(resource), _) => (resource.name.as_str(), None, &resource.target),
            (_, Some(resource)) => {
                (resource.name.as_str(), Some(resource.container.as_str()), &resource.target)
            }
            _ => {
                let reason = format!("FailedGet{}Metric", metric.type_);
                return Err((reason, format!("no server of {} metrics is registered", metric.type_)));
            }
        };
        let failed = |why: String| {
            let kind = if container.is_some() {
                "FailedGetContainerResourceMetric"
            } else {
                "FailedGetResourceMetric"
            };
            (kind.to_owned(), format!("failed to get {resource} {}: {why}", told_target(target)))
        };
        let measured = Measured { resource, container, target, usage, now };
        let samples: Vec<Sample> = pods
            .iter()
            .filter_map(|object| object.typed::<Pod>())
            .map(|pod| measured.sample(&pod))
            .collect::<Result<_, String>>()
            .map_err(failed)?;
        let (replicas, _) = plan::wanted(current, &samples).map_err(|why| failed(why.to_owned()))?;
        let used: f64 = counted(&samples).map(|(used, _)| used).sum();
        let count = counted(&samples).count().max(1);
        let average = used / count as f64;
        let average = if resource == "cpu" {
            Quantity::from_milli(average.round() as i64)
        } else {
            Quantity::from_bytes(average.round() as i64)
        };
        let percent = target.average_utilization.map(|wanted| {
            let targets: f64 = counted(&samples).map(|(_, target)| target).sum();
            (used / targets.max(f64::MIN_POSITIVE) * f64::from(wanted)).round() as i32
        });
        let about = format!("{resource} {}", told_target(target));
        Ok(Proposal { replicas, about, status: status::metric(metric, &average.to_api(), percent) })
    }
}

/// What one metric of pods is, as it was measured.
struct Measured<'a> {
    resource: &'a str,
    container: Option<&'a str>,
    target: &'a MetricTarget,
    usage: &'a [PodUsage],
    now: Timestamp,
}

impl Measured<'_> {
    /// In thousandths of a processor, or bytes.
    fn amount(&self, amount: &Amount) -> f64 {
        if self.resource == "cpu" { amount.cpu_nanos as f64 / 1e6 } else { amount.memory as f64 }
    }

    fn sample(&self, pod: &Pod) -> Result<Sample, String> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let usage = self.usage.iter().find(|usage| usage.name == name);
        let used = usage.and_then(|usage| match self.container {
            Some(container) => usage.containers.get(container).map(|amount| self.amount(amount)),
            None => Some(usage.containers.values().map(|amount| self.amount(amount)).sum()),
        });
        let measured = usage.map(|usage| (usage.at, usage.window));
        let standing = plan::standing(pod, self.resource == "cpu", measured, self.now);
        let (target, at_least) = match (self.target.average_utilization, &self.target.average_value) {
            (Some(percent), _) => {
                let request = self.request(pod).unwrap_or_else(|| Err(name.to_owned()));
                // Pods on their way out need not say what they ask for.
                let request = match request {
                    Ok(request) => request,
                    Err(_) if standing == Standing::Ignored => 0.0,
                    Err(container) => {
                        return Err(format!(
                            "missing request for {} in container {container} of Pod {name}",
                            self.resource
                        ));
                    }
                };
                (request * f64::from(percent) / 100.0, request * f64::from(percent.max(100)) / 100.0)
            }
            (None, Some(value)) => {
                let value = Quantity::of(value).unwrap_or_default();
                let value = if self.resource == "cpu" { value.milli() } else { value.value() } as f64;
                (value, value)
            }
            (None, None) => return Err("the target says neither how much nor what part".to_owned()),
        };
        Ok(Sample { standing, used, target, at_least })
    }

    /// What the pod asks for; or the container that does not say.
    fn request(&self, pod: &Pod) -> Option<Result<f64, String>> {
        let containers = &pod.spec.as_ref()?.containers;
        let mut sum = 0.0;
        for container in containers.iter().filter(|c| self.container.is_none_or(|name| c.name == name)) {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = requests.and_then(|list| list.get(self.resource)).and_then(Quantity::of);
            let Some(request) = request else { return Some(Err(container.name.clone())) };
            sum += if self.resource == "cpu" { request.milli() } else { request.value() } as f64;
        }
        Some(Ok(sum))
    }
}

/// What the pods that count use, and should use.
fn counted(samples: &[Sample]) -> impl Iterator<Item = (f64, f64)> + '_ {
    samples
        .iter()
        .filter(|sample| sample.standing == Standing::Ready)
        .filter_map(|s| Some((s.used?, s.target)))
}

fn told_target(target: &MetricTarget) -> &'static str {
    if target.average_utilization.is_some() { "utilization" } else { "usage" }
}

impl Autoscalers {
    /// Looks at one autoscaler; what its status should be.
    async fn run(&self, key: &Key, present: &HorizontalPodAutoscaler) -> Result<Report, Failure> {
        let now = self.clock.now_seconds();
        let mut report = Report::of(present, now);
        let Some(spec) = &present.spec else { return Ok(report) };
        let scaled = match self.scaled(&key.namespace, spec).await {
            Ok(scaled) => scaled,
            Err(why) => {
                report.condition("AbleToScale", false, "FailedGetScale", &why);
                self.recorder.event(
                    &balsa_client::events::reference_to(present),
                    "Warning",
                    "FailedGetScale",
                    why,
                );
                return Ok(report);
            }
        };
        let current = scaled.replicas;
        report.current(current);
        report.condition(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        if current == 0 && least != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            report.condition("ScalingActive", false, "ScalingDisabled", why);
            report.desired(0);
            return Ok(report);
        }
        let (desired, why) = if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let Some((desired, why)) = self.by_metrics(key, spec, &scaled, &mut report, now).await? else {
                report.desired(current);
                return Ok(report);
            };
            let mut past = self.past();
            let past = past.entry(key.clone()).or_default();
            past.trim(now);
            past.recommended.push((now, desired));
            let (allowed, limit) =
                plan::limited(desired, current, (least, most), spec.behavior.as_ref(), past, now);
            report.limit(limit, desired);
            (allowed, why)
        };
        report.desired(desired);
        if desired != current {
            self.rescale(key, present, scaled, desired, &why, &mut report).await;
        }
        Ok(report)
    }

    /// The most that any metric asks for; `None`: nothing can be said.
    async fn by_metrics(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        scaled: &Scaled,
        report: &mut Report,
        now: Timestamp,
    ) -> Result<Option<(i32, String)>, Failure> {
        let current = scaled.replicas;
        let selector = LabelSelector::parse(&scaled.selector)?;
        let pods = self.caches.pods.list_in(&key.namespace);
        let pods: Vec<Arc<Object>> = pods
            .into_iter()
            .filter(|pod| !scaled.selector.is_empty() && selector.matches(pod.meta().labels.as_ref()))
            .collect();
        let usage = self.usage.pods(&key.namespace).await?;
        let mut best: Option<(i32, String)> = None;
        let mut failed: Option<(String, String)> = None;
        for metric in spec.metrics.iter().flatten() {
            match self.proposal(metric, current, (&pods, &usage), now) {
                Ok(proposal) => {
                    report.metric(proposal.status);
                    if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                        best = Some((proposal.replicas, proposal.about));
                    }
                }
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        // With a metric that is not known there may be more to do, never less.
        match (best, failed) {
            (Some((replicas, about)), failed) if failed.is_none() || replicas >= current => {
                let told = format!("the HPA was able to successfully calculate a replica count from {about}");
                report.condition("ScalingActive", true, "ValidMetricFound", &told);
                let why = if replicas > current {
                    format!("{about} above target")
                } else {
                    "All metrics below target".to_owned()
                };
                Ok(Some((replicas, why)))
            }
            (_, failed) => {
                let (reason, why) = failed.unwrap_or_default();
                let told = format!("the HPA was unable to compute the replica count: {why}");
                report.condition("ScalingActive", false, &reason, &told);
                Ok(None)
            }
        }
    }

    async fn rescale(
        &self,
        key: &Key,
        present: &HorizontalPodAutoscaler,
        scaled: Scaled,
        desired: i32,
        why: &str,
        report: &mut Report,
    ) {
        let Scaled { kind, object, mut decoded, replicas, .. } = scaled;
        decoded.set_replicas(desired);
        let options = balsa_client::WriteOptions::default();
        let written =
            self.client.backend().update(kind, object.key(), Part::Main, decoded.to_value(), &options).await;
        let about = balsa_client::events::reference_to(present);
        match written {
            Ok(_) => {
                let told = format!("the HPA controller was able to update the target scale to {desired}");
                report.condition("AbleToScale", true, "SucceededRescale", &told);
                report.rescaled();
                let mut past = self.past();
                let past = past.entry(key.clone()).or_default();
                let changes = if desired > replicas { &mut past.added } else { &mut past.removed };
                changes.push((self.clock.now_seconds(), (desired - replicas).abs()));
                let message = format!("New size: {desired}; reason: {why}");
                self.recorder.event(&about, "Normal", "SuccessfulRescale", message);
            }
            Err(failure) => {
                report.desired(replicas);
                let told = format!("the HPA controller was unable to update the target scale: {failure}");
                report.condition("AbleToScale", false, "FailedUpdateScale", &told);
                let message = format!("New size: {desired}; reason: {why}; error: {failure}");
                self.recorder.event(&about, "Warning", "FailedRescale", message);
            }
        }
    }
}

#[async_trait]
impl Reconciler for Autoscalers {
    type Key = Key;

    fn name(&self) -> &'static str {
        "horizontal_pod_autoscaler"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let object = self.caches.autoscalers.get(key);
        let Some(present) = object.as_ref().and_then(|object| object.typed::<HorizontalPodAutoscaler>())
        else {
            self.past().remove(key);
            return Ok(Next::Wait);
        };
        let report = self.run(key, &present).await?;
        if let Some(status) = report.changed(&present) {
            let mut wanted = HorizontalPodAutoscaler::clone(&present);
            wanted.status = Some(status);
            match self.client.api::<HorizontalPodAutoscaler>().update(&wanted, Part::Status).await {
                Ok(written) => settle(&self.caches.autoscalers, written.revision()).await,
                Err(failure) if failure.reason == Reason::NotFound => return Ok(Next::Wait),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Next::After(PERIOD))
    }
}
