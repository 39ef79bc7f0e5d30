//! ReplicaSets: see [`crate::replicas`].

use balsa_model::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::replicas::{Counts, ReplicaFailure, ReplicaOwner};

impl ReplicaOwner for ReplicaSet {
    const NAME: &'static str = "replicaset";

    fn selector(&self) -> LabelSelector {
        let selector = self.spec.as_ref().and_then(|spec| LabelSelector::from_meta(&spec.selector).ok());
        // An empty selector never passes validation: it would claim every pod of the namespace.
        selector.filter(|selector| !selector.selects_all()).unwrap_or_else(LabelSelector::nothing)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn wanted(&self) -> usize {
        let replicas = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        usize::try_from(replicas).unwrap_or(0)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn counts(&self) -> Counts {
        let status = self.status.clone().unwrap_or_default();
        let failure = status.conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure");
        Counts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            observed_generation: status.observed_generation.unwrap_or(0),
            failure: failure.map(|c| ReplicaFailure {
                reason: c.reason.unwrap_or_default(),
                message: c.message.unwrap_or_default(),
                since: c.last_transition_time,
            }),
        }
    }

    fn set_counts(&mut self, counts: Counts) {
        let status = self.status.get_or_insert_default();
        let mut conditions = status.conditions.take().unwrap_or_default();
        conditions.retain(|condition| condition.type_ != "ReplicaFailure");
        conditions.extend(counts.failure.map(|failure| ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason),
            message: Some(failure.message),
            last_transition_time: failure.since,
        }));
        *status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: positive(counts.fully_labeled),
            ready_replicas: positive(counts.ready),
            available_replicas: positive(counts.available),
            observed_generation: Some(counts.observed_generation),
            conditions: (!conditions.is_empty()).then_some(conditions),
            terminating_replicas: status.terminating_replicas,
        };
    }
}

/// A number as statuses carry it: zero is left out.
pub(crate) fn positive(number: i32) -> Option<i32> {
    (number > 0).then_some(number)
}
