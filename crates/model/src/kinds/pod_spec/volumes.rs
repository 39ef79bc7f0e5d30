//! Volumes of a pod: one source each, and what each source needs.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, ISCSIVolumeSource, KeyToPath, PersistentVolumeClaimTemplate, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::descending;
use super::env::{FILE_FIELDS, validate_field, validate_resource};
use super::projected;
use super::sources::{self, Iscsi, need, need_any, need_secret, validate_host_path, validate_nfs};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{json, label, required_one_of, subdomain};
use crate::kinds::persistent_volume_claim;
use crate::meta;
use crate::quantity::Quantity;

/// The sources that a volume names, in the order and by the names of the reference server's refusals (two of
/// these names are no fields).
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
        ("downwarAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageos", v.storageos.is_some()),
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
            validate_source(volume, first, &path, errors);
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

/// Checks the source that counts.
fn validate_source(volume: &Volume, source: &str, path: &Path, errors: &mut FieldErrors) {
    validate_plain(volume, source, path, errors);
    validate_remote(volume, source, path, errors);
    validate_cloud(volume, source, path, errors);
}

/// Sources that every node has.
fn validate_plain(volume: &Volume, source: &str, volume_path: &Path, errors: &mut FieldErrors) {
    let path = &volume_path.child(source);
    match source {
        "emptyDir" => {
            let limit = volume.empty_dir.as_ref().and_then(|s| s.size_limit.as_ref());
            if limit.and_then(Quantity::of).is_some_and(Quantity::is_negative) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&path.child("sizeLimit"), detail);
            }
        }
        "hostPath" => volume.host_path.iter().for_each(|s| validate_host_path(s, path, errors)),
        "secret" => volume.secret.iter().for_each(|s| {
            need(errors, path, &[("secretName", s.secret_name.as_deref().unwrap_or_default())]);
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_items(s.items.as_ref(), &path.child("items"), errors);
        }),
        "configMap" => volume.config_map.iter().for_each(|s| {
            need(errors, path, &[("name", &s.name)]);
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_items(s.items.as_ref(), &path.child("items"), errors);
        }),
        "downwarAPI" => volume.downward_api.iter().for_each(|s| {
            let path = volume_path.child("downwardAPI");
            validate_mode(s.default_mode, &path.child("defaultMode"), errors);
            validate_files(s.items.as_ref(), &path, errors);
        }),
        "projected" => volume.projected.iter().for_each(|s| projected::validate(s, path, errors)),
        "ephemeral" => volume.ephemeral.iter().for_each(|s| match &s.volume_claim_template {
            None => errors.required(&path.child("volumeClaimTemplate"), ""),
            Some(template) => validate_template(template, &path.child("volumeClaimTemplate"), errors),
        }),
        "image" => volume.image.iter().for_each(|s| {
            let known = ["Always", "IfNotPresent", "Never"];
            required_one_of(errors, &path.child("pullPolicy"), s.pull_policy.as_deref(), &known);
        }),
        _ => {}
    }
}

/// Storage somewhere in the network, and what somebody else mounts.
fn validate_remote(volume: &Volume, source: &str, volume_path: &Path, errors: &mut FieldErrors) {
    let path = &volume_path.child(source);
    match source {
        "persistentVolumeClaim" => volume
            .persistent_volume_claim
            .iter()
            .for_each(|s| need(errors, path, &[("claimName", &s.claim_name)])),
        "gitRepo" => volume.git_repo.iter().for_each(|s| {
            need(errors, path, &[("repository", &s.repository)]);
            descending(s.directory.as_deref().unwrap_or_default(), &path.child("directory"), errors);
        }),
        "nfs" => volume.nfs.iter().for_each(|s| validate_nfs(s, path, errors)),
        "iscsi" => volume.iscsi.iter().for_each(|s| validate_iscsi(s, &volume.name, volume_path, errors)),
        "glusterfs" => volume
            .glusterfs
            .iter()
            .for_each(|s| need(errors, path, &[("endpoints", &s.endpoints), ("path", &s.path)])),
        "flocker" => volume.flocker.iter().for_each(|s| sources::validate_flocker(s, path, errors)),
        "rbd" => volume.rbd.iter().for_each(|s| {
            need_any(errors, &path.child("monitors"), &s.monitors);
            need(errors, path, &[("image", &s.image)]);
        }),
        "cephFS" => volume
            .cephfs
            .iter()
            .for_each(|s| need_any(errors, &volume_path.child("cephfs").child("monitors"), &s.monitors)),
        "quobyte" => volume.quobyte.iter().for_each(|s| sources::validate_quobyte(s, path, errors)),
        "fc" => volume.fc.iter().for_each(|s| sources::validate_fc(s, path, errors)),
        "flexVolume" => volume
            .flex_volume
            .iter()
            .for_each(|s| sources::validate_flex(&s.driver, s.options.as_ref(), path, errors)),
        "csi" => volume.csi.iter().for_each(|s| {
            sources::validate_driver(&s.driver, &path.child("driver"), errors);
            match s.node_publish_secret_ref.as_ref().map(|secret| secret.name.as_str()) {
                Some("") => errors.required(&path.child("nodePublishSecretRef").child("name"), ""),
                Some(name) => subdomain(errors, &path.child("name"), name),
                None => {}
            }
        }),
        _ => {}
    }
}

