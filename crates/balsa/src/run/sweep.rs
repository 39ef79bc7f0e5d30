//! Takes away what a cluster made on this machine: containers, networks, rules, mounts, files.
//!
//! Only what carries the names of the cluster and of its node, or lies in its data directory.
//! Everything may be done again after half of it failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use balsa_net::proxy::table_of;
use balsa_net::{Netns, PodNetwork, ProxyMode, ServiceProxy};
use balsa_runtime::{ListFilter, PAUSE_IMAGE, Runtime, labels};
use futures::StreamExt as _;

/// Containers removed at the same time.
const AT_ONCE: usize = 16;

/// Removes the containers of a cluster's nodes; how many there were.
pub(crate) async fn containers(
    runtime: &Arc<dyn Runtime>,
    cluster: &str,
    nodes: &[String],
) -> anyhow::Result<usize> {
    let mut found = runtime.list(&ListFilter::label(labels::CLUSTER, cluster)).await?;
    // Other nodes of the cluster may be on this machine, with another data directory.
    found.retain(|container| container.labels.get(labels::NODE).is_some_and(|node| nodes.contains(node)));
    let count = found.len();
    // Sandboxes last: the others live in their namespaces.
    let is_sandbox = |kind: Option<&String>| kind.is_some_and(|kind| kind == labels::KIND_SANDBOX);
    found.sort_by_key(|container| is_sandbox(container.labels.get(labels::KIND)));
    let (sandboxes, apps): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|container| is_sandbox(container.labels.get(labels::KIND)));
    for group in [apps, sandboxes] {
        let mut removals = futures::stream::iter(group)
            .map(|container| async move { runtime.remove(&container.id, true).await })
            .buffer_unordered(AT_ONCE);
        while let Some(removed) = removals.next().await {
            removed?;
        }
    }
    // Another cluster may use the image; then it stays.
    let _ = runtime.remove_image(PAUSE_IMAGE).await;
    Ok(count)
}

/// Removes the bridges of a cluster's nodes with their rules, and the rules of its services unless an agent
/// of it runs on; how many bridges there were.
pub(crate) async fn networks(cluster: &str, nodes: &[String]) -> anyhow::Result<usize> {
    let here = Netns::Current;
    let mut removed = 0;
    for bridge in PodNetwork::owned(&here).await? {
        if bridge.cluster == cluster && nodes.contains(&bridge.node_name) {
            PodNetwork::remove(&here, &bridge.bridge).await?;
            removed += 1;
        }
    }
    if balsa_net::proxy::detect(&here).await.mode == ProxyMode::Nftables {
        ServiceProxy::new(ProxyMode::Nftables, &table_of(cluster), here.clone()).remove().await?;
    }
    // Addresses on `lo`, from a time when rules could not be used.
    ServiceProxy::new(ProxyMode::Userspace, &table_of(cluster), here).remove().await?;
    Ok(removed)
}

/// Unmounts what is mounted below a directory, the innermost first.
pub(crate) fn mounts(directory: &Path) -> anyhow::Result<usize> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(mount_point)
        .filter(|point| point.starts_with(directory) && point != directory)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in &points {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(points.len())
}

/// The fifth field, in which blanks are written as octal numbers.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut path = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok())?;
        path.push(char::from(code));
        rest = &after[3..];
    }
    path.push_str(rest);
    Some(path.into())
}

/// Removes files and directories; what is not there is as it should be.
pub(crate) fn files(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        let removed = match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let line = r"36 35 98:0 / /var/lib/my\040dir/x rw,noatime master:1 - tmpfs tmpfs rw";
        assert_eq!(mount_point(line).unwrap(), Path::new("/var/lib/my dir/x"));
        assert_eq!(mount_point("short"), None);
    }

    #[test]
    fn files_are_removed_and_missing_ones_are_fine() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::create_dir_all(a.join("deep")).unwrap();
        std::fs::write(&b, "").unwrap();
        files(&[a.clone(), b.clone(), directory.path().join("none")]).unwrap();
        assert!(!a.exists() && !b.exists());
    }
}
