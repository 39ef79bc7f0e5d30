//! Volumes: one trait, one file a backend.
//!
//! `set_up` is idempotent and is called again at every look at the pod: that is how changed
//! ConfigMaps, Secrets and tokens reach running containers. What a backend makes for one pod is under
//! `<data_dir>/pods/<uid>/volumes/<plugin>/<name>` and goes when nothing of the pod will run any more; what
//! outlives pods (hostPath, claims) is elsewhere and is never removed by [`tear_down`]. Secrets, tokens and what
//! is told of the pod lie in memory, ConfigMaps on the disk.

mod claim;
pub(crate) mod cleanup;
mod config_map;
mod downward;
mod empty_dir;
mod host_path;
mod memory;
mod nfs;
mod projected;
mod secret;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::Client;
use balsa_rt::Clock;
use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume, VolumeMount};

use crate::config::AgentConfig;
use crate::files::{FileEntry, Files, is_inside};
use crate::objects::{Data, ObjectSource};
use crate::pod::fields::PodFacts;

pub(crate) use token::Tokens;
pub use token::{NoTokens, ServiceAccountToken, TokenRequest, TokenSource};

/// Why a volume is not there. Shown as an event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// What it is made from is missing or wrong.
    #[error("{0}")]
    Source(String),
    /// The machine refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No backend knows this kind of volume.
    #[error("this kind of volume is not supported by this node")]
    Unsupported,
}

/// What all backends share.
pub(crate) struct Shared {
    pub config: Arc<AgentConfig>,
    pub client: Client,
    pub objects: Arc<dyn ObjectSource>,
    pub tokens: Tokens,
    pub clock: Clock,
    /// Nothing can be mounted, and no process would see it: what is to be in memory is on the disk.
    pub simulated: bool,
}

/// One volume of one pod.
pub(crate) struct Job<'a> {
    pub pod: &'a Pod,
    pub volume: &'a Volume,
    /// The pod's own directory.
    pub pod_dir: PathBuf,
    pub facts: &'a PodFacts,
    pub shared: &'a Shared,
}

impl Job<'_> {
    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// `spec.securityContext.fsGroup`.
    pub(crate) fn group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        context.fs_group.and_then(|group| u32::try_from(group).ok())
    }

    /// Where a backend puts what goes with the pod.
    pub(crate) fn directory(&self, plugin: &str) -> PathBuf {
        directory_of(&self.pod_dir).join(format!("kubernetes.io~{plugin}")).join(&self.volume.name)
    }

    /// Publishes files in memory: what is secret is not for the disk.
    pub(crate) async fn publish_in_memory(&self, plugin: &str, files: Files) -> Result<PathBuf, VolumeError> {
        let directory = self.directory(plugin);
        std::fs::create_dir_all(&directory)?;
        // Containers that were given one on the disk, by an earlier release, look there until their pod ends.
        let is_used = directory.join("..data").symlink_metadata().is_ok();
        if !self.shared.simulated && !is_used {
            if !memory::is_mounted(&directory)? {
                memory::mount_for_secrets(&directory)?;
            }
            if let Some(group) = self.group() {
                share_with(&directory, group)?;
            }
        }
        self.publish(plugin, files).await
    }

    /// Publishes files in the pod's own directory.
    pub(crate) async fn publish(&self, plugin: &str, files: Files) -> Result<PathBuf, VolumeError> {
        let (directory, group) = (self.directory(plugin), self.group());
        let path = directory.clone();
        let done = balsa_rt::spawn_blocking(move || crate::files::publish(&path, &files, group));
        done.await.map_err(io::Error::other)??;
        Ok(directory)
    }
}

/// One kind of volume.
#[async_trait]
pub(crate) trait VolumeBackend: Send + Sync {
    /// Whether the volume is of this kind.
    fn handles(&self, volume: &Volume) -> bool;
    /// Makes it, or brings it up to date; says where it is.
    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError>;
}

/// Every backend. To add one: its file and its line here.
const BACKENDS: &[&dyn VolumeBackend] = &[
    &empty_dir::EmptyDir,
    &host_path::HostPath,
    &config_map::ConfigMapVolume,
    &secret::SecretVolume,
    &downward::DownwardApi,
    &projected::Projected,
    &claim::Claim,
    &nfs::Nfs,
];

/// Sets up every volume of a pod; says where each is.
pub(crate) async fn set_up(
    pod: &Pod,
    facts: &PodFacts,
    shared: &Shared,
) -> Result<BTreeMap<String, PathBuf>, (String, VolumeError)> {
    let mut places = BTreeMap::new();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let job = Job { pod, volume, pod_dir: shared.config.pod_dir(uid), facts, shared };
        let backend = BACKENDS.iter().find(|backend| backend.handles(volume));
        let place = match backend {
            Some(backend) => backend.set_up(&job).await,
            None => Err(VolumeError::Unsupported),
        };
        places.insert(volume.name.clone(), place.map_err(|error| (volume.name.clone(), error))?);
    }
    Ok(places)
}

/// Where a pod's own volumes are.
pub(crate) fn directory_of(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes")
}

