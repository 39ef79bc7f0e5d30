//! Namespace: a scope for names, and what is deleted with it.
//!
//! Invariants: it carries its name as a label; `spec.finalizers` holds `kubernetes` until all that was
//! in it is gone, and changes only by way of the subresource `finalize` ([`finalize`]).

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};

use super::cells::or_empty;
use super::check::default_text;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, NameRule, Subresource};
use crate::meta::{UNQUALIFIED_FINALIZER, is_unqualified, qualified_name};
use crate::pod_security::Policy;
use crate::table::{Cell, Column};

/// The finalizer of the namespace controller.
pub const FINALIZER: &str = "kubernetes";
/// The label that says a namespace's name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Kind for Namespace {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ns"],
        subresources: &[Subresource::Status, Subresource::Finalize],
        name_rule: NameRule::Label,
        field_labels: &["status.phase"],
        columns: &[Column::NAME, Column::text("Status"), Column::AGE],
        ..Descriptor::cluster("", "v1", "Namespace", "namespaces", "namespace", "core.v1.Namespace")
    };

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        default_text(&mut self.status.get_or_insert_default().phase, "Active");
        if let Some(name) = self.metadata.name.clone().filter(|name| !name.is_empty()) {
            self.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        }
    }

    fn prepare_create(&mut self) {
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        self.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
    }

    fn prepare_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn prepare_part(&mut self, old: &Self, part: Subresource) {
        if part == Subresource::Finalize {
            self.status.clone_from(&old.status);
        }
    }

    fn holds_deletion(&self) -> bool {
        !is_finalized(self)
    }

    fn mark_deleting(&mut self) {
        self.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("finalizers");
        for finalizer in self.spec.iter().flat_map(|s| s.finalizers.iter().flatten()) {
            for wrong in qualified_name(finalizer) {
                errors.invalid(&path, finalizer.as_str(), wrong);
            }
            if is_unqualified(finalizer) {
                errors.invalid(&path, finalizer.as_str(), UNQUALIFIED_FINALIZER);
            }
        }
    }

    fn validate_create(&self, errors: &mut FieldErrors) {
        Policy::of(self.metadata.labels.as_ref(), errors);
    }

    /// What its labels demand of pods may make no sense only if it made the same before.
    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (mut wrong, mut before) = (FieldErrors::new(), FieldErrors::new());
        Policy::of(self.metadata.labels.as_ref(), &mut wrong);
        Policy::of(old.metadata.labels.as_ref(), &mut before);
        if wrong != before {
            errors.extend(wrong);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let detail = match (&self.metadata.deletion_timestamp, phase(self)) {
            (None, "Active") | (Some(_), "Terminating") => return,
            (None, _) => "may only be 'Active' if `deletionTimestamp` is empty",
            (Some(_), _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        };
        // The reference server writes the field like that.
        errors.invalid(&Path::new("status").child("Phase"), phase(self), detail);
    }

    fn field(&self, label: &str) -> String {
        match label {
            "status.phase" => phase(self).to_owned(),
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), or_empty(Some(phase(self))), Cell::age(self.metadata(), now)]
    }
}

/// `Active` or `Terminating`.
pub fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether nothing new may come into it.
pub fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some() || phase(namespace) == "Terminating"
}

/// Whether nobody holds it back any more.
pub fn is_finalized(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().is_none_or(|s| s.finalizers.as_ref().is_none_or(Vec::is_empty))
}

/// Sets `spec.finalizers`, which ordinary updates keep: what the subresource `finalize` does.
pub fn finalize(namespace: &mut Namespace, finalizers: Vec<String>) {
    namespace.spec.get_or_insert_default().finalizers = Some(finalizers).filter(|f| !f.is_empty());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_starts_active_with_its_finalizer_and_label() {
        let mut namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        Kind::prepare_create(&mut namespace);
        Kind::set_defaults(&mut namespace);
        let value = serde_json::to_value(&namespace).unwrap();
        assert_eq!(value["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(value["status"], json!({"phase": "Active"}));
        assert_eq!(value["metadata"]["labels"], json!({NAME_LABEL: "n"}));
    }

    #[test]
    fn finalizers_change_by_finalize_alone() {
        let mut old = Namespace::default();
        Kind::prepare_create(&mut old);
        let mut new = Namespace::default();
        Kind::prepare_update(&mut new, &old);
        assert!(!is_finalized(&new));
        finalize(&mut new, Vec::new());
        assert!(is_finalized(&new));
    }

    fn wrong(value: serde_json::Value) -> Vec<String> {
        let namespace: Namespace = serde_json::from_value(value).unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&namespace, &mut errors);
        Kind::validate_status(&namespace, &Namespace::default(), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finalizers_and_phases_fit() {
        let time = "2026-01-01T00:00:00Z";
        let finalizers = json!(["kubernetes", "example.com/a"]);
        assert!(wrong(json!({"spec": {"finalizers": finalizers}, "status": {"phase": "Active"}})).is_empty());
        let going = json!({"metadata": {"deletionTimestamp": time}, "status": {"phase": "Terminating"}});
        assert!(wrong(going).is_empty());
        assert_eq!(
            wrong(json!({"spec": {"finalizers": ["mine"]}, "status": {"phase": "Terminating"}})),
            [
                format!("spec.finalizers: Invalid value: \"mine\": {UNQUALIFIED_FINALIZER}"),
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
                    .to_owned(),
            ]
        );
        let staying = json!({"metadata": {"deletionTimestamp": time}, "status": {"phase": "Active"}});
        let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
        assert_eq!(wrong(staying), [format!("status.Phase: Invalid value: \"Active\": {detail}")]);
    }
}
