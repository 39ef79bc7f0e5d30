//! Logs: what containers wrote, kept by the agent, also after the container is gone.
//!
//! ```text
//!   <data_dir>/logs/<namespace>_<pod>_<uid>/<container>/<attempt>.log      the newest
//!                                                       <attempt>.log.1 …  older, 10 MiB each
//! ```
//!
//! One collector a container copies from the runtime ([`collect`]) to the file ([`file`]); readers look at files
//! alone ([`read`]) and hear from the collector when there is more.

mod collect;
mod file;
mod format;
mod read;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use balsa_runtime::{ContainerId, Runtime};
use tokio::sync::watch;

pub(crate) use read::LogQuery;

/// What is known of the collection of one container's output.
#[derive(Clone, Debug)]
struct Collection {
    path: PathBuf,
    /// Grows with every piece written; closed at the end.
    progress: watch::Receiver<u64>,
}

/// The logs of this node.
pub(crate) struct Logs {
    directory: PathBuf,
    runtime: Arc<dyn Runtime>,
    collections: Mutex<HashMap<ContainerId, Collection>>,
}

/// Whose log.
#[derive(Clone, Debug)]
pub(crate) struct LogName {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
}

impl Logs {
    pub(crate) fn new(directory: PathBuf, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { directory, runtime, collections: Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Collection>> {
        self.collections.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where the logs of all attempts of a container are.
    pub(crate) fn directory(&self, name: &LogName) -> PathBuf {
        self.directory.join(format!("{}_{}_{}", name.namespace, name.pod, name.uid)).join(&name.container)
    }

    /// The file of one attempt.
    pub(crate) fn path(&self, name: &LogName, attempt: u32) -> PathBuf {
        self.directory(name).join(format!("{attempt}.log"))
    }

    /// Collects what a container writes, from where an earlier collection ended. Asked again for the
    /// same container, nothing happens.
    pub(crate) fn collect(self: &Arc<Self>, id: &ContainerId, path: PathBuf) {
        let mut collections = self.lock();
        if collections.contains_key(id) {
            return;
        }
        let (sender, progress) = watch::channel(0);
        collections.insert(id.clone(), Collection { path: path.clone(), progress });
        drop(collections);
        let (runtime, id) = (self.runtime.clone(), id.clone());
        balsa_rt::spawn(balsa_rt::TaskKind::Agent, async move {
            if let Err(error) = collect::run(&*runtime, &id, &path, &sender).await {
                tracing::warn!(container = %id, path = %path.display(), %error, "its output is kept no longer");
            }
        });
    }

    /// Waits until everything an ended container wrote is in its file, at most `limit`.
    pub(crate) async fn drained(&self, id: &ContainerId, limit: Duration) {
        let progress = self.lock().get(id).map(|collection| collection.progress.clone());
        if let Some(mut progress) = progress {
            let closed = async { while progress.changed().await.is_ok() {} };
            if tokio::time::timeout(limit, closed).await.is_err() {
                tracing::warn!(container = %id, "its last output may be lost: the runtime did not end the log in time");
            }
        }
    }

    /// The container is removed.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    fn progress_of(&self, path: &Path) -> Option<watch::Receiver<u64>> {
        self.lock()
            .values()
            .find(|collection| collection.path == path)
            .map(|collection| collection.progress.clone())
    }

    /// Removes the logs of pods that are gone for longer than `retention`. Blocking.
    pub(crate) fn expire(&self, is_active: impl Fn(&str) -> bool, retention: Duration, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit('_').next().unwrap_or_default();
            let old = newest(&entry.path())
                .is_none_or(|time| now.duration_since(time).is_ok_and(|age| age > retention));
            if old && !is_active(uid) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// When anything below was last written.
fn newest(directory: &Path) -> Option<SystemTime> {
    let mut newest = std::fs::metadata(directory).ok()?.modified().ok();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let time = if path.is_dir() {
            self::newest(&path)
        } else {
            entry.metadata().ok().and_then(|m| m.modified().ok())
        };
        newest = newest.max(time);
    }
    newest
}