/// Unmounts what is mounted below a pod's directory, or that of its volumes, and removes it. What cannot be
/// unmounted stays: removing through a mount would remove somebody's data.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let mounted = || -> io::Result<Vec<PathBuf>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(table.lines().filter_map(mount_point).filter(|path| path.starts_with(pod_dir)).collect())
    };
    let mut points = mounted()?;
    points.sort();
    for point in points.iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)?;
    }
    if let Some(left) = mounted()?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The fifth column of a line of `mountinfo`; blanks are written in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let text = line.split(' ').nth(4)?;
    let text =
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    Some(PathBuf::from(text))
}

/// Where a mount's `subPath` is: below the volume also after its links are followed, step by step, so that nothing is made
/// where a link leads out of it. It is made when it is missing, open to whom the volume is.
pub(crate) fn sub_path(volume: &Path, sub_path: &str) -> Result<PathBuf, VolumeError> {
    if sub_path.is_empty() {
        return Ok(volume.to_owned());
    }
    let outside = || VolumeError::Source(format!("subPath \"{sub_path}\" leads out of the volume"));
    if !is_inside(sub_path) {
        return Err(outside());
    }
    let root = volume.canonicalize()?;
    let mut path = root.clone();
    for part in Path::new(sub_path) {
        path.push(part);
        if let Err(error) = path.symlink_metadata() {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error.into());
            }
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, root.metadata()?.permissions())?;
        }
        path = path.canonicalize()?;
        if !path.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(path)
}

/// What comes from objects can only be read, whatever a mount says.
pub(crate) fn is_read_only(volume: &Volume) -> bool {
    let from_objects = volume.secret.is_some() || volume.config_map.is_some();
    from_objects || volume.downward_api.is_some() || volume.projected.is_some()
}

/// The part of the volume that a mount shows, `$(VAR)` expanded.
pub(crate) fn mounted_part(mount: &VolumeMount, env: &[(String, String)]) -> String {
    match &mount.sub_path_expr {
        Some(expr) if !expr.is_empty() => {
            let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            crate::pod::expand::expand(expr, lookup)
        }
        _ => mount.sub_path.clone().unwrap_or_default(),
    }
}

/// The files of a ConfigMap or Secret: all keys, or the items that are named.
fn select(
    data: &Data,
    items: Option<&Vec<KeyToPath>>,
    default_mode: u32,
    optional: bool,
    what: &str,
) -> Result<Files, VolumeError> {
    let entry = |bytes: &[u8], mode: u32| FileEntry { bytes: bytes.to_vec(), mode };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, value)| (key.clone(), entry(value, default_mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        let mode = mode(item.mode, default_mode);
        match data.get(&item.key) {
            Some(value) => {
                files.insert(item.path.clone(), entry(value, mode));
            }
            None if optional => {}
            None => {
                return Err(VolumeError::Source(format!(
                    "{what} references non-existent config key: {}",
                    item.key
                )));
            }
        }
    }
    Ok(files)
}

fn mode(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// What files of object volumes are unless somebody says otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// Gives a directory to the pod's group.
fn share_with(directory: &Path, group: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::os::unix::fs::chown(directory, None, Some(group))?;
    let mode = std::fs::metadata(directory)?.permissions().mode();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode | 0o2770))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sub_path_stays_inside() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        assert!(sub_path(&volume, "a/b").unwrap().ends_with("v/a/b"));
        assert!(sub_path(&volume, "../x").is_err());
        std::os::unix::fs::symlink(root.path(), volume.join("out")).unwrap();
        assert!(sub_path(&volume, "out").is_err(), "a link may not lead out either");
        assert!(sub_path(&volume, "out/made").is_err());
        assert!(!root.path().join("made").exists(), "and nothing is made behind it");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o2777);
        std::fs::set_permissions(&volume, open).unwrap();
        let made = sub_path(&volume, "c/d").unwrap().metadata().unwrap().permissions();
        assert_eq!(made, volume.metadata().unwrap().permissions(), "whoever may write there may write here");
    }

    #[test]
    fn mount_points_are_read_from_the_kernels_table() {
        let line = "36 35 98:0 / /data/pods/u/volumes/a\\040b rw,noatime - tmpfs tmpfs rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/data/pods/u/volumes/a b")));
    }

    #[test]
    fn items_choose_keys_and_paths() {
        let data: Data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
        let items = vec![KeyToPath { key: "a".into(), path: "x/y".into(), mode: Some(0o400) }];
        let files = select(&data, Some(&items), 0o644, false, "configmap").unwrap();
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [("x/y".to_owned(), FileEntry { bytes: b"1".to_vec(), mode: 0o400 })]
        );
        let none = vec![KeyToPath { key: "z".into(), path: "z".into(), mode: None }];
        assert!(select(&data, Some(&none), 0o644, false, "configmap").is_err());
        assert!(select(&data, Some(&none), 0o644, true, "configmap").unwrap().is_empty());
        assert_eq!(select(&data, None, 0o644, false, "configmap").unwrap().len(), 2);
    }

    #[test]
    fn tearing_down_nothing_succeeds() {
        let root = tempfile::tempdir().unwrap();
        tear_down(&root.path().join("none")).unwrap();
    }
}
