//! RuntimeClass: which handler of a node's runtime runs a pod.
//! Invariant: the handler never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::check::label;
use super::pod_spec::resources::{canonical_list, validate_amount};
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
        let path = Path::new("overhead").child("podFixed");
        for (name, amount) in self.overhead.iter().filter_map(|o| o.pod_fixed.as_ref()).flatten() {
            validate_amount(amount, false, &path.key(name), errors);
        }
        let selector = self.scheduling.as_ref().and_then(|s| s.node_selector.as_ref());
        validate_labels(selector, &Path::new("scheduling").child("nodeSelector"), errors);
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
        let mut errors = FieldErrors::new();
        Kind::validate_update(&class("a"), &class("b"), &mut errors);
        assert!(!errors.is_empty());
    }
}
