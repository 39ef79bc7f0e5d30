//! What is where in the data directory, and who runs on it.
//!
//! Invariant: whoever runs on a data directory holds the lock on its `balsa.pid`. The lock goes with the
//! process, whatever becomes of it, so nothing stale is ever believed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Volumes on the node's disk.
pub(crate) const VOLUMES: &str = "volumes";
/// A directory for each node.
pub(crate) const NODES: &str = "nodes";
/// Keys and certificates of the cluster.
pub(crate) const PKI: &str = "pki";
/// The replicated log.
pub(crate) const LOG: &str = "log";
/// The addresses and ports that the cluster took on this machine.
pub(crate) const RANGES: &str = "ranges.yaml";
/// A directory for each server, where there are several on one machine.
pub(crate) const SERVERS: &str = "servers";
/// Which server of which cluster this is.
pub(crate) const SERVER_ID: &str = "server.json";
/// The administrator's kubeconfig.
pub(crate) const ADMIN: &str = "admin.kubeconfig";
/// Who runs here; locked while it does.
pub(crate) const PID: &str = "balsa.pid";
/// The log of a detached process.
pub(crate) const LOG_FILE: &str = "balsa.log";
/// What a detached process tells of its start.
pub(crate) const PROGRESS: &str = "balsa.progress";

/// How long whoever has the lock may take to write its process id.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 1000;

/// The right to run on a data directory.
pub(crate) struct Claim {
    file: File,
}

impl Claim {
    /// Takes the data directory, which is made if it is not there.
    pub(crate) fn take(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| {
            format!(
                "cannot make {}; run as root, or choose another directory with --data-dir",
                directory.display()
            )
        })?;
        let path = directory.join(PID);
        let context =
            || format!("{}; run as root, or choose another directory with --data-dir", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(context)?;
        let mut looks = 0;
        while let Err(refused) = file.try_lock() {
            if let TryLockError::Error(error) = refused {
                return Err(error).with_context(context);
            }
            let mut pid = String::new();
            file.rewind().with_context(context)?;
            file.read_to_string(&mut pid).with_context(context)?;
            // One that was killed holds the lock until its last thread is gone.
            looks += 1;
            if looks > LOOKS || !is_ending(pid.trim()) {
                bail!(
                    "a cluster runs on {} already (process {}); stop it with Ctrl-C or `balsa down`",
                    directory.display(),
                    pid.trim()
                );
            }
            std::thread::sleep(LOOK);
        }
        file.set_len(0).with_context(context)?;
        file.rewind().with_context(context)?;
        writeln!(file, "{}", std::process::id()).with_context(context)?;
        Ok(Self { file })
    }

    /// Gives the directory back and takes the pid file away.
    pub(crate) fn release(self, directory: &Path) {
        let _ = std::fs::remove_file(directory.join(PID));
        let _ = self.file.unlock();
    }
}

/// Whether a process has ended but for what the kernel still has to tidy up.
fn is_ending(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state comes after the name, which may hold anything.
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}

/// The process that runs on a data directory, if there is one.
pub(crate) fn running(directory: &Path) -> anyhow::Result<Option<i32>> {
    let path = directory.join(PID);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let pid = written(&mut file).with_context(|| path.display().to_string())?;
            pid.map(Some).with_context(|| format!("{} holds no process id", path.display()))
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The process id in a pid file that somebody has locked. Between the lock and the id the file is empty, or names
/// the one before, that was killed: then it is looked at again.
fn written(file: &mut File) -> std::io::Result<Option<i32>> {
    for _ in 0..LOOKS {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let alive = |pid: &i32| Path::new("/proc").join(pid.to_string()).exists();
        if let Some(pid) = text.trim().parse().ok().filter(alive) {
            return Ok(Some(pid));
        }
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

/// Whether a cluster was ever started on a directory.
pub(crate) fn is_cluster(directory: &Path) -> bool {
    directory.join(PKI).join("ca.crt").is_file()
        || directory.join(NODES).is_dir()
        || directory.join(SERVERS).is_dir()
}

/// The names of the nodes that have a directory.
pub(crate) fn nodes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(NODES)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The directories of the servers, where there are several.
pub(crate) fn servers(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join(SERVERS)).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Everything that a cluster makes in its data directory, volumes apart.
pub(crate) fn own(directory: &Path) -> Vec<PathBuf> {
    [PKI, LOG, NODES, SERVERS, SERVER_ID, RANGES, ADMIN, LOG_FILE, PROGRESS, PID]
        .iter()
        .map(|name| directory.join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_runs_is_known_when_it_has_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PID);
        // Locked, and still with the id of one that was killed: none has this one, the largest that there is.
        std::fs::write(&path, i32::MAX.to_string()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.lock().unwrap();
        let asked = directory.path().to_owned();
        let asking = std::thread::spawn(move || running(&asked).unwrap());
        let mut truncated = File::options().write(true).truncate(true).open(&path).unwrap();
        assert!(!asking.is_finished());
        write!(truncated, "{}", std::process::id()).unwrap();
        assert_eq!(asking.join().unwrap(), Some(std::process::id().cast_signed()));
    }

    #[test]
    fn a_directory_has_one_cluster_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(running(directory.path()).unwrap(), None);
        let claim = Claim::take(directory.path()).unwrap();
        assert_eq!(running(directory.path()).unwrap(), Some(std::process::id().cast_signed()));
        let refused = Claim::take(directory.path()).err().unwrap().to_string();
        assert!(refused.contains("already"), "{refused}");
        claim.release(directory.path());
        assert_eq!(running(directory.path()).unwrap(), None);
        assert!(Claim::take(directory.path()).is_ok());
    }
}
