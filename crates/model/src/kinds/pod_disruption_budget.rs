//! PodDisruptionBudget: how many pods of a selection may be evicted at once.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::check::{at_most_100_percent, count_or_percent, json, one_of};
use super::pod_spec::scheduling::validate_label_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::table::{Cell, Column};

impl Kind for PodDisruptionBudget {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        short_names: &["pdb"],
        subresources: &[Subresource::Status],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::text("Min Available"),
            Column::text("Max Unavailable"),
            Column::number("Allowed Disruptions"),
            Column::AGE,
        ],
        ..Descriptor::namespaced(
            "policy",
            "v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            "poddisruptionbudget",
            "policy.v1.PodDisruptionBudget",
        )
    };

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(PodDisruptionBudgetStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (Some(spec), path) = (&self.spec, Path::new("spec")) else { return };
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, json(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                count_or_percent(errors, &path.child(field), value);
                at_most_100_percent(errors, &path.child(field), value);
            }
        }
        if let Some(selector) = &spec.selector {
            validate_label_selector(selector, &path.child("selector"), errors);
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let known = ["AlwaysAllow", "IfHealthyBudget"];
            one_of(errors, &path.child("unhealthyPodEvictionPolicy"), policy, &known);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let allowed = self.status.as_ref().map_or(0, |s| s.disruptions_allowed);
        vec![
            Cell::name(self.metadata()),
            bound(spec.and_then(|s| s.min_available.as_ref())),
            bound(spec.and_then(|s| s.max_unavailable.as_ref())),
            Cell::number(allowed),
            Cell::age(self.metadata(), now),
        ]
    }
}

fn bound(value: Option<&IntOrString>) -> Cell {
    match value {
        None => Cell::text("N/A"),
        Some(IntOrString::Int(number)) => Cell::text(number.to_string()),
        Some(IntOrString::String(text)) => Cell::text(text.as_str()),
    }
}
