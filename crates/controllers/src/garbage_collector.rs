//! The garbage collector: objects whose owners are all gone go too, of whatever kind.
//!
//! Reads every kind but Event; deletes dependents, drops references to owners that are gone, and takes
//! away the finalizers `foregroundDeletion` and `orphan` when their work is done. Who depends on whom
//! is an index in memory, built from the caches before the first run and kept by one task. An owner
//! is taken for gone only after the server itself has said so. A second call does nothing.

mod index;
mod plan;

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use balsa_client::{Changed, Client, DeleteQuery, Next, Queue, Reconciler};
use balsa_model::strategy::{DeleteOptions, FOREGROUND_FINALIZER, ORPHAN_FINALIZER, Part, Propagation};
use balsa_model::{Failure, Key, KindRef, Object, Precondition, Reason};
use balsa_rt::{Scope, TaskKind};
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::caches::Caches;
use index::Index;
use plan::{OwnerState, Verdict};

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AnyKey {
    kind: KindRef,
    key: Key,
}

impl fmt::Display for AnyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.descriptor().resource(), self.key)
    }
}

struct Collector {
    client: Client,
    caches: Caches,
    index: Arc<Mutex<Index>>,
    queue: Queue<AnyKey>,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<AnyKey> = Queue::new();
    let index = Arc::new(Mutex::new(Index::default()));
    let mut streams = Vec::new();
    for (_, informer) in &caches.all {
        let mut changes = informer.subscribe();
        // What is there already, before any worker asks who depends on whom.
        while let Ok(change) = changes.try_recv() {
            on_change(&change, &index, &queue);
        }
        streams.push(futures::stream::poll_fn(move |context| changes.poll_recv(context)));
    }
    let mut changes = futures::stream::select_all(streams);
    let (token, keeper, wake) = (scope.token(), index.clone(), queue.clone());
    scope.spawn(TaskKind::Controller, async move {
        loop {
            let change = tokio::select! {
                () = token.cancelled() => return,
                change = changes.next() => change,
            };
            let Some(change) = change else { return };
            on_change(&change, &keeper, &wake);
        }
    });
    let this = Collector { client, caches: caches.clone(), index, queue: queue.clone() };
    balsa_client::run(Arc::new(this), queue, 8, scope);
}

fn lock(index: &Mutex<Index>) -> std::sync::MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps the index and wakes whom a change concerns: the object, those that depend on one that is gone,
/// and the owners of a dependent that is gone, who may wait for that.
fn on_change(change: &Changed, index: &Mutex<Index>, queue: &Queue<AnyKey>) {
    let Some(object) = change.object() else { return };
    let this = AnyKey { kind: object.kind(), key: object.key().clone() };
    let new_owners = owners_of(change.new.as_deref());
    // Most objects come without an owner, and nothing is to be kept of them.
    if change.old.is_some() || !new_owners.is_empty() {
        // One lock for both: whoever asks for dependents must not miss one that keeps its owner.
        let mut index = lock(index);
        if let Some(old) = &change.old {
            let replaced = change.new.as_ref().is_none_or(|new| new.uid() != old.uid());
            if replaced {
                index.dependents(old.uid()).into_iter().for_each(|dependent| queue.add(dependent));
            }
            for owner in owners_of(change.old.as_deref()) {
                index.unlink(&owner.uid, &this);
                if let Some(owner) = key_of(owner, old) {
                    queue.add(owner);
                }
            }
        }
        new_owners.iter().for_each(|owner| index.link(&owner.uid, &this));
    }
    if change.new.as_ref().is_some_and(|new| is_held(new.meta())) || !new_owners.is_empty() {
        queue.add(this);
    }
}

fn owners_of(object: Option<&Object>) -> &[OwnerReference] {
    object.and_then(|object| object.meta().owner_references.as_deref()).unwrap_or_default()
}

