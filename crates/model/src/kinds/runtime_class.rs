//! RuntimeClass: which handler of a node's runtime runs a pod.
//! Invariant: the handler never changes.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::check::{json, label};
use super::pod_spec::resources::{self, canonical_list};
use super::pod_spec::scheduling::validate_tolerations;
use super::pod_spec::warnings::old_label;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::validate_labels;
use crate::table::{Cell, Column};

impl Kind for RuntimeClass {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        columns: &[Column::NAME, Column::text("Handler"), Column::AGE],
        ..Descriptor::cluster(
            "node.k8s.io",
            "v1",
            "RuntimeClass",
            "runtimeclasses",
            "runtimeclass",
            "node.v1.RuntimeClass",
        )
    };

    fn set_defaults(&mut self) {
        if let Some(list) = self.overhead.as_mut().and_then(|o| o.pod_fixed.as_mut()) {
            canonical_list(list);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        label(errors, &Path::new("handler"), &self.handler);
        // Looked at as the limits of a container, and named so.
        let limits = self.overhead.as_ref().map(|overhead| overhead.pod_fixed.clone());
        let limits = limits.map(|limits| ResourceRequirements { limits, ..ResourceRequirements::default() });
        resources::validate(limits.as_ref(), &Path::new("overhead"), errors);
        let Some(scheduling) = &self.scheduling else { return };
        let path = Path::new("scheduling");
        validate_labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), errors);
        let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
        let path = path.child("tolerations");
        validate_tolerations(tolerations, &path, errors);
        let mut seen = HashSet::new();
        for (i, one) in tolerations.iter().enumerate() {
            if !seen.insert([&one.key, &one.operator, &one.value, &one.effect]) {
                errors.duplicate(&path.index(i), json(one));
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        errors.immutable(&Path::new("handler"), &self.handler, &old.handler, self.handler.as_str());
    }

    fn warnings(&self) -> Vec<String> {
        let selector =
            self.scheduling.iter().flat_map(|scheduling| scheduling.node_selector.iter().flatten());
        let old = selector.filter_map(|(label, _)| old_label(label));
        old.map(|why| format!("scheduling.nodeSelector: {why}")).collect()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), Cell::text(self.handler.as_str()), Cell::age(self.metadata(), now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn handlers_are_labels_and_stay() {
        let class = |handler: &str| -> RuntimeClass {
            serde_json::from_value(json!({"metadata": {"name": "r"}, "handler": handler})).unwrap()
        };
        for (handler, wrong) in [("runc", 0), ("Bad_Handler", 1)] {
            let mut errors = FieldErrors::new();
            Kind::validate(&class(handler), &mut errors);
            assert_eq!(errors.into_vec().len(), wrong, "{handler}");
        }
        let mut odd = class("a");
        odd.overhead =
            serde_json::from_value(json!({"podFixed": {"cpu": "100m", "memory": "-1", "a b": "1"}})).unwrap();
        let twice = json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"});
        odd.scheduling =
            serde_json::from_value(json!({"tolerations": [{"key": "k", "operator": "In"}, twice, twice]}))
                .unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&odd, &mut errors);
        let mut fields: Vec<String> = errors.into_vec().into_iter().map(|error| error.field).collect();
        fields.dedup();
        assert_eq!(
            fields,
            [
                "overhead.limits[a b]",
                "overhead.limits[memory]",
                "scheduling.tolerations[0].operator",
                "scheduling.tolerations[2]"
            ]
        );
        let mut errors = FieldErrors::new();
        Kind::validate_update(&class("a"), &class("b"), &mut errors);
        assert!(!errors.is_empty());
    }
}
