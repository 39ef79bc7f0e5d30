//! Ends pods that use more of the node's disk than they said: emptyDir volumes with a size limit, containers
//! and pods with a limit of `ephemeral-storage`.
//!
//! A container uses what it writes beside its volumes, and its log; a pod what its containers use, and whatever
//! lies in its directory. All files are looked at for that: only those of pods with limits, and not often.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use balsa_model::kinds::pod_spec::resources;
use balsa_model::quantity::{Format, Quantity};
use balsa_runtime::ContainerId;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use tokio::time::MissedTickBehavior;

use crate::context::NodeContext;
use crate::pod::actor::Running;
use crate::pod::manager::Pods;
use crate::pod::observed::app_containers;
use crate::pod::plan::is_terminal;

/// Bytes of a disk block as the kernel counts them.
const BLOCK: u64 = 512;

/// What may not grow over so many bytes; none where there is no limit.
#[derive(Debug, Default)]
struct Limits {
    /// emptyDir volumes, by name.
    volumes: BTreeMap<String, Quantity>,
    /// All of the pod.
    pod: Option<Quantity>,
    /// Containers, by name.
    containers: BTreeMap<String, Quantity>,
}

/// What is used, in bytes; only what there are limits for is looked at.
#[derive(Debug, Default)]
struct Used {
    volumes: BTreeMap<String, u64>,
    pod: u64,
    containers: BTreeMap<String, u64>,
}

/// Looks at what pods with limits use, for ever.
pub(crate) async fn watch(node: Arc<NodeContext>, pods: Arc<Pods>) {
    let mut ticks = tokio::time::interval(node.config.timing.usage);
    // Looks that take long are not followed by others at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (pod, running) in pods.all_running() {
            let limits = Limits::of(&pod);
            if limits.is_empty() || is_terminal(&pod) || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let Some(message) = limits.outgrown(&look(&node, &pod, &running, &limits).await) else {
                continue;
            };
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            if pods.evict(uid, &message) {
                node.event(&pod, None, "Warning", "Evicted", message);
            }
        }
    }
}

impl Limits {
    fn of(pod: &Pod) -> Self {
        let volume = |volume: &Volume| {
            let limit = Quantity::of(volume.empty_dir.as_ref()?.size_limit.as_ref()?)?;
            (limit > Quantity::ZERO).then(|| (volume.name.clone(), limit))
        };
        let container = |container: &Container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            let limit = Quantity::of(limits.get("ephemeral-storage")?)?;
            (limit > Quantity::ZERO).then(|| (container.name.clone(), limit))
        };
        let spec = pod.spec.clone().unwrap_or_default();
        let containers: BTreeMap<_, _> = app_containers(pod).iter().filter_map(container).collect();
        let first = spec.init_containers.iter().flatten().find_map(container).map(|(_, limit)| limit);
        let sum = resources::limits(&spec).ephemeral_storage;
        let pod = containers.values().next().copied().or(first).map(|like| match like.format() {
            Format::BinarySi => Quantity::from_bytes(sum),
            _ => Quantity::from_units(sum),
        });
        Self { volumes: spec.volumes.iter().flatten().filter_map(volume).collect(), pod, containers }
    }

    fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.pod.is_none()
    }

    /// What of it all is used too much, as the pod's status tells it.
    fn outgrown(&self, used: &Used) -> Option<String> {
        let over = |used: u64, limit: &Quantity| used > u64::try_from(limit.value()).unwrap_or(0);
        let of = |used: &BTreeMap<String, u64>, name: &str| used.get(name).copied().unwrap_or(0);
        if let Some((name, limit)) = self.volumes.iter().find(|(name, l)| over(of(&used.volumes, name), l)) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "));
        }
        if let Some(limit) = self.pod.filter(|limit| over(used.pod, limit)) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        let (name, limit) = self.containers.iter().find(|(name, l)| over(of(&used.containers, name), l))?;
        Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "))
    }
}

/// What a pod uses of what it has limits for.
async fn look(node: &Arc<NodeContext>, pod: &Pod, running: &Running, limits: &Limits) -> Used {
    let mut used = Used::default();
    let pod_dir = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    if limits.pod.is_some() {
        for (name, id) in &running.ids {
            let written =
                written(node, id).await + measure(node.logs.directory(&node.log_name(pod, name))).await;
            used.containers.insert(name.clone(), written);
        }
        used.pod = used.containers.values().sum::<u64>() + measure(pod_dir.clone()).await;
    }
    for name in limits.volumes.keys() {
        let directory = pod_dir.join("volumes/kubernetes.io~empty-dir").join(name);
        used.volumes.insert(name.clone(), measure(directory).await);
    }
    used
}

/// What a container has written; one that has just gone has written nothing.
async fn written(node: &NodeContext, id: &ContainerId) -> u64 {
    node.runtime.written(id).await.unwrap_or_else(|error| {
        tracing::debug!(container = %id, %error, "what it has written is not known");
        0
    })
}

async fn measure(directory: PathBuf) -> u64 {
    balsa_rt::spawn_blocking(move || used(&directory)).await.unwrap_or(0)
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

    fn limits() -> Limits {
        let limit = |text: &str| json!({"limits": {"ephemeral-storage": text}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "resources": limit("2Mi")}],
            "containers": [{"name": "c", "resources": limit("1Mi")}, {"name": "d", "resources": limit("3Mi")}, {"name": "e"}],
            "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "b", "emptyDir": {}}]}}))
        .unwrap();
        Limits::of(&pod)
    }

    #[test]
    fn only_what_has_a_limit_is_measured() {
        let limits = limits();
        assert_eq!(limits.volumes.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(limits.containers.keys().collect::<Vec<_>>(), ["c", "d"]);
        assert_eq!(limits.pod.unwrap().to_string(), "4Mi");
        assert!(Limits::of(&Pod::default()).is_empty());
    }

    #[test]
    fn the_volume_is_told_before_the_pod_and_the_pod_before_the_container() {
        let mut used = Used::default();
        assert_eq!(limits().outgrown(&used), None);
        used.containers.insert("c".to_owned(), (1 << 20) + 1);
        let why = limits().outgrown(&used);
        assert_eq!(why.as_deref(), Some("Container c exceeded its local ephemeral storage limit \"1Mi\". "));
        used.pod = (4 << 20) + 1;
        let why = limits().outgrown(&used);
        let pod = "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ";
        assert_eq!(why.as_deref(), Some(pod));
        used.volumes.insert("a".to_owned(), (1 << 20) + 1);
        let why = limits().outgrown(&used);
        assert_eq!(why.as_deref(), Some("Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". "));
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
