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
use balsa_model::claims::claims_of;
use balsa_model::{Key, Object};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::ControllerConfig;
use crate::caches::Caches;
use crate::index::feed_indexed;

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
        let Some(pod) = object.typed::<Pod>() else { return Vec::new() };
        claims_of(&pod).map(|name| Key::new(object.key().namespace.clone(), name)).collect()
    });
    let claims = caches.claims.clone();
    let volumes = feed_indexed(&caches.volumes, &queue, scope, promised_to, move |change| {
        let promised = change.object().and_then(|volume| promised_to(volume).pop().flatten());
        match promised {
            Some(claim) => vec![claim],
            // A free volume: whoever waits may have it.
            None => claims.list().iter().filter(|c| !c.is(is_bound)).map(|c| c.key().clone()).collect(),
        }
    });
    let local_path_dir = config.local_path_dir.clone();
    let this =
        claims::Claims { client: client.clone(), caches: caches.clone(), volumes, recorder, local_path_dir };
    balsa_client::run(Arc::new(this), queue, 1, scope);

    let queue: Queue<Key> = Queue::new();
    // An index of its own: a claim may be heard of before its volume, which is then woken by itself.
    let volumes = feed_indexed(&caches.volumes, &queue, scope, promised_to, |change| {
        change.object().map(|o| o.key().clone())
    });
    feed(&caches.claims, &queue, scope, move |change| {
        change.object().map(|claim| volumes.get(&Some(claim.key().clone()))).unwrap_or_default()
    });
    balsa_client::run(Arc::new(released::Volumes { client, caches: caches.clone() }), queue, 1, scope);
}

/// The claim that a volume is promised to, or bound to; `None`: it is free.
type PromisedTo = Option<Key>;

fn promised_to(object: &Object) -> Vec<PromisedTo> {
    let volume = object.typed::<PersistentVolume>();
    let reference = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
    vec![reference.map(plan::key_of_reference)]
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}
