//! Volumes of a pod: one source each, and what each source needs.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, ISCSIVolumeSource, KeyToPath, PersistentVolumeClaimTemplate, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::descending;
use super::env::{FILE_FIELDS, validate_field, validate_resource};
use super::projected;
use super::shared::{self, Source};
use super::sources::{self, Iscsi, need, need_secret};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{json, label, required_one_of, subdomain};
use crate::kinds::persistent_volume_claim;
use crate::meta;
use crate::quantity::Quantity;

/// The sources that a volume may name, in the order and by the names of the reference server's refusals (two of
/// these names are no fields).
fn sources(v: &Volume) -> [Option<Source<'_>>; 30] {
    [
        Source::own("emptyDir", v.empty_dir.is_some()),
        v.host_path.as_ref().map(Source::HostPath),
        Source::own("gitRepo", v.git_repo.is_some()),
        v.gce_persistent_disk.as_ref().map(Source::Gce),
        v.aws_elastic_block_store.as_ref().map(Source::Aws),
        Source::own("secret", v.secret.is_some()),
        v.nfs.as_ref().map(Source::Nfs),
        Source::own("iscsi", v.iscsi.is_some()),
        v.glusterfs.as_ref().map(|s| Source::Glusterfs { endpoints: &s.endpoints, path: &s.path }),
        v.flocker.as_ref().map(Source::Flocker),
        Source::own("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        v.rbd.as_ref().map(|s| Source::Rbd { monitors: &s.monitors, image: &s.image }),
        v.cinder.as_ref().map(|s| Source::Cinder { volume: &s.volume_id }),
        v.cephfs.as_ref().map(|s| Source::CephFs { monitors: &s.monitors }),
        v.quobyte.as_ref().map(Source::Quobyte),
        // Kubernetes' own spelling, in its messages.
        Source::own("downwarAPI", v.downward_api.is_some()),
        v.fc.as_ref().map(Source::Fc),
        v.flex_volume.as_ref().map(|s| Source::Flex { driver: &s.driver, options: s.options.as_ref() }),
        Source::own("configMap", v.config_map.is_some()),
        v.azure_file.as_ref().map(|s| Source::AzureFile { secret: &s.secret_name, share: &s.share_name }),
        v.vsphere_volume.as_ref().map(|s| Source::Vsphere { path: &s.volume_path }),
        v.photon_persistent_disk.as_ref().map(|s| Source::Photon { disk: &s.pd_id }),
        v.portworx_volume.as_ref().map(|s| Source::Portworx { volume: &s.volume_id }),
        v.azure_disk.as_ref().map(Source::AzureDisk),
        v.storageos.as_ref().map(|s| Source::StorageOs {
            volume: s.volume_name.as_deref(),
            namespace: s.volume_namespace.as_deref(),
        }),
        Source::own("projected", v.projected.is_some()),
        v.scale_io.as_ref().map(|s| Source::ScaleIo {
            gateway: &s.gateway,
            system: &s.system,
            volume: s.volume_name.as_deref(),
        }),
        Source::own("csi", v.csi.is_some()),
        Source::own("ephemeral", v.ephemeral.is_some()),
        Source::own("image", v.image.is_some()),
    ]
}

/// Whether it has any source; if not it is an `emptyDir`.
pub(super) fn has_source(volume: &Volume) -> bool {
    sources(volume).iter().any(Option::is_some)
}

/// Checks volumes.
pub(super) fn validate(volumes: &[Volume], path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if let Some(first) = shared::only_first(sources(volume), &path, errors) {
            first.validate(&path, errors);
            validate_plain(volume, first.name(), &path, errors);
            validate_other(volume, first.name(), &path, errors);
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

/// What somebody else mounts, and what pods ask of the sources that volumes of the cluster have too.
fn validate_other(volume: &Volume, source: &str, volume_path: &Path, errors: &mut FieldErrors) {
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
        "iscsi" => volume.iscsi.iter().for_each(|s| validate_iscsi(s, &volume.name, volume_path, errors)),
        "csi" => volume.csi.iter().for_each(|s| {
            sources::validate_driver(&s.driver, &path.child("driver"), errors);
            match s.node_publish_secret_ref.as_ref().map(|secret| secret.name.as_str()) {
                Some("") => errors.required(&path.child("nodePublishSecretRef").child("name"), ""),
                Some(name) => subdomain(errors, &path.child("name"), name),
                None => {}
            }
        }),
        "cinder" => volume.cinder.iter().for_each(|s| {
            need_secret(errors, path, s.secret_ref.as_ref().map(|secret| secret.name.as_str()));
        }),
        "storageos" => volume.storageos.iter().for_each(|s| {
            need_secret(errors, path, s.secret_ref.as_ref().map(|secret| secret.name.as_str()));
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
