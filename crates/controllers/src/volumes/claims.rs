//! The controller of claims.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_to;
use balsa_client::{Client, Next, Reconciler, Recorder};
use balsa_model::claims::claims_of;
use balsa_model::kinds::{node, persistent_volume_claim};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Reason};
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{CLAIM_PROTECTION, PROVISIONER, PromisedTo, plan};
use crate::caches::{Caches, settle};
use crate::index::Index;
use crate::owner::key_of;
use crate::pods;

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// See the module above.
pub(super) struct Claims {
    pub(super) client: Client,
    pub(super) caches: Caches,
    pub(super) volumes: Index<PromisedTo>,
    pub(super) recorder: Recorder,
    pub(super) local_path_dir: String,
}

impl Claims {
    /// Writes the main part of a claim and waits for the cache.
    async fn write(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Failure> {
        let written = self.client.api::<PersistentVolumeClaim>().update(claim, Part::Main).await?;
        settle(&self.caches.claims, written.revision()).await;
        Ok(written.to_typed().unwrap_or_else(|| claim.clone()))
    }

    async fn write_status(
        &self,
        claim: &PersistentVolumeClaim,
        change: impl FnOnce(&mut PersistentVolumeClaimStatus),
    ) -> Result<(), Failure> {
        let mut changed = claim.clone();
        change(changed.status.get_or_insert_default());
        if changed == *claim {
            return Ok(());
        }
        let written = self.client.api::<PersistentVolumeClaim>().update(&changed, Part::Status).await?;
        settle(&self.caches.claims, written.revision()).await;
        Ok(())
    }

    fn is_used(&self, key: &Key) -> bool {
        self.caches.pods.list_in(&key.namespace).iter().any(|object| {
            object.is(|pod: &Pod| !pods::is_terminal(pod) && claims_of(pod).any(|name| *name == *key.name))
        })
    }

    /// Lets a claim go that nobody uses any more.
    async fn release(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<(), Failure> {
        if self.is_used(key) {
            return Ok(());
        }
        let mut changed = claim.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != CLAIM_PROTECTION);
        if changed != *claim {
            self.client.api::<PersistentVolumeClaim>().update(&changed, Part::Main).await?;
        }
        Ok(())
    }

    /// Sees to it that a claim is protected, and has a class where there is a default.
    async fn prepare(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Failure> {
        let mut changed = claim.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == CLAIM_PROTECTION) {
            finalizers.push(CLAIM_PROTECTION.to_owned());
        }
        let is_classless = persistent_volume_claim::class_name(claim).is_none();
        let spec = changed.spec.get_or_insert_default();
        if is_classless && spec.volume_name.is_none() {
            let classes = self.caches.storage_classes.list();
            let classes: Vec<Arc<StorageClass>> = classes.iter().filter_map(|o| o.typed()).collect();
            spec.storage_class_name =
                plan::default_class(&classes).and_then(|class| class.metadata.name.clone());
        }
        if changed == *claim { Ok(changed) } else { self.write(&changed).await }
    }

    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Failure> {
        let volumes = self.client.api::<PersistentVolume>();
        let mut changed = volume.clone();
        let spec = changed.spec.get_or_insert_default();
        let complete = spec.claim_ref.as_ref().is_some_and(|r| r.uid == claim.metadata.uid);
        let growth = plan::growth(claim, volume);
        let grows = growth.is_some();
        if let Some(capacity) = growth {
            spec.capacity = Some(capacity);
        }
        if !complete {
            spec.claim_ref = Some(plan::reference(claim));
        }
        if grows || !complete {
            let written = volumes.update(&changed, Part::Main).await?;
            settle(&self.caches.volumes, written.revision()).await;
            changed = written.to_typed().unwrap_or(changed);
        }
        let status: &mut PersistentVolumeStatus = changed.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Bound") {
            status.phase = Some("Bound".to_owned());
            let written = volumes.update(&changed, Part::Status).await?;
            settle(&self.caches.volumes, written.revision()).await;
        }
        let mut bound = claim.clone();
        bound.spec.get_or_insert_default().volume_name.clone_from(&volume.metadata.name);
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.insert("pv.kubernetes.io/bind-completed".to_owned(), "yes".to_owned());
        let bound = if bound == *claim { bound } else { self.write(&bound).await? };
        self.write_status(&bound, |status| {
            status.phase = Some("Bound".to_owned());
            status.access_modes = changed.spec.as_ref().and_then(|spec| spec.access_modes.clone());
            status.capacity = changed.spec.as_ref().and_then(|spec| spec.capacity.clone());
        })
        .await?;
        if grows {
            let message = "Resize volume succeeded";
            self.recorder.event(&reference_to(claim), "Normal", "VolumeResizeSuccessful", message);
        }
        Ok(())
    }

