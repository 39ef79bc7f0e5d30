//! Volumes of a pod: one source each, and what each source needs.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, NFSVolumeSource, ProjectedVolumeSource, Volume,
};

use super::containers::{descending, no_backsteps};
use super::env::{FILE_FIELDS, validate_field, validate_resource};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{label, one_of};
use crate::quantity::Quantity;

/// The sources that a volume names, by their fields.
fn sources(volume: &Volume) -> Vec<&'static str> {
    let v = volume;
    [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("secret", v.secret.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephFS", v.cephfs.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("downwardAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageOS", v.storageos.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("projected", v.projected.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("image", v.image.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

/// Whether it has any source; if not it is an `emptyDir`.
pub(super) fn has_source(volume: &Volume) -> bool {
    !sources(volume).is_empty()
}

/// Checks volumes.
pub(super) fn validate(volumes: &[Volume], path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let sources = sources(volume);
        if sources.is_empty() {
            errors.required(&path, "must specify a volume type");
        }
        for field in sources.iter().skip(1) {
            errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
        }
        if let Some(first) = sources.first() {
            validate_source(volume, first, &path.child(first), errors);
        }
        if volume.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            label(errors, &path.child("name"), &volume.name);
        }
        if !names.insert(volume.name.as_str()) {
            errors.duplicate(&path.child("name"), volume.name.as_str());
        }
    }
}

fn validate_source(volume: &Volume, source: &str, path: &Path, errors: &mut FieldErrors) {
    match source {
        "emptyDir" => {
            let limit = volume.empty_dir.as_ref().and_then(|s| s.size_limit.as_ref());
            if limit.and_then(Quantity::of).is_some_and(Quantity::is_negative) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&path.child("sizeLimit"), detail);
            }
        }
        "hostPath" => volume.host_path.iter().for_each(|s| validate_host_path(s, path, errors)),
        "nfs" => volume.nfs.iter().for_each(|s| validate_nfs(s, path, errors)),
        "secret" => volume.secret.iter().for_each(|s| {
            if s.secret_name.as_deref().is_none_or(str::is_empty) {
                errors.required(&path.child("secretName"), "");
            }
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_items(s.items.as_ref(), &path.child("items"), errors);
        }),
        "configMap" => volume.config_map.iter().for_each(|s| {
            if s.name.is_empty() {
                errors.required(&path.child("name"), "");
            }
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_items(s.items.as_ref(), &path.child("items"), errors);
        }),
        "persistentVolumeClaim" => volume.persistent_volume_claim.iter().for_each(|s| {
            if s.claim_name.is_empty() {
                errors.required(&path.child("claimName"), "");
            }
        }),
        "downwardAPI" => volume.downward_api.iter().for_each(|s| {
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_files(s.items.as_ref(), &path.child("items"), errors);
        }),
        "projected" => volume.projected.iter().for_each(|s| validate_projected(s, path, errors)),
        "csi" => volume.csi.iter().for_each(|s| {
            if s.driver.is_empty() {
                errors.required(&path.child("driver"), "");
            }
        }),
        "ephemeral" => volume.ephemeral.iter().for_each(|s| {
            if s.volume_claim_template.is_none() {
                errors.required(&path.child("volumeClaimTemplate"), "");
            }
        }),
        _ => {}
    }
}

/// Checks a directory of the node.
pub(crate) fn validate_host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    no_backsteps(&source.path, &path.child("path"), errors);
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    one_of(errors, &path.child("type"), source.type_.as_deref().unwrap_or_default(), TYPES);
}

/// Checks an NFS export.
pub(crate) fn validate_nfs(source: &NFSVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if source.server.is_empty() {
        errors.required(&path.child("server"), "");
    }
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    if !source.path.starts_with('/') {
        errors.invalid(&path.child("path"), source.path.as_str(), "must be an absolute path");
    }
}

fn validate_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn validate_items(items: Option<&Vec<KeyToPath>>, path: &Path, errors: &mut FieldErrors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(i);
        if item.key.is_empty() {
            errors.required(&path.child("key"), "");
        }
        validate_file_path(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

/// Names that start with `..` are the volume's own, for its atomic updates.
fn validate_file_path(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    descending(text, path, errors);
    if text.starts_with("..") && text.split('/').all(|part| part != "..") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

fn validate_files(files: Option<&Vec<DownwardAPIVolumeFile>>, path: &Path, errors: &mut FieldErrors) {
    for file in files.into_iter().flatten() {
        // The reference server names these fields without an index.
        validate_file_path(&file.path, &path.child("path"), errors);
        if let Some(field) = &file.field_ref {
            validate_field(field, FILE_FIELDS, &path.child("fieldRef"), errors);
            if file.resource_field_ref.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        } else if let Some(resource) = &file.resource_field_ref {
            validate_resource(resource, true, &path.child("resourceFieldRef"), errors);
        } else {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
        validate_mode(file.mode, &path.child("mode"), errors);
    }
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut FieldErrors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    for (i, projection) in source.sources.iter().flatten().enumerate() {
        let path = path.child("sources").index(i);
        if let Some(secret) = &projection.secret {
            let path = path.child("secret");
            if secret.name.is_empty() {
                errors.required(&path.child("name"), "");
            }
            validate_items(secret.items.as_ref(), &path.child("items"), errors);
        }
        if let Some(config_map) = &projection.config_map {
            let path = path.child("configMap");
            if config_map.name.is_empty() {
                errors.required(&path.child("name"), "");
            }
            validate_items(config_map.items.as_ref(), &path.child("items"), errors);
        }
        if let Some(files) = &projection.downward_api {
            validate_files(files.items.as_ref(), &path.child("downwardAPI"), errors);
        }
        if let Some(token) = &projection.service_account_token {
            let path = path.child("serviceAccountToken");
            let seconds = token.expiration_seconds.unwrap_or(0);
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&path.child("expirationSeconds"), seconds, detail);
            }
            if token.path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                descending(&token.path, &path.child("path"), errors);
            }
        }
    }
}
