//! ReplicaSets and ReplicationControllers have the same fields in two sets of types: what reads and
//! writes them is written once.

/// The methods of a [`super::ReplicaOwner`] but for its selector; `$condition` is the type of its
/// conditions.
macro_rules! same_shape {
    ($condition:ident) => {
        fn template(&self) -> Option<&k8s_openapi::api::core::v1::PodTemplateSpec> {
            self.spec.as_ref()?.template.as_ref()
        }

        fn wanted(&self) -> usize {
            let replicas = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            usize::try_from(replicas).unwrap_or(0)
        }

        fn min_ready_seconds(&self) -> i32 {
            self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
        }

        fn counts(&self) -> $crate::replicas::Counts {
            let status = self.status.clone().unwrap_or_default();
            let failure = status.conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure");
            $crate::replicas::Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                observed_generation: status.observed_generation.unwrap_or(0),
                failure: failure.map(|c| $crate::replicas::ReplicaFailure {
                    reason: c.reason.unwrap_or_default(),
                    message: c.message.unwrap_or_default(),
                    since: c.last_transition_time,
                }),
            }
        }

        fn set_counts(&mut self, counts: $crate::replicas::Counts) {
            // A number as statuses carry it: zero is left out.
            let positive = |number: i32| (number > 0).then_some(number);
            let status = self.status.get_or_insert_default();
            let mut conditions = status.conditions.take().unwrap_or_default();
            conditions.retain(|condition| condition.type_ != "ReplicaFailure");
            conditions.extend(counts.failure.map(|failure| $condition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason),
                message: Some(failure.message),
                last_transition_time: failure.since,
            }));
            status.replicas = counts.replicas;
            status.fully_labeled_replicas = positive(counts.fully_labeled);
            status.ready_replicas = positive(counts.ready);
            status.available_replicas = positive(counts.available);
            status.observed_generation = Some(counts.observed_generation);
            status.conditions = (!conditions.is_empty()).then_some(conditions);
        }
    };
}

pub(crate) use same_shape;
