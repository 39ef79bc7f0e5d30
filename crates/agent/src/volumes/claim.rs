//! persistentVolumeClaim and ephemeral: the PersistentVolume that a claim is bound to, where it is a directory of
//! this machine (hostPath, local) or an NFS export.
//!
//! Where a claim leads is written into the pod's directory, so that its containers can be started
//! again while no server answers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use async_trait::async_trait;
use balsa_model::Key;
use balsa_model::claims::claim_of;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use super::{Job, VolumeBackend, VolumeError, host_path, nfs, share_with};
use crate::files::write_private;

/// On volumes whose directory this node removes with them: those that are not to be retained.
pub(super) const CLEANUP_FINALIZER: &str = "balsa.dev/local-path-cleanup";

/// What the controller of claims notes on the volumes that it has made up; their directories are made here.
const PROVISIONED_BY: (&str, &str) = ("pv.kubernetes.io/provisioned-by", "balsa.dev/local-path");

pub(super) struct Claim;

#[async_trait]
impl VolumeBackend for Claim {
    fn handles(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let claim = claim_of(job.pod, job.volume).unwrap_or_default();
        let note = job.pod_dir.join("claims").join(&job.volume.name);
        let known = || std::fs::read_to_string(&note).map(PathBuf::from).ok().filter(|path| path.exists());
        let volume = match bound(job, &claim).await {
            Ok(volume) => volume,
            Err(Unbound::Refused(why)) => return Err(VolumeError::Source(why)),
            Err(Unbound::NoAnswer(why)) => return known().ok_or(VolumeError::Source(why)),
        };
        let path = place(job, &volume).await?;
        if known().as_ref() != Some(&path) {
            write_private(&note, path.to_string_lossy().as_bytes())?;
        }
        Ok(path)
    }
}

enum Unbound {
    Refused(String),
    NoAnswer(String),
}

async fn bound(job: &Job<'_>, name: &str) -> Result<PersistentVolume, Unbound> {
    let client = &job.shared.client;
    let failed = |failure: balsa_model::Failure| Unbound::NoAnswer(failure.message);
    let key = Key::new(job.namespace(), name);
    let claim = client.api::<PersistentVolumeClaim>().find(&key).await.map_err(failed)?;
    let claim =
        claim.ok_or_else(|| Unbound::Refused(format!("persistentvolumeclaim \"{name}\" not found")))?;
    if job.volume.ephemeral.is_some() && !is_of(&claim, job.pod) {
        return Err(Unbound::Refused(format!("persistentvolumeclaim \"{name}\" was not made for this pod")));
    }
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|volume| is_bound && !volume.is_empty());
    let volume =
        volume.ok_or_else(|| Unbound::Refused(format!("persistentvolumeclaim \"{name}\" is not bound")))?;
    let found =
        client.api::<PersistentVolume>().find(&Key::new("", volume.as_str())).await.map_err(failed)?;
    found.ok_or_else(|| Unbound::Refused(format!("persistentvolume \"{volume}\" not found")))
}

/// Whether a claim is a pod's own.
fn is_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true))
        .any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

async fn place(job: &Job<'_>, volume: &PersistentVolume) -> Result<PathBuf, VolumeError> {
    let Some(spec) = &volume.spec else { return Err(VolumeError::Unsupported) };
    if let Some(source) = &spec.nfs {
        return nfs::mount(job, &source.server, &source.path, source.read_only == Some(true)).await;
    }
    if let Some(source) = &spec.host_path {
        let path = PathBuf::from(&source.path);
        host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(path);
    }
    let Some(source) = &spec.local else { return Err(VolumeError::Unsupported) };
    let path = PathBuf::from(&source.path);
    let by = volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY.0));
    let ours = by.is_some_and(|by| by == PROVISIONED_BY.1);
    if ours && !path.exists() {
        std::fs::create_dir_all(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    }
    if !path.exists() {
        return Err(VolumeError::Source(format!("path \"{}\" does not exist", path.display())));
    }
    if let Some(group) = job.group() {
        share_with(&path, group)?;
    }
    Ok(path)
}
