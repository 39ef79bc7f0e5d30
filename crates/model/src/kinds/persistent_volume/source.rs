//! Where a volume's data is: exactly one source, and what each needs.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, GlusterfsPersistentVolumeSource, ISCSIPersistentVolumeSource,
    PersistentVolumeSpec, SecretReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{label, subdomain};
use crate::kinds::pod_spec::containers::no_backsteps;
use crate::kinds::pod_spec::sources::{self, Iscsi, need, need_any};

/// The sources that a spec names, in the order and by the names of the reference server's refusals.
fn named(spec: &PersistentVolumeSpec) -> Vec<&'static str> {
    let s = spec;
    [
        ("hostPath", s.host_path.is_some()),
        ("gcePersistentDisk", s.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", s.aws_elastic_block_store.is_some()),
        ("glusterfs", s.glusterfs.is_some()),
        ("flocker", s.flocker.is_some()),
        ("nfs", s.nfs.is_some()),
        ("rbd", s.rbd.is_some()),
        ("quobyte", s.quobyte.is_some()),
        ("cephFS", s.cephfs.is_some()),
        ("iscsi", s.iscsi.is_some()),
        ("cinder", s.cinder.is_some()),
        ("fc", s.fc.is_some()),
        ("flexVolume", s.flex_volume.is_some()),
        ("azureFile", s.azure_file.is_some()),
        ("vsphereVolume", s.vsphere_volume.is_some()),
        ("photonPersistentDisk", s.photon_persistent_disk.is_some()),
        ("portworxVolume", s.portworx_volume.is_some()),
        ("azureDisk", s.azure_disk.is_some()),
        ("scaleIO", s.scale_io.is_some()),
        ("local", s.local.is_some()),
        ("storageos", s.storageos.is_some()),
        ("csi", s.csi.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

/// Checks the source of a volume.
pub(super) fn validate(
    spec: &PersistentVolumeSpec,
    metadata: &ObjectMeta,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let named = named(spec);
    let Some(first) = named.first() else {
        return errors.required(path, "must specify a volume type");
    };
    for field in named.iter().skip(1) {
        errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
    }
    let name = metadata.name.as_deref().unwrap_or_default();
    validate_remote(spec, first, name, path, errors);
    validate_disk(spec, first, path, errors);
}

/// Directories of nodes, and storage somewhere in the network.
fn validate_remote(
    spec: &PersistentVolumeSpec,
    source: &str,
    name: &str,
    spec_path: &Path,
    errors: &mut FieldErrors,
) {
    let path = &spec_path.child(source);
    match source {
        "hostPath" => spec.host_path.iter().for_each(|s| sources::validate_host_path(s, path, errors)),
        "nfs" => spec.nfs.iter().for_each(|s| sources::validate_nfs(s, path, errors)),
        "glusterfs" => spec.glusterfs.iter().for_each(|s| validate_glusterfs(s, path, errors)),
        "rbd" => spec.rbd.iter().for_each(|s| {
            need_any(errors, &path.child("monitors"), &s.monitors);
            need(errors, path, &[("image", &s.image)]);
        }),
        "quobyte" => spec.quobyte.iter().for_each(|s| sources::validate_quobyte(s, path, errors)),
        "cephFS" => spec
            .cephfs
            .iter()
            .for_each(|s| need_any(errors, &spec_path.child("cephfs").child("monitors"), &s.monitors)),
        "iscsi" => spec.iscsi.iter().for_each(|s| validate_iscsi(s, name, path, errors)),
        "fc" => spec.fc.iter().for_each(|s| sources::validate_fc(s, path, errors)),
        "flexVolume" => spec
            .flex_volume
            .iter()
            .for_each(|s| sources::validate_flex(&s.driver, s.options.as_ref(), path, errors)),
        "local" => spec.local.iter().for_each(|s| {
            need(errors, path, &[("path", &s.path)]);
            no_backsteps(&s.path, &path.child("path"), errors);
            if spec.node_affinity.is_none() {
                errors.required(&spec_path.child("nodeAffinity"), "Local volume requires node affinity");
            }
        }),
        "csi" => spec.csi.iter().for_each(|s| validate_csi(s, path, errors)),
        _ => {}
    }
}

/// Disks of clouds and of products.
fn validate_disk(spec: &PersistentVolumeSpec, source: &str, spec_path: &Path, errors: &mut FieldErrors) {
    let path = &spec_path.child(source);
    match source {
        "gcePersistentDisk" => spec
            .gce_persistent_disk
            .iter()
            .for_each(|s| sources::validate_gce(s, &spec_path.child("persistentDisk"), errors)),
        "awsElasticBlockStore" => {
            spec.aws_elastic_block_store.iter().for_each(|s| sources::validate_aws(s, path, errors));
        }
        "flocker" => spec.flocker.iter().for_each(|s| sources::validate_flocker(s, path, errors)),
        "cinder" => spec.cinder.iter().for_each(|s| {
            need(errors, path, &[("volumeID", &s.volume_id)]);
            s.secret_ref.iter().for_each(|secret| need_secret(secret, &path.child("secretRef"), errors));
        }),
        "azureFile" => spec.azure_file.iter().for_each(|s| {
            need(errors, path, &[("secretName", &s.secret_name), ("shareName", &s.share_name)]);
            if s.secret_namespace.as_deref() == Some("") {
                errors.required(&path.child("secretNamespace"), "");
            }
        }),
        "vsphereVolume" => {
            spec.vsphere_volume.iter().for_each(|s| need(errors, path, &[("volumePath", &s.volume_path)]));
        }
        "photonPersistentDisk" => {
            spec.photon_persistent_disk.iter().for_each(|s| need(errors, path, &[("pdID", &s.pd_id)]));
        }
        "portworxVolume" => {
            spec.portworx_volume.iter().for_each(|s| need(errors, path, &[("volumeID", &s.volume_id)]));
        }
        "azureDisk" => spec.azure_disk.iter().for_each(|s| sources::validate_azure_disk(s, path, errors)),
        "scaleIO" => spec.scale_io.iter().for_each(|s| {
            let name = s.volume_name.as_deref().unwrap_or_default();
            need(errors, path, &[("gateway", &s.gateway), ("system", &s.system), ("volumeName", name)]);
        }),
        "storageos" => spec.storageos.iter().for_each(|s| {
            let (name, namespace) = (s.volume_name.as_deref(), s.volume_namespace.as_deref());
            sources::validate_storage_os(name, namespace, path, errors);
            let secret = s.secret_ref.iter().map(|secret| SecretReference {
                name: secret.name.clone(),
                namespace: secret.namespace.clone(),
            });
            secret.for_each(|secret| need_secret(&secret, &path.child("secretRef"), errors));
        }),
        _ => {}
    }
}

fn need_secret(secret: &SecretReference, path: &Path, errors: &mut FieldErrors) {
    let (name, namespace) = (secret.name.as_deref(), secret.namespace.as_deref());
    let fields = [("name", name.unwrap_or_default()), ("namespace", namespace.unwrap_or_default())];
    need(errors, path, &fields);
}

fn validate_glusterfs(source: &GlusterfsPersistentVolumeSource, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("endpoints", &source.endpoints), ("path", &source.path)]);
    let namespace_path = path.child("endpointsNamespace");
    match source.endpoints_namespace.as_deref() {
        Some("") => {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.invalid(&namespace_path, "", detail);
        }
        Some(namespace) => label(errors, &namespace_path, namespace),
        None => {}
    }
}

fn validate_iscsi(source: &ISCSIPersistentVolumeSource, name: &str, path: &Path, errors: &mut FieldErrors) {
    let common = Iscsi {
        portal: &source.target_portal,
        target: &source.iqn,
        lun: source.lun,
        initiator: source.initiator_name.as_deref(),
        authenticates: source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true),
        has_secret: source.secret_ref.is_some(),
        wrong_beginning: "must be valid format",
    };
    if common.is_too_long(name) {
        let path = path.child("targetportal");
        errors.invalid(&path, source.target_portal.as_str(), sources::DEVICE_TOO_LONG);
    }
    common.validate(path, errors);
    if let Some(secret) = &source.secret_ref {
        need(errors, &path.child("secretRef"), &[("name", secret.name.as_deref().unwrap_or_default())]);
    }
}

