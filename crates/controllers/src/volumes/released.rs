//! The controller of volumes: their phases, and what becomes of those whose claim is gone.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Next, Reconciler};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{CLEANUP, PROVISIONER, VOLUME_PROTECTION, plan};
use crate::caches::{Caches, settle};

/// See the module above.
pub(super) struct Volumes {
    pub(super) client: Client,
    pub(super) caches: Caches,
}

impl Volumes {
    /// The phase that a volume should have. Only the server may say that a claim is gone.
    async fn phase(&self, volume: &PersistentVolume) -> Result<&'static str, Failure> {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let Some(reference) = reference.filter(|r| r.uid.as_deref().is_some_and(|uid| !uid.is_empty()))
        else {
            return Ok("Available");
        };
        let claim =
            self.client.api::<PersistentVolumeClaim>().find(&plan::key_of_reference(reference)).await?;
        Ok(if claim.is_some_and(|claim| claim.metadata.uid == reference.uid) { "Bound" } else { "Released" })
    }

    /// Nobody is left to clean up on a node that is gone.
    fn node_is_gone(&self, volume: &PersistentVolume) -> bool {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let terms = affinity.and_then(|a| a.required.as_ref()).map(|required| &required.node_selector_terms);
        let expressions =
            terms.into_iter().flatten().flat_map(|term| term.match_expressions.iter().flatten());
        let hosts: Vec<&String> =
            expressions.flat_map(|expression| expression.values.iter().flatten()).collect();
        let nodes = self.caches.nodes.list();
        let names = |object: &Arc<balsa_model::Object>, host: &String| {
            let label = object.meta().labels.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname"));
            label == Some(host) || *object.key().name == **host
        };
        !hosts.is_empty() && !hosts.iter().any(|host| nodes.iter().any(|object| names(object, host)))
    }

    async fn let_go(&self, volume: &PersistentVolume, phase: &str) -> Result<(), Failure> {
        let mut changed = volume.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        if phase != "Bound" {
            finalizers.retain(|finalizer| finalizer != VOLUME_PROTECTION);
            if self.node_is_gone(volume) {
                finalizers.retain(|finalizer| finalizer != CLEANUP);
            }
        }
        if changed != *volume {
            self.client.api::<PersistentVolume>().update(&changed, Part::Main).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for Volumes {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistent_volume"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.volumes.get(key) else { return Ok(Next::Wait) };
        let Some(volume) = object.typed::<PersistentVolume>() else { return Ok(Next::Wait) };
        let phase = self.phase(&volume).await?;
        if object.is_deleting() {
            self.let_go(&volume, phase).await?;
            return Ok(Next::Wait);
        }
        let api = self.client.api::<PersistentVolume>();
        let mut volume = Arc::unwrap_or_clone(volume);
        let finalizers = volume.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == VOLUME_PROTECTION) {
            finalizers.push(VOLUME_PROTECTION.to_owned());
            let written = api.update(&volume, Part::Main).await?;
            settle(&self.caches.volumes, written.revision()).await;
            volume = written.to_typed().unwrap_or(volume);
        }
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() != Some(phase) {
            status.phase = Some(phase.to_owned());
            let written = api.update(&volume, Part::Status).await?;
            settle(&self.caches.volumes, written.revision()).await;
        }
        let by_us = volume.metadata.annotations.as_ref().and_then(|a| a.get(plan::PROVISIONED_BY));
        let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        if phase == "Released" && policy == Some("Delete") && by_us.is_some_and(|by| by == PROVISIONER) {
            api.delete_in_background(key, object.uid()).await?;
        }
        Ok(Next::Wait)
    }
}
