//! PersistentVolumeClaim: a wish for storage, and the volume that fulfils it.
//! Invariant: a claim does not change but for the volume that it gets (once), and the size that it asks
//! for once it is bound.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::cells::{self, or_empty};
use super::check::{default_text, one_of, subdomain};
use super::pod_spec;
use super::pod_spec::resources::canonical_list;
use super::pod_spec::scheduling::validate_label_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::quantity::Quantity;
use crate::table::{Cell, Column};

/// Holds a claim's deletion while a pod uses it.
pub const PROTECTION_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// The old way to name a class.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// What is to be told of it.
pub(crate) const DEPRECATED_ANNOTATION: &str =
    "deprecated since v1.8; use \"storageClassName\" attribute instead";
/// How volumes may be mounted.
pub(crate) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

impl Kind for PersistentVolumeClaim {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        columns: &[
            Column::NAME,
            Column::text("Status"),
            Column::text("Volume"),
            Column::text("Capacity"),
            Column::text("Access Modes"),
            Column::text("StorageClass"),
            Column::text("VolumeAttributesClass"),
            Column::AGE,
            Column::wide("VolumeMode"),
        ],
        ..Descriptor::namespaced(
            "",
            "v1",
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            "core.v1.PersistentVolumeClaim",
        )
    };

    fn set_defaults(&mut self) {
        set_spec_defaults(self.spec.get_or_insert_default());
        default_text(&mut self.status.get_or_insert_default().phase, "Pending");
    }

    fn prepare_create(&mut self) {
        let phase = Some("Pending".to_owned());
        self.status = Some(PersistentVolumeClaimStatus { phase, ..PersistentVolumeClaimStatus::default() });
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let empty = PersistentVolumeClaimSpec::default();
        validate_spec(self.spec.as_ref().unwrap_or(&empty), &Path::new("spec"), errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let capacity = self.status.as_ref().and_then(|status| status.capacity.as_ref());
        for (name, amount) in capacity.into_iter().flatten() {
            if let Some(amount) = Quantity::of(amount).filter(|amount| amount.is_negative()) {
                let path = Path::new("status").child("capacity").key(name);
                errors.invalid(&path, amount.value(), "must be a valid resource quantity");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old_spec), path) = (&self.spec, &old.spec, Path::new("spec")) else { return };
        let mut rest = new.clone();
        if old_spec.volume_name.as_deref().is_none_or(str::is_empty) {
            rest.volume_name.clone_from(&old_spec.volume_name);
        }
        if old_spec.storage_class_name.is_none() {
            // A claim from before there was a default class gets it when there is one.
            rest.storage_class_name = None;
        }
        let (new_size, old_size) = (requested(new).cloned(), requested(old_spec).cloned());
        if phase(self) == "Bound" {
            if let (Some(requests), Some(size)) =
                (rest.resources.as_mut().and_then(|r| r.requests.as_mut()), &old_size)
            {
                requests.insert("storage".to_owned(), size.clone());
            }
            if rest.volume_attributes_class_name.is_some() {
                rest.volume_attributes_class_name.clone_from(&old_spec.volume_attributes_class_name);
            }
        }
        if rest != *old_spec {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
            errors.forbidden(&path, detail);
        }
        let amount = |size: &Option<ApiQuantity>| size.as_ref().and_then(Quantity::of).unwrap_or_default();
        let capacity = self.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
        if amount(&new_size) < amount(&old_size) && amount(&new_size) <= amount(&capacity) {
            let path = path.child("resources").child("requests").child("storage");
            errors.forbidden(&path, "field can not be less than status.capacity");
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut told = Vec::new();
        if self.metadata.annotations.iter().any(|all| all.contains_key(CLASS_ANNOTATION)) {
            told.push(format!("metadata.annotations[{CLASS_ANNOTATION}]: {DEPRECATED_ANNOTATION}"));
        }
        if let Some(spec) = &self.spec {
            pod_spec::warnings::claim(spec, &Path::new("spec"), &mut told);
        }
        told
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let phase = if self.metadata.deletion_timestamp.is_some() { "Terminating" } else { phase(self) };
        let volume = spec.and_then(|s| s.volume_name.as_deref()).filter(|v| !v.is_empty());
        // What a claim got is known once it has a volume.
        let (modes, capacity) = match (volume, status) {
            (Some(_), Some(status)) => {
                let capacity = status.capacity.as_ref().and_then(|c| c.get("storage"));
                (cells::access_modes(status.access_modes.as_ref()), capacity.map(|c| c.0.as_str()))
            }
            _ => (Cell::text(""), None),
        };
        let attributes = spec.and_then(|s| s.volume_attributes_class_name.as_deref());
        let mode = spec.and_then(|s| s.volume_mode.as_deref()).unwrap_or("<unset>");
        vec![
            Cell::name(self.metadata()),
            Cell::text(phase),
            or_empty(volume),
            or_empty(capacity),
            modes,
            or_empty(class_name(self)),
            Cell::text(attributes.unwrap_or("<unset>")),
            Cell::age(self.metadata(), now),
            Cell::text(mode),
        ]
    }
}

/// Sets what a client left open; templates in stateful sets and pods share it.
pub(crate) fn set_spec_defaults(spec: &mut PersistentVolumeClaimSpec) {
    default_text(&mut spec.volume_mode, "Filesystem");
    let resources = spec.resources.get_or_insert_default();
    for list in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
        canonical_list(list);
    }
}