/// Where the owner of an object is, if it can be one: `None` when its kind is not served, or when an object
/// of the cluster names one of a namespace.
fn key_of(owner: &OwnerReference, dependent: &Object) -> Option<AnyKey> {
    let kind = balsa_model::kinds::by_api_version(&owner.api_version, &owner.kind)?.stored();
    let namespaced = kind.descriptor().is_namespaced();
    let namespace = if namespaced { dependent.key().namespace.clone() } else { "".into() };
    let possible = !namespaced || !namespace.is_empty();
    possible.then(|| AnyKey { kind, key: Key::new(namespace, owner.name.as_str()) })
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// Whether it is being deleted and waits for the collector.
fn is_held(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
        && (has_finalizer(meta, FOREGROUND_FINALIZER) || has_finalizer(meta, ORPHAN_FINALIZER))
}

impl Collector {
    fn dependents(&self, uid: &str) -> Vec<AnyKey> {
        lock(&self.index).dependents(uid)
    }

    fn cached(&self, any: &AnyKey) -> Option<Arc<Object>> {
        self.caches.of(any.kind)?.get(&any.key)
    }

    /// What has become of an owner. The cache may prove that it is there, only the server that it is not.
    async fn state_of(&self, owner: &OwnerReference, dependent: &Object) -> Result<OwnerState, Failure> {
        // Of a kind that is not served nobody can say that it is gone, and objects of the cluster cannot be
        // owned by those of a namespace: such a reference is an error of whoever wrote it and no reason to
        // delete anything.
        let Some(any) = key_of(owner, dependent) else { return Ok(OwnerState::Solid) };
        let cached = self.cached(&any).filter(|object| object.uid() == owner.uid);
        let current = match cached {
            Some(object) => object,
            None => match self.client.backend().get(any.kind, &any.key).await {
                Ok(object) if object.uid() == owner.uid => object,
                Ok(_) => return Ok(OwnerState::Gone),
                Err(failure) if failure.reason == Reason::NotFound => return Ok(OwnerState::Gone),
                Err(failure) => return Err(failure),
            },
        };
        let waits = current.is_deleting() && has_finalizer(current.meta(), FOREGROUND_FINALIZER);
        Ok(if waits { OwnerState::WaitsForDependents } else { OwnerState::Solid })
    }

    /// Deletes an object whose owners are gone, or drops its references to those that are.
    async fn judge(&self, object: &Object) -> Result<(), Failure> {
        let mut states = Vec::new();
        for owner in object.meta().owner_references.iter().flatten() {
            states.push((owner.uid.clone(), self.state_of(owner, object).await?));
        }
        let has_dependents = !self.dependents(object.uid()).is_empty();
        match plan::judge(&states, object.meta(), has_dependents) {
            Verdict::Keep => Ok(()),
            Verdict::DropReferences(uids) => self.drop_references(object, &uids).await,
            Verdict::Delete(propagation) => {
                tracing::debug!(object = ?object, ?propagation, "its owners are gone");
                metrics::counter!("garbagecollector_controller_resources_deleted_total").increment(1);
                self.delete(object, propagation).await
            }
        }
    }

    async fn delete(&self, object: &Object, propagation: Propagation) -> Result<(), Failure> {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        // Judged by this version: one that has found an owner since then is not deleted.
        let precondition =
            Precondition { uid: Some(object.uid().to_owned()), revision: Some(object.revision()) };
        let query = DeleteQuery { options, precondition, dry_run: false };
        match self.client.backend().delete(object.kind(), object.key(), &query).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.reason == Reason::NotFound => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Writes a change of an object's metadata, made on the JSON so that it works for every kind.
    async fn edit(&self, object: &Object, edit: impl FnOnce(&mut Value)) -> Result<(), Failure> {
        let mut value = object.value();
        edit(&mut value);
        let options =
            balsa_client::WriteOptions { dry_run: false, field_manager: "garbage-collector".to_owned() };
        let backend = self.client.backend();
        match backend.update(object.kind(), object.key(), Part::Main, value, &options).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.reason == Reason::NotFound => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn drop_references(&self, object: &Object, uids: &[String]) -> Result<(), Failure> {
        self.edit(object, |value| {
            let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
            let Some(owners) = meta.get_mut("ownerReferences").and_then(Value::as_array_mut) else { return };
            owners.retain(|owner| !uids.iter().any(|uid| owner["uid"] == **uid));
            if owners.is_empty() {
                meta.remove("ownerReferences");
            }
        })
        .await
    }

    async fn drop_finalizer(&self, object: &Object, name: &str) -> Result<(), Failure> {
        self.edit(object, |value| {
            let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
            let Some(finalizers) = meta.get_mut("finalizers").and_then(Value::as_array_mut) else { return };
            finalizers.retain(|finalizer| finalizer != name);
            if finalizers.is_empty() {
                meta.remove("finalizers");
            }
        })
        .await
    }

    /// An owner that goes after its dependents: has those that hold it deleted, and lets it go when
    /// there are none.
    async fn delete_in_foreground(&self, owner: &Object) -> Result<(), Failure> {
        let mut waits = false;
        for dependent in self.dependents(owner.uid()) {
            let Some(object) = self.cached(&dependent) else { continue };
            let reference = object.meta().owner_references.iter().flatten().find(|o| o.uid == owner.uid());
            if reference.is_some_and(|reference| reference.block_owner_deletion == Some(true)) {
                waits = true;
                if !object.is_deleting() {
                    self.queue.add(dependent);
                }
            }
        }
        if waits { Ok(()) } else { self.drop_finalizer(owner, FOREGROUND_FINALIZER).await }
    }

    /// An owner whose dependents stay: takes itself out of their references, then goes.
    async fn orphan(&self, owner: &Object) -> Result<(), Failure> {
        for dependent in self.dependents(owner.uid()) {
            if let Some(object) = self.cached(&dependent) {
                self.drop_references(&object, &[owner.uid().to_owned()]).await?;
            }
        }
        self.drop_finalizer(owner, ORPHAN_FINALIZER).await
    }
}

#[async_trait]
impl Reconciler for Collector {
    type Key = AnyKey;

    fn name(&self) -> &'static str {
        "garbage_collector"
    }

    async fn reconcile(&self, any: &AnyKey) -> Result<Next, Failure> {
        let Some(object) = self.cached(any) else { return Ok(Next::Wait) };
        if !object.is_deleting() {
            self.judge(&object).await?;
        } else if has_finalizer(object.meta(), ORPHAN_FINALIZER) {
            self.orphan(&object).await?;
        } else if has_finalizer(object.meta(), FOREGROUND_FINALIZER) {
            self.delete_in_foreground(&object).await?;
        }
        Ok(Next::Wait)
    }
}
