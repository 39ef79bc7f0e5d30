//! Directories of local-path volumes that are deleted: removed by the node that made them, unless the
//! volume is to be retained; then the finalizer goes.

use std::path::{Component, Path, PathBuf};

use balsa_client::Client;
use balsa_model::selector::Filter;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Object};
use balsa_rt::{Scope, TaskKind};
use k8s_openapi::api::core::v1::PersistentVolume;

use super::claim::CLEANUP_FINALIZER;

/// Watches for such volumes until the scope ends.
pub(crate) fn start(client: Client, node: String, scope: &Scope) {
    let informer = client.informer::<PersistentVolume>(Filter::everything(), scope);
    let (mut changes, token) = (informer.subscribe(), scope.token());
    scope.spawn(TaskKind::Agent, async move {
        let mut retry = tokio::time::interval(std::time::Duration::from_secs(30));
        loop {
            let due: Vec<_> = tokio::select! {
                () = token.cancelled() => return,
                changed = changes.recv() => match changed {
                    Some(changed) => changed.new.into_iter().collect(),
                    None => return,
                },
                _ = retry.tick() => informer.list(),
            };
            for object in due {
                clean(&client, &node, &object).await;
            }
        }
    });
}

async fn clean(client: &Client, node: &str, object: &Object) {
    let held = object.meta().finalizers.iter().flatten().any(|finalizer| finalizer == CLEANUP_FINALIZER);
    if !held || !object.is_deleting() {
        return;
    }
    let Some(volume) = object.typed().filter(|volume| belongs_to(volume, node)) else { return };
    let outcome = match directory(&volume) {
        Some(path) => remove(path).await.map_err(Failure::internal),
        None => Ok(()),
    };
    let released = match outcome {
        Ok(()) => release(client, object).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = released {
        tracing::warn!(volume = %object.key(), %failure, "local-path volume not cleaned up; will try again");
    }
}

async fn release(client: &Client, object: &Object) -> Result<(), Failure> {
    let drop_finalizer = |volume: &mut PersistentVolume| {
        let Some(finalizers) = &mut volume.metadata.finalizers else { return false };
        let before = finalizers.len();
        finalizers.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
        finalizers.len() != before
    };
    client.api::<PersistentVolume>().modify(object.key(), Part::Main, drop_finalizer).await.map(|_| ())
}

async fn remove(path: PathBuf) -> std::io::Result<()> {
    let removed = balsa_rt::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
    match removed.map_err(std::io::Error::other)? {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directory to remove; none when the data is to be kept or the path is not one that we make.
fn directory(volume: &PersistentVolume) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return None;
    }
    let path =
        spec.local.as_ref().map(|local| &local.path).or(spec.host_path.as_ref().map(|host| &host.path))?;
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (path.is_absolute() && plain && path.components().count() > 3).then(|| path.to_owned())
}

/// Its node affinity names this node.
fn belongs_to(volume: &PersistentVolume, node: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required.as_ref()).map(|r| r.node_selector_terms.as_slice());
    terms.unwrap_or_default().iter().flat_map(|term| term.match_expressions.iter().flatten()).any(
        |expression| {
            expression.key == "kubernetes.io/hostname"
                && expression.operator == "In"
                && expression.values.iter().flatten().any(|value| value == node)
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn volume(policy: &str, path: &str) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {
            "persistentVolumeReclaimPolicy": policy, "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}},
        }}))
        .unwrap()
    }

    #[test]
    fn only_what_may_go_goes() {
        let safe = "/var/lib/balsa/volumes/pvc-1";
        assert_eq!(directory(&volume("Delete", safe)), Some(PathBuf::from(safe)));
        assert_eq!(directory(&volume("Retain", safe)), None);
        for path in ["/", "/etc", "/var/lib", "relative/a/b/c", "/a/b/../../../etc"] {
            assert_eq!(directory(&volume("Delete", path)), None, "{path}");
        }
        assert!(belongs_to(&volume("Delete", safe), "n1") && !belongs_to(&volume("Delete", safe), "n2"));
    }
}