/// Disks of clouds and of products.
fn validate_cloud(volume: &Volume, source: &str, volume_path: &Path, errors: &mut FieldErrors) {
    let path = &volume_path.child(source);
    match source {
        "gcePersistentDisk" => volume
            .gce_persistent_disk
            .iter()
            .for_each(|s| sources::validate_gce(s, &volume_path.child("persistentDisk"), errors)),
        "awsElasticBlockStore" => {
            volume.aws_elastic_block_store.iter().for_each(|s| sources::validate_aws(s, path, errors));
        }
        "cinder" => volume.cinder.iter().for_each(|s| {
            need(errors, path, &[("volumeID", &s.volume_id)]);
            need_secret(errors, path, s.secret_ref.as_ref().map(|secret| secret.name.as_str()));
        }),
        "azureFile" => volume.azure_file.iter().for_each(|s| {
            need(errors, path, &[("secretName", &s.secret_name), ("shareName", &s.share_name)]);
        }),
        "vsphereVolume" => {
            volume.vsphere_volume.iter().for_each(|s| need(errors, path, &[("volumePath", &s.volume_path)]))
        }
        "photonPersistentDisk" => {
            volume.photon_persistent_disk.iter().for_each(|s| need(errors, path, &[("pdID", &s.pd_id)]))
        }
        "portworxVolume" => {
            volume.portworx_volume.iter().for_each(|s| need(errors, path, &[("volumeID", &s.volume_id)]))
        }
        "azureDisk" => volume.azure_disk.iter().for_each(|s| sources::validate_azure_disk(s, path, errors)),
        "storageos" => volume.storageos.iter().for_each(|s| {
            let (name, namespace) = (s.volume_name.as_deref(), s.volume_namespace.as_deref());
            sources::validate_storage_os(name, namespace, path, errors);
            need_secret(errors, path, s.secret_ref.as_ref().map(|secret| secret.name.as_str()));
        }),
        "scaleIO" => volume.scale_io.iter().for_each(|s| {
            let name = s.volume_name.as_deref().unwrap_or_default();
            need(errors, path, &[("gateway", &s.gateway), ("system", &s.system), ("volumeName", name)]);
        }),
        _ => {}
    }
}

fn validate_iscsi(source: &ISCSIVolumeSource, volume: &str, path: &Path, errors: &mut FieldErrors) {
    let common = Iscsi {
        portal: &source.target_portal,
        target: &source.iqn,
        lun: source.lun,
        initiator: source.initiator_name.as_deref(),
        authenticates: source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true),
        has_secret: source.secret_ref.is_some(),
        wrong_beginning: "must be valid format starting with iqn, eui, or naa",
    };
    common.validate(&path.child("iscsi"), errors);
    if common.is_too_long(volume) {
        errors.invalid(&path.child("name"), volume, sources::DEVICE_TOO_LONG);
    }
}

/// The claim that is made for a pod: of its metadata only labels and annotations are taken over.
fn validate_template(template: &PersistentVolumeClaimTemplate, path: &Path, errors: &mut FieldErrors) {
    let empty = ObjectMeta::default();
    let metadata = template.metadata.as_ref().unwrap_or(&empty);
    let meta_path = path.child("metadata");
    meta::validate_labels(metadata.labels.as_ref(), &meta_path.child("labels"), errors);
    let set = json(metadata);
    let fields = set.as_object().into_iter().flat_map(|fields| fields.keys());
    for field in fields.filter(|field| !matches!(field.as_str(), "annotations" | "labels")) {
        errors.forbidden(&meta_path.child(field), "cannot be set");
    }
    persistent_volume_claim::validate_spec(&template.spec, &path.child("spec"), errors);
}

pub(super) fn validate_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

