//! PriorityClass: how much pods matter.
//! Invariants: values and preemption policies never change; the highest values are the system's own.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::cells::or_empty;
use super::check::{default_text, one_of};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

/// Highest value that is not the system's own.
pub const MOST_USER_VALUE: i32 = 1_000_000_000;
/// The system's own classes.
pub const SYSTEM_CLASSES: &[(&str, i32)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

impl Kind for PriorityClass {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["pc"],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::number("Value"),
            Column { name: "Global-Default", kind: "boolean", format: "", priority: 0 },
            Column::AGE,
            Column::text("PreemptionPolicy"),
        ],
        ..Descriptor::cluster(
            "scheduling.k8s.io",
            "v1",
            "PriorityClass",
            "priorityclasses",
            "priorityclass",
            "scheduling.v1.PriorityClass",
        )
    };

    fn set_defaults(&mut self) {
        default_text(&mut self.preemption_policy, "PreemptLowerPriority");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let path = Path::new("metadata").child("name");
        if name.starts_with("system-") {
            let reserved =
                "priority class names with 'system-' prefix are reserved for system use only. error: ";
            match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
                None => {
                    errors.forbidden(&path, format!("{reserved}{name} is not a known system priority class"));
                }
                Some((_, value)) if *value != self.value => errors
                    .forbidden(&path, format!("{reserved}value of {name} PriorityClass must be {value}")),
                Some(_) => {}
            }
        } else if self.value > MOST_USER_VALUE {
            let detail = format!("maximum allowed value of a user defined priority is {MOST_USER_VALUE}");
            errors.forbidden(&Path::new("value"), detail);
        }
        if let Some(policy) = &self.preemption_policy {
            let known = ["PreemptLowerPriority", "Never"];
            one_of(errors, &Path::new("preemptionPolicy"), policy, &known);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if self.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let (new, path) = (self.preemption_policy.clone(), Path::new("preemptionPolicy"));
        errors.immutable(&path, &new, &old.preemption_policy, new.clone());
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::name(self.metadata()),
            Cell::number(self.value),
            Cell(self.global_default.unwrap_or(false).into()),
            Cell::age(self.metadata(), now),
            or_empty(self.preemption_policy.as_deref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_highest_values_are_reserved() {
        for (name, value, wrong) in [
            ("p", 5, 0),
            ("p", 2_000_000_000, 1),
            ("system-x", 1, 1),
            ("system-node-critical", 2_000_001_000, 0),
        ] {
            let mut class: PriorityClass =
                serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
            Kind::set_defaults(&mut class);
            let mut errors = FieldErrors::new();
            Kind::validate(&class, &mut errors);
            assert_eq!(errors.into_vec().len(), wrong, "{name} {value}");
        }
    }
}
