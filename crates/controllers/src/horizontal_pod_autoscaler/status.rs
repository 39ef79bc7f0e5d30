//! What an autoscaler's status says after it was looked at.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Limit;

/// A status under construction.
pub(super) struct Report {
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Report {
    /// Begins with what is there, but for the metrics, which are measured anew.
    pub(super) fn of(present: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        let mut status = present.status.clone().unwrap_or_default();
        status.current_metrics = None;
        Self { status, now }
    }

    pub(super) fn current(&mut self, replicas: i32) {
        self.status.current_replicas = Some(replicas);
    }

    pub(super) fn desired(&mut self, replicas: i32) {
        self.status.desired_replicas = replicas;
    }

    pub(super) fn rescaled(&mut self) {
        self.status.last_scale_time = Some(Time(self.now));
    }

    pub(super) fn metric(&mut self, metric: MetricStatus) {
        self.status.current_metrics.get_or_insert_default().push(metric);
    }

    /// Sets a condition; the time of its last change stays while it says the same.
    pub(super) fn condition(&mut self, type_: &str, is: bool, reason: &str, message: &str) {
        let state = if is { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let since = conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == state)
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }

    /// What limited the number that the metrics ask for.
    pub(super) fn limit(&mut self, limit: Limit, desired: i32) {
        let (is, reason, message) = match limit {
            Limit::None => (false, "DesiredWithinRange", "the desired count is within the acceptable range"),
            Limit::Most => {
                (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
            }
            Limit::Least if desired == 0 => (true, "TooFewReplicas", "the desired replica count is zero"),
            Limit::Least => {
                (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
            }
            Limit::RateUp => (
                true,
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            ),
            Limit::RateDown => (
                true,
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            ),
            Limit::Stabilized => {
                let message = "recent recommendations were higher than current one, applying the highest recent recommendation";
                self.condition("AbleToScale", true, "ScaleDownStabilized", message);
                (false, "DesiredWithinRange", "the desired count is within the acceptable range")
            }
        };
        if limit == Limit::None {
            let message = "recommended size matches current size";
            self.condition("AbleToScale", true, "ReadyForNewScale", message);
        }
        self.condition("ScalingLimited", is, reason, message);
    }

    /// The status, if it is another than the autoscaler has.
    pub(super) fn changed(self, present: &HorizontalPodAutoscaler) -> Option<HorizontalPodAutoscalerStatus> {
        (present.status.as_ref() != Some(&self.status)).then_some(self.status)
    }
}

/// What a metric of a resource is now.
pub(super) fn metric(spec: &MetricSpec, average: &ApiQuantity, percent: Option<i32>) -> MetricStatus {
    let current =
        MetricValueStatus { average_utilization: percent, average_value: Some(average.clone()), value: None };
    let mut status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    if let Some(resource) = &spec.resource {
        status.resource = Some(ResourceMetricStatus { name: resource.name.clone(), current });
    } else if let Some(resource) = &spec.container_resource {
        status.container_resource = Some(ContainerResourceMetricStatus {
            name: resource.name.clone(),
            container: resource.container.clone(),
            current,
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_time_while_they_say_the_same() {
        let at = |second: i64| Timestamp::from_second(second).unwrap_or_default();
        let mut autoscaler = HorizontalPodAutoscaler::default();
        let mut report = Report::of(&autoscaler, at(1));
        report.condition("ScalingActive", true, "A", "a");
        autoscaler.status = report.changed(&autoscaler);
        assert!(autoscaler.status.is_some());
        let mut report = Report::of(&autoscaler, at(2));
        report.condition("ScalingActive", true, "A", "a");
        assert_eq!(report.changed(&autoscaler), None);
        let mut report = Report::of(&autoscaler, at(3));
        report.condition("ScalingActive", false, "B", "b");
        let conditions = report.changed(&autoscaler).and_then(|status| status.conditions).unwrap_or_default();
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(3))));
    }
}