/// Checks the spec of a claim or of a template of claims.
pub(crate) fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut FieldErrors) {
    validate_access_modes(spec.access_modes.as_ref(), "at least 1 access mode is required", path, errors);
    if let Some(selector) = &spec.selector {
        validate_label_selector(selector, &path.child("selector"), errors);
    }
    let size_path = path.child("resources").key("storage");
    match requested(spec) {
        None => errors.required(&size_path, ""),
        Some(size) => validate_size(size, &size_path, errors),
    }
    if let Some(name) = spec.storage_class_name.as_deref().filter(|n| !n.is_empty()) {
        subdomain(errors, &path.child("storageClassName"), name);
    }
    if let Some(mode) = &spec.volume_mode {
        one_of(errors, &path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    validate_sources(spec, path, errors);
}

/// What a volume is to be filled from: a snapshot, another claim, or an object of somebody's own kind.
fn validate_sources(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut FieldErrors) {
    let old = spec.data_source.as_ref().map(|s| (s.api_group.as_deref(), s.kind.as_str(), s.name.as_str()));
    let new = spec.data_source_ref.as_ref();
    let new = new.map(|s| (s.api_group.as_deref(), s.kind.as_str(), s.name.as_str()));
    for (field, source) in [("dataSource", old), ("dataSourceRef", new)] {
        let Some((group, kind, name)) = source else { continue };
        let (path, group) = (path.child(field), group.unwrap_or_default());
        for (field, _) in [("name", name), ("kind", kind)].into_iter().filter(|(_, text)| text.is_empty()) {
            errors.required(&path.child(field), "");
        }
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&path, kind, detail);
        }
        if !group.is_empty() {
            subdomain(errors, &path.child("apiGroup"), group);
        }
    }
}

/// Checks an amount of storage.
pub(crate) fn validate_size(size: &ApiQuantity, path: &Path, errors: &mut FieldErrors) {
    match Quantity::parse(&size.0) {
        Err(error) => errors.invalid(path, size.0.as_str(), error.to_string()),
        Ok(amount) if amount.is_zero() || amount.is_negative() => {
            errors.invalid(path, amount.to_string(), "must be greater than zero");
        }
        Ok(_) => {}
    }
}

/// Checks how a volume may be mounted.
pub(crate) fn validate_access_modes(
    modes: Option<&Vec<String>>,
    required: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let path = path.child("accessModes");
    let modes = modes.map(Vec::as_slice).unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path, required);
    }
    for mode in modes {
        one_of(errors, &path, mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&ApiQuantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// `Pending`, `Bound` or `Lost`.
pub fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether it has its volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    phase(claim) == "Bound"
}

/// The class it asks for; `Some("")` asks for a volume without one.
pub fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    annotated.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// How many bytes it asks for.
pub fn requested_bytes(claim: &PersistentVolumeClaim) -> i64 {
    claim.spec.as_ref().and_then(requested).and_then(Quantity::of).map_or(0, Quantity::value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut claim);
        Kind::set_defaults(&mut claim);
        claim
    }

    fn sized(size: &str) -> PersistentVolumeClaim {
        claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}))
    }

    #[test]
    fn defaults_and_checks() {
        let spec = serde_json::to_value(sized("1024Mi").spec).unwrap();
        assert_eq!(
            spec,
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"})
        );
        let mut errors = FieldErrors::new();
        Kind::validate(&claim(json!({})), &mut errors);
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
        assert_eq!(requested_bytes(&sized("1Ki")), 1024);
    }

    #[test]
    fn only_bound_claims_grow() {
        let refused = |new: &PersistentVolumeClaim, old: &PersistentVolumeClaim| {
            let mut errors = FieldErrors::new();
            Kind::validate_update(new, old, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        let bound = |mut claim: PersistentVolumeClaim, capacity: &str| {
            claim.status =
                serde_json::from_value(json!({"phase": "Bound", "capacity": {"storage": capacity}})).unwrap();
            claim
        };
        assert_eq!(refused(&sized("2Gi"), &sized("1Gi")), ["spec"]);
        assert!(refused(&bound(sized("2Gi"), "1Gi"), &sized("1Gi")).is_empty());
        assert_eq!(refused(&bound(sized("1Gi"), "2Gi"), &sized("2Gi")), ["spec.resources.requests.storage"]);
        let mut named = sized("1Gi");
        named.spec.as_mut().unwrap().volume_name = Some("v".to_owned());
        assert!(refused(&named, &sized("1Gi")).is_empty());
        assert_eq!(refused(&sized("1Gi"), &named), ["spec"]);
    }

    #[test]
    fn sources_are_named_in_full() {
        let wrong = |source: Value| {
            let mut claim = sized("1Gi");
            claim.spec.as_mut().unwrap().data_source = serde_json::from_value(source).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&claim, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"kind": "PersistentVolumeClaim", "name": "c"})).is_empty());
        let group = "snapshot.storage.k8s.io";
        assert!(wrong(json!({"apiGroup": group, "kind": "VolumeSnapshot", "name": "s"})).is_empty());
        assert_eq!(wrong(json!({"kind": "VolumeSnapshot", "name": "s"})), ["spec.dataSource"]);
        assert_eq!(
            wrong(json!({"apiGroup": "a_b", "kind": "", "name": ""})),
            ["spec.dataSource.name", "spec.dataSource.kind", "spec.dataSource.apiGroup"]
        );
    }
}
