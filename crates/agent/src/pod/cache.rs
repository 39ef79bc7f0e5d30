//! The pods of this node as they were last seen, on disk (0600): an agent that starts while no server
//! answers goes on with them.

use std::path::PathBuf;

use balsa_model::kind::from_slice;
use k8s_openapi::api::core::v1::Pod;

use crate::files::write_private;

/// A directory with one file a pod.
pub(crate) struct PodCache {
    directory: PathBuf,
}

impl PodCache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }

    /// Keeps a pod. What cannot be kept is only missed where server and agent fail together.
    pub(crate) fn keep(&self, uid: &str, bytes: &[u8]) {
        if let Err(error) = write_private(&self.path(uid), bytes) {
            tracing::warn!(uid, %error, "pod not kept for a restart without a server");
        }
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        let _ = std::fs::remove_file(self.path(uid));
    }

    /// All that were kept.
    pub(crate) fn load(&self) -> Vec<Pod> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
            .filter_map(|entry| {
                let bytes = std::fs::read(entry.path()).ok()?;
                match from_slice(&bytes) {
                    Ok(pod) => Some(pod),
                    Err(error) => {
                        tracing::warn!(path = %entry.path().display(), %error, "kept pod does not decode");
                        None
                    }
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pods_are_kept_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let cache = PodCache::new(root.path().join("cache"));
        assert!(cache.load().is_empty());
        cache.keep("u", br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","uid":"u"}}"#);
        cache.keep("v", b"{half");
        assert_eq!(cache.load().into_iter().map(|pod| pod.metadata.name.unwrap()).collect::<Vec<_>>(), ["p"]);
        cache.forget("u");
        assert!(cache.load().is_empty());
    }
}
