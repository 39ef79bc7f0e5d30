//! StorageClass: how volumes of a sort are made.
//! Invariant: what volumes were made by never changes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;

use super::cells::or_empty;
use super::check::{default_text, invalid_each, label_key, one_of};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::qualified_name;
use crate::table::{Cell, Column};

/// The annotation of the class that claims get when they name none.
pub const DEFAULT_ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";
/// Most parameters of a class, and bytes of all of them together.
const MOST_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;
const OLD_DEFAULT_ANNOTATION: &str = "storageclass.beta.kubernetes.io/is-default-class";

impl Kind for StorageClass {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["sc"],
        columns: &[
            Column::NAME,
            Column::text("Provisioner"),
            Column::text("ReclaimPolicy"),
            Column::text("VolumeBindingMode"),
            Column::text("AllowVolumeExpansion"),
            Column::AGE,
        ],
        ..Descriptor::cluster(
            "storage.k8s.io",
            "v1",
            "StorageClass",
            "storageclasses",
            "storageclass",
            "storage.v1.StorageClass",
        )
    };

    fn set_defaults(&mut self) {
        default_text(&mut self.reclaim_policy, "Delete");
        default_text(&mut self.volume_binding_mode, "Immediate");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("provisioner");
        if self.provisioner.is_empty() {
            errors.required(&path, "");
        } else {
            let lower = self.provisioner.to_lowercase();
            invalid_each(errors, &path, &lower, qualified_name(&lower));
        }
        validate_parameters(self, &Path::new("parameters"), errors);
        let path = Path::new("allowedTopologies");
        let mut seen = Vec::new();
        for (i, term) in self.allowed_topologies.iter().flatten().enumerate() {
            validate_topology(term, &path.index(i), errors);
            let says = what_it_says(term);
            if seen.contains(&says) {
                errors.duplicate(&path.index(i).child("matchLabelExpressions"), "");
            }
            seen.push(says);
        }
        if let Some(policy) = &self.reclaim_policy {
            one_of(errors, &Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        if let Some(mode) = &self.volume_binding_mode {
            one_of(errors, &Path::new("volumeBindingMode"), mode, &modes);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if self.parameters.clone().unwrap_or_default() != old.parameters.clone().unwrap_or_default() {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        if self.provisioner != old.provisioner {
            errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
        }
        if self.reclaim_policy != old.reclaim_policy {
            errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        let (new, path) = (self.volume_binding_mode.clone(), Path::new("volumeBindingMode"));
        errors.immutable(&path, &new, &old.volume_binding_mode, new.clone());
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let name = self.metadata.name.clone().unwrap_or_default();
        vec![
            Cell::text(if is_default(self) { format!("{name} (default)") } else { name }),
            or_empty(Some(&self.provisioner)),
            or_empty(self.reclaim_policy.as_deref()),
            or_empty(self.volume_binding_mode.as_deref()),
            Cell(self.allow_volume_expansion.unwrap_or(false).into()),
            Cell::age(self.metadata(), now),
        ]
    }
}

fn validate_parameters(class: &StorageClass, path: &Path, errors: &mut FieldErrors) {
    let parameters = || class.parameters.iter().flatten();
    if parameters().count() > MOST_PARAMETERS {
        errors.too_long(path, MOST_PARAMETERS);
        return;
    }
    for (key, _) in parameters().filter(|(key, _)| key.is_empty()) {
        errors.invalid(path, key.as_str(), "field can not be empty.");
    }
    if parameters().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_PARAMETER_BYTES {
        errors.too_long(path, MAX_PARAMETER_BYTES);
    }
}

fn validate_topology(term: &TopologySelectorTerm, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("matchLabelExpressions");
    let mut keys = HashSet::new();
    for (i, wanted) in term.match_label_expressions.iter().flatten().enumerate() {
        let path = path.index(i);
        let values_path = path.child("values");
        if wanted.values.is_empty() {
            errors.required(&values_path, "");
        }
        let mut values = HashSet::new();
        for (i, value) in wanted.values.iter().enumerate().filter(|(_, value)| !values.insert(*value)) {
            errors.duplicate(&values_path.index(i), value.as_str());
        }
        label_key(errors, &path.child("key"), &wanted.key);
        if !keys.insert(&wanted.key) {
            errors.duplicate(&path.child("key"), wanted.key.as_str());
        }
    }
}

/// The values that a term allows, in whatever order they are written.
fn what_it_says(term: &TopologySelectorTerm) -> BTreeMap<&str, BTreeSet<&str>> {
    let wanted = term.match_label_expressions.iter().flatten();
    wanted.map(|w| (w.key.as_str(), w.values.iter().map(String::as_str).collect())).collect()
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    [DEFAULT_ANNOTATION, OLD_DEFAULT_ANNOTATION]
        .iter()
        .any(|name| annotations.and_then(|a| a.get(*name)).is_some_and(|value| value == "true"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_checks_and_row() {
        let mut class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "k", "annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "example.com/p"}))
        .unwrap();
        Kind::set_defaults(&mut class);
        let cells: Vec<_> = Kind::row(&class, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells,
            [
                json!("k (default)"),
                json!("example.com/p"),
                json!("Delete"),
                json!("Immediate"),
                json!(false),
                json!("<unknown>")
            ]
        );
        let mut other = StorageClass { provisioner: "a b".to_owned(), ..class.clone() };
        other.reclaim_policy = Some("Keep".to_owned());
        let mut errors = FieldErrors::new();
        Kind::validate(&other, &mut errors);
        Kind::validate_update(&other, &class, &mut errors);
        let fields: Vec<String> = errors.into_vec().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["provisioner", "reclaimPolicy", "provisioner", "reclaimPolicy"]);
    }

    #[test]
    fn parameters_and_topologies_are_checked() {
        let wrong = |more: serde_json::Value| {
            let mut value = json!({"metadata": {"name": "k"}, "provisioner": "example.com/P"});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let class: StorageClass = serde_json::from_value(value).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&class, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        let topologies =
            |terms: serde_json::Value| json!({"allowedTopologies": [{"matchLabelExpressions": terms}]});
        assert!(wrong(topologies(json!([{"key": "zone", "values": ["a", "b"]}]))).is_empty());
        assert_eq!(
            wrong(topologies(json!([{"key": "a b", "values": []}, {"key": "k", "values": ["a", "a"]},
                {"key": "k", "values": ["a"]}]))),
            [
                "allowedTopologies[0].matchLabelExpressions[0].values",
                "allowedTopologies[0].matchLabelExpressions[0].key",
                "allowedTopologies[0].matchLabelExpressions[1].values[1]",
                "allowedTopologies[0].matchLabelExpressions[2].key",
            ]
        );
        let term = |values: [&str; 2]| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
        assert_eq!(
            wrong(json!({"allowedTopologies": [term(["a", "b"]), term(["a", "c"]), term(["b", "a"])]})),
            ["allowedTopologies[2].matchLabelExpressions"]
        );
        assert_eq!(wrong(json!({"parameters": {"": "a"}})), ["parameters"]);
        assert_eq!(wrong(json!({"parameters": {"a": "x".repeat(MAX_PARAMETER_BYTES)}})), ["parameters"]);
        let many: std::collections::BTreeMap<String, &str> = (0..513).map(|i| (i.to_string(), "")).collect();
        assert_eq!(wrong(json!({"parameters": many})), ["parameters"]);
    }
}