fn validate_csi(source: &CSIPersistentVolumeSource, path: &Path, errors: &mut FieldErrors) {
    sources::validate_driver(&source.driver, &path.child("driver"), errors);
    need(errors, path, &[("volumeHandle", &source.volume_handle)]);
    for (field, secret) in [
        ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        let (Some(secret), path) = (secret, path.child(field)) else { continue };
        need_secret(secret, &path, errors);
        if let Some(name) = secret.name.as_deref().filter(|name| !name.is_empty()) {
            subdomain(errors, &path.child("name"), name);
        }
        if let Some(namespace) = secret.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            label(errors, &path.child("namespace"), namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(spec: Value) -> Vec<String> {
        let spec: PersistentVolumeSpec = serde_json::from_value(spec).unwrap();
        let metadata = ObjectMeta { name: Some("v".to_owned()), ..ObjectMeta::default() };
        let mut errors = FieldErrors::new();
        validate(&spec, &metadata, &Path::new("spec"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_source_needs_something() {
        for (spec, fields) in [
            (json!({"gcePersistentDisk": {"pdName": ""}}), vec!["persistentDisk.pdName"]),
            (json!({"cephfs": {"monitors": []}}), vec!["cephfs.monitors"]),
            (
                json!({"cinder": {"volumeID": "a", "secretRef": {}}}),
                vec!["cinder.secretRef.name", "cinder.secretRef.namespace"],
            ),
            (
                json!({"azureFile": {"secretName": "a", "shareName": "b", "secretNamespace": ""}}),
                vec!["azureFile.secretNamespace"],
            ),
            (
                json!({"csi": {"driver": "a.b", "volumeHandle": "", "nodeExpandSecretRef": {"name": "s"}}}),
                vec!["csi.volumeHandle", "csi.nodeExpandSecretRef.namespace"],
            ),
            (
                json!({"storageos": {"volumeName": "a", "secretRef": {"name": "s"}}}),
                vec!["storageos.secretRef.namespace"],
            ),
        ] {
            let expected: Vec<String> =
                fields.iter().map(|field| format!("spec.{field}: Required value")).collect();
            assert_eq!(wrong(spec), expected);
        }
    }

    #[test]
    fn local_volumes_stay_where_they_are() {
        assert_eq!(
            wrong(json!({"local": {"path": "/a/../b"}})),
            [
                "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ]
        );
    }

    #[test]
    fn the_first_source_counts() {
        let both = json!({"flexVolume": {"driver": "a/b"}, "cephfs": {"monitors": ["m"]}});
        assert_eq!(wrong(both), ["spec.flexVolume: Forbidden: may not specify more than 1 volume type"]);
    }
}
