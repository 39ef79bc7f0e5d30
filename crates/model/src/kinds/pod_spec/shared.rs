//! The one list of what pods and PersistentVolumes can both keep their data in. What each source needs is in
//! [`sources`](super::sources); what only one of the two asks beyond that stands with it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, FCVolumeSource, FlockerVolumeSource,
    GCEPersistentDiskVolumeSource, HostPathVolumeSource, NFSVolumeSource, QuobyteVolumeSource,
};

use super::sources::{self, need, need_any};
use crate::field::{FieldErrors, Path};

/// A source that a volume names. Those for which the two have types of their own are plain values.
pub(crate) enum Source<'a> {
    HostPath(&'a HostPathVolumeSource),
    Gce(&'a GCEPersistentDiskVolumeSource),
    Aws(&'a AWSElasticBlockStoreVolumeSource),
    Nfs(&'a NFSVolumeSource),
    Glusterfs {
        endpoints: &'a str,
        path: &'a str,
    },
    Flocker(&'a FlockerVolumeSource),
    Rbd {
        monitors: &'a [String],
        image: &'a str,
    },
    Quobyte(&'a QuobyteVolumeSource),
    CephFs {
        monitors: &'a [String],
    },
    Cinder {
        volume: &'a str,
    },
    Fc(&'a FCVolumeSource),
    Flex {
        driver: &'a str,
        options: Option<&'a BTreeMap<String, String>>,
    },
    AzureFile {
        secret: &'a str,
        share: &'a str,
    },
    Vsphere {
        path: &'a str,
    },
    Photon {
        disk: &'a str,
    },
    Portworx {
        volume: &'a str,
    },
    AzureDisk(&'a AzureDiskVolumeSource),
    ScaleIo {
        gateway: &'a str,
        system: &'a str,
        volume: Option<&'a str>,
    },
    StorageOs {
        volume: Option<&'a str>,
        namespace: Option<&'a str>,
    },
    /// One that the other has not, or has in another form.
    Own(&'static str),
}

impl<'a> Source<'a> {
    /// One of its own, if it is set.
    pub(crate) fn own(name: &'static str, is_set: bool) -> Option<Self> {
        is_set.then_some(Self::Own(name))
    }

    /// What it is called in refusals, which is not its field everywhere.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::HostPath(_) => "hostPath",
            Self::Gce(_) => "gcePersistentDisk",
            Self::Aws(_) => "awsElasticBlockStore",
            Self::Nfs(_) => "nfs",
            Self::Glusterfs { .. } => "glusterfs",
            Self::Flocker(_) => "flocker",
            Self::Rbd { .. } => "rbd",
            Self::Quobyte(_) => "quobyte",
            Self::CephFs { .. } => "cephFS",
            Self::Cinder { .. } => "cinder",
            Self::Fc(_) => "fc",
            Self::Flex { .. } => "flexVolume",
            Self::AzureFile { .. } => "azureFile",
            Self::Vsphere { .. } => "vsphereVolume",
            Self::Photon { .. } => "photonPersistentDisk",
            Self::Portworx { .. } => "portworxVolume",
            Self::AzureDisk(_) => "azureDisk",
            Self::ScaleIo { .. } => "scaleIO",
            Self::StorageOs { .. } => "storageos",
            Self::Own(name) => name,
        }
    }

    /// Checks what both ask of it; `volume` is the path of what names it.
    pub(crate) fn validate(&self, volume_path: &Path, errors: &mut FieldErrors) {
        let path = &volume_path.child(self.name());
        match *self {
            Self::HostPath(s) => sources::validate_host_path(s, path, errors),
            Self::Gce(s) => sources::validate_gce(s, &volume_path.child("persistentDisk"), errors),
            Self::Aws(s) => sources::validate_aws(s, path, errors),
            Self::Nfs(s) => sources::validate_nfs(s, path, errors),
            Self::Glusterfs { endpoints, path: at } => {
                need(errors, path, &[("endpoints", endpoints), ("path", at)]);
            }
            Self::Flocker(s) => sources::validate_flocker(s, path, errors),
            Self::Rbd { monitors, image } => {
                need_any(errors, &path.child("monitors"), monitors);
                need(errors, path, &[("image", image)]);
            }
            Self::Quobyte(s) => sources::validate_quobyte(s, path, errors),
            Self::CephFs { monitors } => {
                need_any(errors, &volume_path.child("cephfs").child("monitors"), monitors);
            }
            Self::Cinder { volume } | Self::Portworx { volume } => {
                need(errors, path, &[("volumeID", volume)]);
            }
            Self::Fc(s) => sources::validate_fc(s, path, errors),
            Self::Flex { driver, options } => sources::validate_flex(driver, options, path, errors),
            Self::AzureFile { secret, share } => {
                need(errors, path, &[("secretName", secret), ("shareName", share)]);
            }
            Self::Vsphere { path: at } => need(errors, path, &[("volumePath", at)]),
            Self::Photon { disk } => need(errors, path, &[("pdID", disk)]),
            Self::AzureDisk(s) => sources::validate_azure_disk(s, path, errors),
            Self::ScaleIo { gateway, system, volume } => {
                let volume = volume.unwrap_or_default();
                need(errors, path, &[("gateway", gateway), ("system", system), ("volumeName", volume)]);
            }
            Self::StorageOs { volume, namespace } => {
                sources::validate_storage_os(volume, namespace, path, errors);
            }
            Self::Own(_) => {}
        }
    }
}

/// The sources that are set, and a refusal of each but the first.
pub(crate) fn only_first<'a, const N: usize>(
    all: [Option<Source<'a>>; N],
    path: &Path,
    errors: &mut FieldErrors,
) -> Option<Source<'a>> {
    let mut set = all.into_iter().flatten();
    let Some(first) = set.next() else {
        errors.required(path, "must specify a volume type");
        return None;
    };
    for more in set {
        errors.forbidden(&path.child(more.name()), "may not specify more than 1 volume type");
    }
    Some(first)
}