pub(super) fn validate_items(items: Option<&Vec<KeyToPath>>, path: &Path, errors: &mut FieldErrors) {
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
pub(super) fn validate_file_path(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    descending(text, path, errors);
    if text.starts_with("..") && text.split('/').all(|part| part != "..") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

pub(super) fn validate_files(
    files: Option<&Vec<DownwardAPIVolumeFile>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(mut volume: Value) -> Vec<String> {
        volume["name"] = json!("v");
        let volumes: Vec<Volume> = vec![serde_json::from_value(volume).unwrap()];
        let mut errors = FieldErrors::new();
        validate(&volumes, &Path::new("volumes"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_volume_has_one_source() {
        assert_eq!(wrong(json!({})), ["volumes[0]: Required value: must specify a volume type"]);
        assert_eq!(
            wrong(json!({"emptyDir": {}, "cephfs": {"monitors": []}, "downwardAPI": {}})),
            [
                "volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
                "volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
            ]
        );
        assert_eq!(
            wrong(json!({"emptyDir": {"sizeLimit": "-1"}})),
            ["volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"]
        );
    }

    #[test]
    fn every_source_needs_something() {
        let cases = [
            (json!({"gitRepo": {"repository": ""}}), vec!["gitRepo.repository"]),
            (json!({"gcePersistentDisk": {"pdName": ""}}), vec!["persistentDisk.pdName"]),
            (json!({"awsElasticBlockStore": {"volumeID": ""}}), vec!["awsElasticBlockStore.volumeID"]),
            (json!({"secret": {}}), vec!["secret.secretName"]),
            (json!({"configMap": {}}), vec!["configMap.name"]),
            (
                json!({"iscsi": {"targetPortal": "", "iqn": "", "lun": 0}}),
                vec!["iscsi.targetPortal", "iscsi.iqn"],
            ),
            (
                json!({"glusterfs": {"endpoints": "", "path": ""}}),
                vec!["glusterfs.endpoints", "glusterfs.path"],
            ),
            (json!({"persistentVolumeClaim": {"claimName": ""}}), vec!["persistentVolumeClaim.claimName"]),
            (json!({"rbd": {"monitors": [], "image": ""}}), vec!["rbd.monitors", "rbd.image"]),
            (
                json!({"cinder": {"volumeID": "", "secretRef": {}}}),
                vec!["cinder.volumeID", "cinder.secretRef.name"],
            ),
            (json!({"cephfs": {"monitors": []}}), vec!["cephfs.monitors"]),
            (json!({"flexVolume": {"driver": ""}}), vec!["flexVolume.driver"]),
            (
                json!({"azureFile": {"secretName": "", "shareName": ""}}),
                vec!["azureFile.secretName", "azureFile.shareName"],
            ),
            (json!({"vsphereVolume": {"volumePath": ""}}), vec!["vsphereVolume.volumePath"]),
            (json!({"photonPersistentDisk": {"pdID": ""}}), vec!["photonPersistentDisk.pdID"]),
            (json!({"portworxVolume": {"volumeID": ""}}), vec!["portworxVolume.volumeID"]),
            (
                json!({"storageos": {"secretRef": {}}}),
                vec!["storageos.volumeName", "storageos.secretRef.name"],
            ),
            (
                json!({"scaleIO": {"gateway": "", "system": "", "secretRef": {}}}),
                vec!["scaleIO.gateway", "scaleIO.system", "scaleIO.volumeName"],
            ),
            (json!({"ephemeral": {}}), vec!["ephemeral.volumeClaimTemplate"]),
            (json!({"image": {"reference": "a"}}), vec!["image.pullPolicy"]),
            (
                json!({"csi": {"driver": "a.b", "nodePublishSecretRef": {}}}),
                vec!["csi.nodePublishSecretRef.name"],
            ),
        ];
        for (volume, fields) in cases {
            let expected: Vec<String> =
                fields.iter().map(|field| format!("volumes[0].{field}: Required value")).collect();
            assert_eq!(wrong(volume), expected);
        }
    }

    #[test]
    fn disks_have_partitions_and_repositories_stay_inside() {
        assert_eq!(
            wrong(json!({"gcePersistentDisk": {"pdName": "a", "partition": 256}})),
            ["volumes[0].persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive"]
        );
        assert_eq!(
            wrong(json!({"gitRepo": {"repository": "a", "directory": "../b"}})),
            ["volumes[0].gitRepo.directory: Invalid value: \"../b\": must not contain '..'"]
        );
    }

    #[test]
    fn claims_of_pods_take_labels_and_annotations_only() {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let good = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
        assert!(wrong(json!({"ephemeral": {"volumeClaimTemplate": good}})).is_empty());
        let named = json!({"metadata": {"name": "x"}, "spec": {"resources": {}}});
        assert_eq!(
            wrong(json!({"ephemeral": {"volumeClaimTemplate": named}})),
            [
                "volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                "volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
                "volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
            ]
        );
    }

    #[test]
    fn files_show_fields_or_resources() {
        let file = json!({"path": "a", "mode": 0o1000,
            "fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}});
        assert_eq!(
            wrong(json!({"downwardAPI": {"defaultMode": -1, "items": [file, {"path": "b"}]}})),
            [
                "volumes[0].downwardAPI.defaultMode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive",
                "volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                "volumes[0].downwardAPI.mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            ]
        );
    }
}
