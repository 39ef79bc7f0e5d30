//! Ends pods that use more of the node's disk than they said: emptyDir volumes with a size limit.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use balsa_model::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;

use crate::context::NodeContext;
use crate::pod::manager::Pods;
use crate::pod::plan::is_terminal;

/// Bytes of a disk block as the kernel counts them.
const BLOCK: u64 = 512;

/// A volume that may not grow over a limit.
struct Limit {
    volume: String,
    directory: PathBuf,
    bytes: u64,
    /// As the pod says it.
    text: String,
}

/// Looks at what the pods' volumes use, for ever.
pub(crate) async fn watch(node: Arc<NodeContext>, pods: Arc<Pods>) {
    let mut ticks = tokio::time::interval(node.config.timing.usage);
    loop {
        ticks.tick().await;
        for pod in pods.all() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let limits = limits(&pod, &node.config.pod_dir(&uid));
            if limits.is_empty() || is_terminal(&pod) || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let outgrown =
                balsa_rt::spawn_blocking(move || limits.into_iter().find(|l| used(&l.directory) > l.bytes))
                    .await;
            let Ok(Some(limit)) = outgrown else { continue };
            let message = format!(
                "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
                limit.volume, limit.text
            );
            if pods.evict(&uid, &message) {
                node.event(&pod, None, "Warning", "Evicted", message);
            }
        }
    }
}

fn limits(pod: &Pod, pod_dir: &Path) -> Vec<Limit> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let limit = |volume: &k8s_openapi::api::core::v1::Volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let bytes = u64::try_from(Quantity::of(limit)?.value()).ok().filter(|bytes| *bytes > 0)?;
        Some(Limit {
            volume: volume.name.clone(),
            directory: pod_dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name),
            bytes,
            text: limit.0.clone(),
        })
    };
    volumes.filter_map(limit).collect()
}

/// The disk space of everything below a directory, without what is mounted there from elsewhere.
fn used(directory: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(directory) else { return 0 };
    let (device, mut sum, mut left) = (top.dev(), 0_u64, vec![directory.to_owned()]);
    while let Some(directory) = left.pop() {
        // What goes away while it is counted counts no more.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() != device {
                continue;
            }
            sum = sum.saturating_add(found.blocks() * BLOCK);
            if found.is_dir() {
                left.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn only_volumes_with_a_limit_are_measured() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [], "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "b", "emptyDir": {}}]}}))
        .unwrap();
        let found = limits(&pod, Path::new("/pods/u"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].bytes, found[0].text.as_str()), (1 << 20, "1Mi"));
        assert_eq!(found[0].directory, Path::new("/pods/u/volumes/kubernetes.io~empty-dir/a"));
    }

    #[test]
    fn usage_is_what_the_disk_gives() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(used(&root.path().join("none")), 0);
        fs::create_dir(root.path().join("deep")).unwrap();
        fs::write(root.path().join("deep/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", root.path().join("link")).unwrap();
        let found = used(root.path());
        assert!((100_000..300_000).contains(&found), "{found}");
    }
}
