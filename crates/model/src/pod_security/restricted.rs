//! The checks of the restricted level: what a well-behaved program can do without.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext, Volume};

use super::Violation;
use super::baseline::{is_unconfined, unconfined};
use super::subject::{Subject, containers, plural, quoted, quoted_set, setters, uses};

pub(super) fn privilege_escalation(subject: &Subject<'_>) -> Option<Violation> {
    let may = |security: Option<&SecurityContext>| {
        security.and_then(|security| security.allow_privilege_escalation) != Some(false)
    };
    let names = subject.names_of(|container| may(container.context));
    (!subject.is_windows() && !names.is_empty()).then(|| {
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let drops_all = |c: &Capabilities| c.drop.iter().flatten().any(|name| name == "ALL");
    let keeping = subject.names_of(|container| {
        !container.context.and_then(|security| security.capabilities.as_ref()).is_some_and(drops_all)
    });
    let is_bad = |name: &&String| name.as_str() != "NET_BIND_SERVICE";
    let adds = |c: &Capabilities| c.add.iter().flatten().any(|name| is_bad(&name));
    let adding = subject.names(|security| security.capabilities.as_ref().is_some_and(adds));
    let keeping = (!keeping.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    let adding = (!adding.is_empty()).then(|| {
        let wanted = subject.containers.iter().filter_map(|c| c.context?.capabilities.as_ref()?.add.as_ref());
        let bad = quoted_set(wanted.flatten().filter(is_bad).map(String::as_str));
        format!("{} must not include {bad} in securityContext.capabilities.add", containers(&adding))
    });
    let wrong: Vec<_> = keeping.into_iter().chain(adding).collect();
    (!wrong.is_empty()).then(|| Violation::new("unrestricted capabilities", wrong.join("; ")))
}

pub(super) fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let bad: Vec<_> = subject
        .spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| Some((volume.name.as_str(), restricted_type(volume)?)))
        .collect();
    (!bad.is_empty()).then(|| {
        let types: BTreeSet<_> = bad.iter().map(|(_, kind)| *kind).collect();
        let count = bad.len();
        let (volumes, kinds) = (plural("volume", count), plural("restricted volume type", types.len()));
        let names = quoted(bad.iter().map(|(name, _)| *name));
        let detail = format!("{volumes} {names} {} {kinds} {}", uses(count), quoted(types.iter().copied()));
        Violation::new("restricted volume types", detail)
    })
}

/// The type of a volume, unless it is one that everybody may have.
fn restricted_type(volume: &Volume) -> Option<&'static str> {
    let is_free = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if is_free {
        return None;
    }
    let types = [
        ("hostPath", volume.host_path.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("fc", volume.fc.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
    ];
    Some(types.iter().find(|(_, is_it)| *is_it).map_or("unknown", |(name, _)| name))
}

pub(super) fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    let of_pod = subject.security().and_then(|security| security.run_as_non_root);
    let refusing = subject.names(|security| security.run_as_non_root == Some(false));
    if let Some(setters) = setters(of_pod == Some(false), &refusing) {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return Some(Violation::new("runAsNonRoot != true", detail));
    }
    let silent = subject.names_of(|container| container.context.and_then(|s| s.run_as_non_root).is_none());
    (of_pod != Some(true) && !silent.is_empty()).then(|| {
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
        Violation::new("runAsNonRoot != true", detail)
    })
}

pub(super) fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    let is_pod = subject.security().is_some_and(|security| security.run_as_user == Some(0));
    let setters = setters(is_pod, &subject.names(|security| security.run_as_user == Some(0)))?;
    Some(Violation::new("runAsUser=0", format!("{setters} must not set runAsUser=0")))
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let of_pod = subject.security().and_then(|security| security.seccomp_profile.as_ref());
    let bad = subject.names(|security| security.seccomp_profile.as_ref().is_some_and(is_unconfined));
    if let Some(setters) = setters(of_pod.is_some_and(is_unconfined), &bad) {
        return Some(unconfined(subject, &setters));
    }
    let silent =
        subject.names_of(|container| container.context.and_then(|s| s.seccomp_profile.as_ref()).is_none());
    (of_pod.is_none() && !silent.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        );
        Violation::new("seccompProfile", detail)
    })
}
