//! Claims get volumes: bound to what fits, else made by the built-in provisioner `balsa.dev/local-path`.
//!
//! Reads claims, volumes, classes, nodes and pods; alone writes the binding (`spec.volumeName`,
//! `spec.claimRef`), the phases, and the protection finalizers. Volumes are looked at by one worker and
//! each write is waited for, so that no volume is given to two claims; nothing is kept in memory. A
//! volume that is to be deleted carries the finalizer `balsa.dev/local-path-cleanup`, which the agent of
//! its node takes away when the directory is gone; one that is to be retained has none and is never
//! deleted here.

mod claims;
mod plan;
mod released;

use std::sync::Arc;

use balsa_client::{Client, Queue, Recorder, feed};
use balsa_model::Key;
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::ControllerConfig;
use crate::caches::Caches;

/// The name of the built-in provisioner.
const PROVISIONER: &str = "balsa.dev/local-path";
/// Holds a volume until its directory is gone.
const CLEANUP: &str = "balsa.dev/local-path-cleanup";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Starts both controllers: of claims and of volumes.
pub(crate) fn start(
    client: Client,
    caches: &Caches,
    recorder: Recorder,
    config: &ControllerConfig,
    scope: &Scope,
) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.claims, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    feed(&caches.pods, &queue, scope, |change| {
        // A claim that is to go waits for the last pod that uses it.
        let Some(object) = change.object() else { return Vec::new() };
        let used = object.typed::<Pod>().map(plan::claims_of).unwrap_or_default();
        used.into_iter().map(|name| Key::new(object.key().namespace.clone(), name)).collect()
    });
    let claims = caches.claims.clone();
    feed(&caches.volumes, &queue, scope, move |change| {
        let volume = change.object().and_then(|object| object.typed::<PersistentVolume>());
        let reference = volume.and_then(|v| v.spec.as_ref()).and_then(|spec| spec.claim_ref.as_ref());
        match reference {
            Some(claim) => vec![plan::key_of_reference(claim)],
            // A free volume: whoever waits may have it.
            None => claims.list().iter().filter(|c| !is_bound(c)).map(|c| c.key().clone()).collect(),
        }
    });
    let local_path_dir = config.local_path_dir.clone();
    let this = claims::Claims { client: client.clone(), caches: caches.clone(), recorder, local_path_dir };
    balsa_client::run(Arc::new(this), queue, 1, scope);

    let queue: Queue<Key> = Queue::new();
    feed(&caches.volumes, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    let volumes = caches.volumes.clone();
    feed(&caches.claims, &queue, scope, move |change| {
        let claim = change.object().map(|object| object.key().clone());
        let of =
            |volume: &PersistentVolume| volume.spec.as_ref()?.claim_ref.as_ref().map(plan::key_of_reference);
        let all = volumes.list().into_iter();
        let mine = all.filter(|o| claim.is_some() && o.typed::<PersistentVolume>().and_then(of) == claim);
        mine.map(|o| o.key().clone()).collect::<Vec<_>>()
    });
    balsa_client::run(Arc::new(released::Volumes { client, caches: caches.clone() }), queue, 1, scope);
}

fn is_bound(object: &balsa_model::Object) -> bool {
    let status = object.typed::<PersistentVolumeClaim>().and_then(|claim| claim.status.as_ref());
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}
