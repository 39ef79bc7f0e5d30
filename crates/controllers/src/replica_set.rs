//! ReplicaSets: see [`crate::replicas`].

use balsa_model::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition};

use crate::replicas::{ReplicaOwner, same_shape};

impl ReplicaOwner for ReplicaSet {
    const NAME: &'static str = "replicaset";

    fn selector(&self) -> LabelSelector {
        let selector = self.spec.as_ref().and_then(|spec| LabelSelector::from_meta(&spec.selector).ok());
        // An empty selector never passes validation: it would claim every pod of the namespace.
        selector.filter(|selector| !selector.selects_all()).unwrap_or_else(LabelSelector::nothing)
    }

    same_shape!(ReplicaSetCondition);
}
