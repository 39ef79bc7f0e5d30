//! PersistentVolume: storage that outlives the pods that use it.
//! Invariant: where it is never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use serde_json::Value;

use super::cells::{self, or_empty};
use super::check::{default_text, default_to, json, one_of, subdomain};
use super::persistent_volume_claim::{CLASS_ANNOTATION, validate_access_modes, validate_size};
use super::pod_spec::defaults::set_azure_disk;
use super::pod_spec::resources::canonical_list;
use super::pod_spec::scheduling::validate_node_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::table::{Cell, Column};

mod source;
mod warnings;

/// Holds a volume's deletion while a claim is bound to it.
pub const PROTECTION_FINALIZER: &str = "kubernetes.io/pv-protection";
/// The fields of a spec that are no sources.
const NO_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

impl Kind for PersistentVolume {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["pv"],
        subresources: &[Subresource::Status],
        columns: &[
            Column::NAME,
            Column::text("Capacity"),
            Column::text("Access Modes"),
            Column::text("Reclaim Policy"),
            Column::text("Status"),
            Column::text("Claim"),
            Column::text("StorageClass"),
            Column::text("VolumeAttributesClass"),
            Column::text("Reason"),
            Column::AGE,
            Column::wide("VolumeMode"),
        ],
        ..Descriptor::cluster(
            "",
            "v1",
            "PersistentVolume",
            "persistentvolumes",
            "persistentvolume",
            "core.v1.PersistentVolume",
        )
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        default_text(&mut spec.volume_mode, "Filesystem");
        if let Some(capacity) = &mut spec.capacity {
            canonical_list(capacity);
        }
        if let Some(source) = &mut spec.host_path {
            default_to(&mut source.type_, String::new());
        }
        if let Some(source) = &mut spec.iscsi {
            default_text(&mut source.iscsi_interface, "default");
        }
        if let Some(source) = &mut spec.rbd {
            default_text(&mut source.pool, "rbd");
            default_text(&mut source.user, "admin");
            default_text(&mut source.keyring, "/etc/ceph/keyring");
        }
        if let Some(source) = &mut spec.azure_disk {
            set_azure_disk(source);
        }
        if let Some(source) = &mut spec.scale_io {
            default_text(&mut source.storage_mode, "ThinProvisioned");
            default_text(&mut source.fs_type, "xfs");
        }
        default_text(&mut self.status.get_or_insert_default().phase, "Pending");
    }

    fn prepare_create(&mut self) {
        let phase = Some("Pending".to_owned());
        self.status = Some(PersistentVolumeStatus { phase, ..PersistentVolumeStatus::default() });
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), PersistentVolumeSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        validate_access_modes(spec.access_modes.as_ref(), "", &path, errors);
        validate_capacity(spec, &path.child("capacity"), errors);
        validate_policy(spec, &path, errors);
        if let Some(required) = spec.node_affinity.as_ref().map(|a| a.required.as_ref()) {
            let path = path.child("nodeAffinity").child("required");
            match required {
                None => errors.required(&path, "must specify required node constraints"),
                Some(selector) => validate_node_selector(selector, &path, errors),
            }
        }
        source::validate(spec, &self.metadata, &path, errors);
        if let Some(name) = spec.storage_class_name.as_deref().filter(|n| !n.is_empty()) {
            subdomain(errors, &path.child("storageClassName"), name);
        }
        if let Some(mode) = &spec.volume_mode {
            one_of(errors, &path.child("volumeMode"), mode, &["Block", "Filesystem"]);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (Some(new), Some(old), path) = (&self.spec, &old.spec, Path::new("spec")) else { return };
        if sources(&json(new)) != sources(&json(old)) {
            errors.forbidden(
                &path.child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        let mode = new.volume_mode.clone();
        errors.immutable(&path.child("volumeMode"), &mode, &old.volume_mode, mode.clone());
        if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
            errors.invalid(&path.child("nodeAffinity"), json(&new.node_affinity), "field is immutable");
        }
    }

    fn warnings(&self) -> Vec<String> {
        warnings::of(self)
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.clone().unwrap_or_default();
        let phase = if self.metadata.deletion_timestamp.is_some() { "Terminating" } else { phase(self) };
        let claim = spec.claim_ref.as_ref().map(|c| {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            format!("{}/{}", text(&c.namespace), text(&c.name))
        });
        let capacity = spec.capacity.as_ref().and_then(|c| c.get("storage"));
        vec![
            Cell::name(self.metadata()),
            or_empty(capacity.map(|c| c.0.as_str())),
            cells::access_modes(spec.access_modes.as_ref()),
            or_empty(spec.persistent_volume_reclaim_policy.as_deref()),
            Cell::text(phase),
            or_empty(claim.as_deref()),
            or_empty(spec.storage_class_name.as_deref()),
            Cell::text(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            or_empty(self.status.as_ref().and_then(|s| s.reason.as_deref())),
            Cell::age(self.metadata(), now),
            Cell::text(spec.volume_mode.as_deref().unwrap_or("<unset>")),
        ]
    }
}

fn validate_capacity(spec: &PersistentVolumeSpec, path: &Path, errors: &mut FieldErrors) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(path, "");
    }
    match capacity.get("storage") {
        Some(size) if capacity.len() == 1 => validate_size(size, &path.key("storage"), errors),
        _ => errors.not_supported(path, json(&spec.capacity), &["storage"]),
    }
}

fn validate_policy(spec: &PersistentVolumeSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(policy) = &spec.persistent_volume_reclaim_policy else { return };
    let path = path.child("persistentVolumeReclaimPolicy");
    one_of(errors, &path, policy, &["Delete", "Recycle", "Retain"]);
    let is_root =
        spec.host_path.as_ref().is_some_and(|h| !h.path.is_empty() && h.path.trim_matches('/').is_empty());
    if policy == "Recycle" && is_root {
        errors.forbidden(&path, "may not be 'recycle' for a hostPath mount of '/'");
    }
}

/// The sources that a spec names, with what they say.
fn sources(spec: &Value) -> Vec<(&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !NO_SOURCES.contains(&name.as_str())).collect()
}

/// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The name of its class; empty: none.
pub fn class_name(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    let named = || volume.spec.as_ref()?.storage_class_name.as_ref();
    annotated.or_else(named).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        let mut volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut volume);
        Kind::set_defaults(&mut volume);
        volume
    }

    fn errors(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        Kind::validate(&volume(spec), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_and_row() {
        let volume = volume(json!({"storageClassName": "k", "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "claimRef": {"namespace": "a", "name": "b"}}));
        assert_eq!(volume.spec.as_ref().unwrap().host_path.as_ref().unwrap().type_.as_deref(), Some(""));
        let cells: Vec<_> = Kind::row(&volume, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells,
            ["v", "1Gi", "RWO", "Retain", "Pending", "a/b", "k", "<unset>", "", "<unknown>", "Filesystem"]
        );
    }

    #[test]
    fn wrong_specs_are_refused() {
        assert_eq!(
            errors(json!({})),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec: Required value: must specify a volume type",
            ]
        );
        let base = || json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/"}});
        let mut two = base();
        two["nfs"] = json!({"server": "s", "path": "/p"});
        assert_eq!(errors(two), ["spec.nfs: Forbidden: may not specify more than 1 volume type"]);
        let mut recycled = base();
        recycled["persistentVolumeReclaimPolicy"] = json!("Recycle");
        assert_eq!(
            errors(recycled),
            [
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"
            ]
        );
    }
}
