//! ReplicationControllers: see [`crate::replicas`].

use balsa_model::selector::LabelSelector;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition};

use crate::replicas::{ReplicaOwner, same_shape};

impl ReplicaOwner for ReplicationController {
    const NAME: &'static str = "replicationcontroller";

    fn selector(&self) -> LabelSelector {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.filter(|s| !s.is_empty()).map_or_else(LabelSelector::nothing, LabelSelector::from_map)
    }

    same_shape!(ReplicationControllerCondition);
}