    /// A claim that names its volume: bound to it, or waiting for it, or, once bound, lost with it.
    async fn bind_named(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<(), Failure> {
        let volume = self.caches.volumes.get(&Key::new("", name));
        let volume = volume.and_then(|object| object.typed::<PersistentVolume>());
        let was_bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        match volume {
            Some(volume) if plan::is_promised(&volume, claim) => self.bind(claim, &volume).await,
            Some(volume) if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) => {
                self.bind(claim, &volume).await
            }
            None if was_bound => {
                self.write_status(claim, |status| status.phase = Some("Lost".to_owned())).await
            }
            _ => Ok(()),
        }
    }

    fn selected_node(&self, claim: &PersistentVolumeClaim) -> Option<Node> {
        let name = claim.metadata.annotations.as_ref()?.get(SELECTED_NODE)?;
        self.caches.nodes.get(&Key::new("", name.as_str()))?.to_typed::<Node>()
    }

    /// Makes a volume for a claim that nothing fits; says what the claim waits for otherwise.
    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        waits: bool,
    ) -> Result<(), Failure> {
        let about = reference_to(claim);
        if class.provisioner != PROVISIONER {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
                class.provisioner
            );
            self.recorder.event(&about, "Normal", "ExternalProvisioning", message);
            return Ok(());
        }
        let any_ready = || {
            let nodes = self.caches.nodes.list();
            nodes.iter().find(|object| object.is(node::is_ready))?.to_typed::<Node>()
        };
        let Some(node) = self.selected_node(claim).or_else(|| if waits { None } else { any_ready() }) else {
            return Ok(());
        };
        let volume = plan::provisioned(claim, class, &node, &self.local_path_dir);
        let name = volume.metadata.name.clone().unwrap_or_default();
        match self.client.api::<PersistentVolume>().create(&volume).await {
            Ok(written) => settle(&self.caches.volumes, written.revision()).await,
            Err(failure) if failure.reason == Reason::AlreadyExists => {}
            Err(failure) => {
                let message = format!(
                    "failed to provision volume with StorageClass \"{}\": {failure}",
                    class.metadata.name.as_deref().unwrap_or_default()
                );
                self.recorder.event(&about, "Warning", "ProvisioningFailed", message);
                return Err(failure);
            }
        }
        self.recorder.event(
            &about,
            "Normal",
            "ProvisioningSucceeded",
            format!("Successfully provisioned volume {name}"),
        );
        match self.caches.volumes.get(&Key::new("", name)).and_then(|object| object.typed()) {
            Some(made) => self.bind(claim, &made).await,
            None => Ok(()),
        }
    }

    /// The volumes that are promised to the claim, and those that are free.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let mut keys = self.volumes.get(&Some(key_of(&claim.metadata)));
        keys.extend(self.volumes.get(&None));
        keys.iter().filter_map(|key| self.caches.volumes.get(key)?.typed()).collect()
    }

    async fn find(&self, claim: &PersistentVolumeClaim) -> Result<(), Failure> {
        let name = persistent_volume_claim::class_name(claim).unwrap_or_default();
        let class = self.caches.storage_classes.get(&Key::new("", name));
        let class = class.and_then(|object| object.typed::<StorageClass>());
        let waits =
            class.as_ref().and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
        let node = self.selected_node(claim);
        let volumes = self.candidates(claim);
        let promised = volumes.iter().any(|volume| plan::is_promised(volume, claim));
        let about = reference_to(claim);
        if waits && node.is_none() && !promised {
            let message = "waiting for first consumer to be created before binding";
            self.recorder.event(&about, "Normal", "WaitForFirstConsumer", message);
            return Ok(());
        }
        if let Some(volume) = plan::best(claim, &volumes, node.as_ref()) {
            return self.bind(claim, volume).await;
        }
        match class {
            Some(class) => self.provision(claim, &class, waits).await,
            None if name.is_empty() => {
                let message = "no persistent volumes available for this claim and no storage class is set";
                self.recorder.event(&about, "Normal", "FailedBinding", message);
                Ok(())
            }
            None => {
                let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
                self.recorder.event(&about, "Warning", "ProvisioningFailed", message);
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Reconciler for Claims {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistent_volume_claim"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.claims.get(key) else { return Ok(Next::Wait) };
        let Some(claim) = object.typed::<PersistentVolumeClaim>() else { return Ok(Next::Wait) };
        debug_assert_eq!(key_of(&claim.metadata), *key);
        if object.is_deleting() {
            self.release(key, &claim).await?;
            return Ok(Next::Wait);
        }
        let claim = self.prepare(&claim).await?;
        let named =
            claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        match named {
            Some(name) => self.bind_named(&claim, &name).await?,
            None => self.find(&claim).await?,
        }
        Ok(Next::Wait)
    }
}
