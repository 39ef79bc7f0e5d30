//! How controllers create and delete the pods of an owner: in batches, telling of it in Events.
//!
//! What is in memory is disposable: the UIDs of pods whose deletion is under way and not yet seen by
//! the cache, so that no second pod is deleted in their place. Creations are waited for instead.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use balsa_client::events::reference_to;
use balsa_client::{Client, Informer, Recorder};
use balsa_model::{Failure, Key, Kind, Object, Revision};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::caches::settle;
use crate::owner::controller_reference;

/// The most pods that one run creates or deletes.
pub(crate) const BURST: usize = 500;

/// Creates and deletes pods for owners of one kind.
pub(crate) struct PodControl {
    client: Client,
    pods: Informer,
    recorder: Recorder,
    doomed: Mutex<HashMap<Key, HashSet<String>>>,
}

impl PodControl {
    /// One that tells of what it does through `recorder`.
    pub(crate) fn new(client: Client, pods: Informer, recorder: Recorder) -> Self {
        Self { client, pods, recorder, doomed: Mutex::default() }
    }

    /// All pods of a namespace, as the cache shows them.
    pub(crate) fn candidates(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.pods.list_in(namespace)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, HashSet<String>>> {
        self.doomed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.lock().remove(owner);
    }

    /// Forgets what the cache shows by now; answers which pods are still to be taken for deleted.
    pub(crate) fn doomed(&self, owner: &Key, children: &[Arc<Object>]) -> HashSet<String> {
        let mut all = self.lock();
        let Some(uids) = all.get_mut(owner) else { return HashSet::new() };
        uids.retain(|uid| children.iter().any(|child| child.uid() == uid && !child.is_deleting()));
        let left = uids.clone();
        if left.is_empty() {
            all.remove(owner);
        }
        left
    }

    fn doom(&self, owner: &Key, uid: &str, doomed: bool) {
        let mut all = self.lock();
        let uids = all.entry(owner.clone()).or_default();
        if doomed {
            uids.insert(uid.to_owned());
        } else {
            uids.remove(uid);
        }
    }

    /// Creates pods in batches that double as long as all goes well, so that a quota that refuses all
    /// is asked once and not five hundred times; waits until the cache shows them.
    pub(crate) async fn create<O: Kind>(
        &self,
        owner: &O,
        pods: impl Iterator<Item = Pod> + Send,
    ) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let mut pods = pods.take(BURST);
        let (mut size, mut latest, mut outcome) = (1, Revision::default(), Ok(()));
        while outcome.is_ok() {
            let batch: Vec<Pod> = pods.by_ref().take(size).collect();
            if batch.is_empty() {
                break;
            }
            for answer in futures::future::join_all(batch.iter().map(|pod| api.create(pod))).await {
                match answer {
                    Ok(created) => {
                        latest = latest.max(created.revision());
                        let message = format!("Created pod: {}", created.key().name);
                        self.recorder.event(&reference_to(owner), "Normal", "SuccessfulCreate", message);
                    }
                    Err(failure) => {
                        let message = format!("Error creating: {failure}");
                        self.recorder.event(&reference_to(owner), "Warning", "FailedCreate", message);
                        outcome = Err(failure);
                    }
                }
            }
            size *= 2;
        }
        settle(&self.pods, latest).await;
        outcome
    }

    /// Deletes pods, named by key and UID.
    pub(crate) async fn delete<O: Kind>(
        &self,
        owner: &O,
        key: &Key,
        victims: &[(Key, String)],
    ) -> Result<(), Failure> {
        let api = self.client.api::<Pod>();
        let deletions = victims.iter().take(BURST).map(|(pod, uid)| {
            self.doom(key, uid, true);
            let api = &api;
            async move { (pod, uid, api.delete_in_background(pod, uid).await) }
        });
        let mut outcome = Ok(());
        for (pod, uid, answer) in futures::future::join_all(deletions).await {
            match answer {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name);
                    self.recorder.event(&reference_to(owner), "Normal", "SuccessfulDelete", message);
                }
                Err(failure) => {
                    self.doom(key, uid, false);
                    let message = format!("Error deleting: {failure}");
                    self.recorder.event(&reference_to(owner), "Warning", "FailedDelete", message);
                    outcome = Err(failure);
                }
            }
        }
        outcome
    }
}

/// A pod of an owner, made from its template and named by the server.
pub(crate) fn pod_of<O: Kind>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", owner.metadata().name.as_deref().unwrap_or_default())),
        namespace: owner.metadata().namespace.clone(),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![controller_reference(owner)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}
