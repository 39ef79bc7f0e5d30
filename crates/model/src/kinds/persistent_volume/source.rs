//! Where a volume's data is: exactly one source, and what each needs.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, GlusterfsPersistentVolumeSource, ISCSIPersistentVolumeSource,
    PersistentVolumeSpec, SecretReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{label, subdomain};
use crate::kinds::pod_spec::containers::no_backsteps;
use crate::kinds::pod_spec::shared::{self, Source};
use crate::kinds::pod_spec::sources::{self, Iscsi, need};

/// The sources that a spec may name, in the order and by the names of the reference server's refusals.
fn named(s: &PersistentVolumeSpec) -> [Option<Source<'_>>; 22] {
    [
        s.host_path.as_ref().map(Source::HostPath),
        s.gce_persistent_disk.as_ref().map(Source::Gce),
        s.aws_elastic_block_store.as_ref().map(Source::Aws),
        s.glusterfs
            .as_ref()
            .map(|source| Source::Glusterfs { endpoints: &source.endpoints, path: &source.path }),
        s.flocker.as_ref().map(Source::Flocker),
        s.nfs.as_ref().map(Source::Nfs),
        s.rbd.as_ref().map(|source| Source::Rbd { monitors: &source.monitors, image: &source.image }),
        s.quobyte.as_ref().map(Source::Quobyte),
        s.cephfs.as_ref().map(|source| Source::CephFs { monitors: &source.monitors }),
        Source::own("iscsi", s.iscsi.is_some()),
        s.cinder.as_ref().map(|source| Source::Cinder { volume: &source.volume_id }),
        s.fc.as_ref().map(Source::Fc),
        s.flex_volume
            .as_ref()
            .map(|source| Source::Flex { driver: &source.driver, options: source.options.as_ref() }),
        s.azure_file
            .as_ref()
            .map(|source| Source::AzureFile { secret: &source.secret_name, share: &source.share_name }),
        s.vsphere_volume.as_ref().map(|source| Source::Vsphere { path: &source.volume_path }),
        s.photon_persistent_disk.as_ref().map(|source| Source::Photon { disk: &source.pd_id }),
        s.portworx_volume.as_ref().map(|source| Source::Portworx { volume: &source.volume_id }),
        s.azure_disk.as_ref().map(Source::AzureDisk),
        s.scale_io.as_ref().map(|source| Source::ScaleIo {
            gateway: &source.gateway,
            system: &source.system,
            volume: source.volume_name.as_deref(),
        }),
        Source::own("local", s.local.is_some()),
        s.storageos.as_ref().map(|source| Source::StorageOs {
            volume: source.volume_name.as_deref(),
            namespace: source.volume_namespace.as_deref(),
        }),
        Source::own("csi", s.csi.is_some()),
    ]
}

/// Checks the source of a volume.
pub(super) fn validate(
    spec: &PersistentVolumeSpec,
    metadata: &ObjectMeta,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if let Some(first) = shared::only_first(named(spec), path, errors) {
        first.validate(path, errors);
        validate_own(spec, first.name(), metadata.name.as_deref().unwrap_or_default(), path, errors);
    }
}

/// What only volumes of the cluster have, and what they ask of the sources that pods have too.
fn validate_own(
    spec: &PersistentVolumeSpec,
    source: &str,
    name: &str,
    spec_path: &Path,
    errors: &mut FieldErrors,
) {
    let path = &spec_path.child(source);
    match source {
        "glusterfs" => spec.glusterfs.iter().for_each(|s| validate_glusterfs(s, path, errors)),
        "iscsi" => spec.iscsi.iter().for_each(|s| validate_iscsi(s, name, path, errors)),
        "local" => spec.local.iter().for_each(|s| {
            need(errors, path, &[("path", &s.path)]);
            no_backsteps(&s.path, &path.child("path"), errors);
            if spec.node_affinity.is_none() {
                errors.required(&spec_path.child("nodeAffinity"), "Local volume requires node affinity");
            }
        }),
        "csi" => spec.csi.iter().for_each(|s| validate_csi(s, path, errors)),
        "cinder" => spec.cinder.iter().for_each(|s| {
            s.secret_ref.iter().for_each(|secret| need_secret(secret, &path.child("secretRef"), errors));
        }),
        "azureFile" => spec.azure_file.iter().for_each(|s| {
            if s.secret_namespace.as_deref() == Some("") {
                errors.required(&path.child("secretNamespace"), "");
            }
        }),
        "storageos" => spec.storageos.iter().for_each(|s| {
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
