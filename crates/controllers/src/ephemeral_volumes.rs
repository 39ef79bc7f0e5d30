//! Claims of ephemeral volumes: made for a pod out of its template, and gone with it.
//!
//! Reads pods and claims; creates claims, whose owner is the pod, so that the garbage collector takes them away. One that was
//! there before and is not the pod's own is left alone: the pod waits, and an event says why.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::events::reference_of;
use balsa_client::{Client, Next, Queue, Reconciler, Recorder, feed};
use balsa_model::claims::claim_of;
use balsa_model::{Failure, Key, Object, Reason};
use balsa_rt::Scope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::caches::{Caches, settle};
use crate::owner::{controller_of, controller_reference, controller_uid};
use crate::pods;

struct EphemeralVolumes {
    client: Client,
    caches: Caches,
    recorder: Recorder,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, recorder: Recorder, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.pods, &queue, scope, |change| {
        let has_any = |pod: &Pod| ephemeral(pod).next().is_some();
        change.new.as_ref().filter(|object| object.is(has_any)).map(|object| object.key().clone())
    });
    feed(&caches.claims, &queue, scope, |change| {
        let claim = change.object()?;
        let owner = controller_of(claim.meta()).filter(|owner| owner.kind == "Pod")?;
        Some(Key::new(claim.key().namespace.clone(), owner.name.as_str()))
    });
    let this = EphemeralVolumes { client, caches: caches.clone(), recorder };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The claim that is to be made for a volume.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let given = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: claim_of(pod, volume),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        ..PersistentVolumeClaim::default()
    })
}

impl EphemeralVolumes {
    async fn provide(&self, pod: &Pod, volume: &Volume) -> Result<(), Failure> {
        let Some(wanted) = claim(pod, volume) else { return Ok(()) };
        let name = wanted.metadata.name.as_deref().unwrap_or_default();
        let key = Key::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name);
        if let Some(there) = self.caches.claims.get(&key) {
            return is_of(&there, pod);
        }
        match self.client.api::<PersistentVolumeClaim>().create(&wanted).await {
            Ok(written) => settle(&self.caches.claims, written.revision()).await,
            // The cache will say whose it is.
            Err(failure) if failure.reason == Reason::AlreadyExists => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// That a claim was made for a pod.
fn is_of(claim: &Object, pod: &Pod) -> Result<(), Failure> {
    if Some(controller_uid(claim.meta())) == pod.metadata.uid.as_deref() {
        return Ok(());
    }
    Err(Failure::new(
        Reason::Conflict,
        format!(
            "PVC {}/{} was not created for pod {}/{0} (pod is not owner)",
            claim.key().namespace,
            claim.key().name,
            pod.metadata.name.as_deref().unwrap_or_default(),
        ),
    ))
}

#[async_trait]
impl Reconciler for EphemeralVolumes {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ephemeral_volume"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.pods.get(key) else { return Ok(Next::Wait) };
        let Some(pod) = object.typed::<Pod>() else { return Ok(Next::Wait) };
        if object.is_deleting() || pods::is_terminal(&pod) {
            return Ok(Next::Wait);
        }
        for volume in ephemeral(&pod) {
            if let Err(failure) = self.provide(&pod, volume).await {
                let why = format!("ephemeral volume creation failed: {}", failure.message);
                self.recorder.event(&reference_of(&object), "Warning", "FailedBinding", why);
                return Err(failure);
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_its_template_and_the_pods_own() {
        let template = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        let volume = json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}});
        let pod = json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [volume]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let made = claim(&pod, ephemeral(&pod).next().unwrap()).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("web-scratch"));
        assert_eq!(controller_uid(&made.metadata), "u");
        assert_eq!(serde_json::to_value(&made.spec).unwrap(), template["spec"]);
        assert_eq!(made.metadata.labels.unwrap()["a"], "b");
    }
}
