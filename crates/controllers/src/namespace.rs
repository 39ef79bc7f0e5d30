//! Namespaces: one that is being deleted is emptied of every kind, then let go.
//!
//! Reads namespaces; lists and deletes whatever is in a terminating one; alone writes the conditions of
//! the deletion and takes the finalizer `kubernetes` away. A second call deletes only what is not
//! being deleted yet; a new leader goes on with what it finds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, DeleteQuery, ListQuery, Next, Queue, Reconciler, feed};
use balsa_model::kinds::namespace::FINALIZER;
use balsa_model::selector::Filter;
use balsa_model::strategy::{DeleteOptions, Part, Propagation};
use balsa_model::{Failure, Key, KindRef, Object, Precondition, Reason};
use balsa_rt::{Clock, Scope};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::caches::Caches;

/// Deletions under way at a time.
const PARALLEL: usize = 16;
/// How soon to look again at what has not gone yet, where no change of it wakes us.
const AGAIN: Duration = Duration::from_secs(2);

struct Namespaces {
    client: Client,
    caches: Caches,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.namespaces, &queue, scope, |change| change.object().map(|o| o.key().clone()));
    for (kind, informer) in &caches.all {
        if !kind.descriptor().is_namespaced() {
            continue;
        }
        let namespaces = caches.namespaces.clone();
        feed(informer, &queue, scope, move |change| {
            let gone = change.old.as_ref().filter(|_| change.new.is_none())?;
            let key = Key::new("", gone.key().namespace.clone());
            namespaces.get(&key).is_some_and(|namespace| namespace.is_deleting()).then_some(key)
        });
    }
    let this = Namespaces { client, caches: caches.clone(), clock };
    balsa_client::run(Arc::new(this), queue, 2, scope);
}

/// What is still in a namespace.
#[derive(Debug, Default)]
struct Left {
    /// Objects by resource, `deployments.apps`.
    kinds: BTreeMap<String, usize>,
    /// Objects by the finalizers that hold them.
    finalizers: BTreeMap<String, usize>,
    /// What could not be listed or deleted.
    failures: Vec<String>,
}

impl Left {
    fn note(&mut self, object: &Object) {
        let descriptor = object.kind().descriptor();
        let group = if descriptor.group.is_empty() { "" } else { descriptor.group };
        *self.kinds.entry(format!("{}.{group}", descriptor.plural)).or_default() += 1;
        for finalizer in object.meta().finalizers.iter().flatten() {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.failures.is_empty()
    }

    /// `(type, status, reason, message)` of each condition.
    fn conditions(&self) -> [(&'static str, &'static str, &'static str, String); 5] {
        let list = |items: &BTreeMap<String, usize>, word: &str| {
            let parts: Vec<String> =
                items.iter().map(|(name, n)| format!("{name} {word} {n} resource instances")).collect();
            parts.join(", ")
        };
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
            if self.failures.is_empty() {
                let message = "All content successfully deleted, may be waiting on finalization".to_owned();
                ("NamespaceDeletionContentFailure", "False", "ContentDeleted", message)
            } else {
                let message = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.failures.len(),
                    self.failures.join(", ")
                );
                ("NamespaceDeletionContentFailure", "True", "ContentDeletionFailed", message)
            },
            if self.kinds.is_empty() {
                let message = "All content successfully removed".to_owned();
                ("NamespaceContentRemaining", "False", "ContentRemoved", message)
            } else {
                let message = format!("Some resources are remaining: {}", list(&self.kinds, "has"));
                ("NamespaceContentRemaining", "True", "SomeResourcesRemain", message)
            },
            if self.finalizers.is_empty() {
                let message = "All content-preserving finalizers finished".to_owned();
                ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message)
            } else {
                let rest = list(&self.finalizers, "in");
                let message = format!("Some content in the namespace has finalizers remaining: {rest}");
                ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
            },
        ]
    }
}

/// The namespace with the conditions that say what is left in it; the same when they said so already.
fn with_conditions(namespace: &Namespace, left: &Left, now: Timestamp) -> Namespace {
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for (type_, value, reason, message) in left.conditions() {
        let before = conditions.iter().position(|condition| condition.type_ == type_);
        let since = before.map(|at| &conditions[at]).filter(|c| c.status == value);
        let since = since.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
        };
        match before {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    changed
}

impl Namespaces {
    /// Deletes everything in a namespace; answers what is still there.
    async fn empty(&self, namespace: &str) -> Left {
        let mut left = Left::default();
        for kind in balsa_model::kinds::all().iter().copied() {
            if !kind.descriptor().is_namespaced() {
                continue;
            }
            if let Err(failure) = self.empty_of(kind, namespace, &mut left).await {
                left.failures.push(format!("{}: {failure}", kind.descriptor().resource()));
            }
        }
        left
    }

    async fn empty_of(&self, kind: KindRef, namespace: &str, left: &mut Left) -> Result<(), Failure> {
        let backend = self.client.backend();
        let query = ListQuery::matching(Filter::namespaced(namespace));
        let found = backend.list(kind, &query).await?.items;
        if found.is_empty() {
            return Ok(());
        }
        let fresh = found.iter().filter(|object| !object.is_deleting()).cloned();
        let outcomes: Vec<Result<(), Failure>> = futures::stream::iter(fresh.collect::<Vec<_>>())
            .map(|object| self.delete(object))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for object in backend.list(kind, &query).await?.items {
            left.note(&object);
        }
        outcomes.into_iter().collect()
    }

    async fn delete(&self, object: Arc<Object>) -> Result<(), Failure> {
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let precondition = Precondition { uid: Some(object.uid().to_owned()), revision: None };
        let query = DeleteQuery { options, precondition, dry_run: false };
        match self.client.backend().delete(object.kind(), object.key(), &query).await {
            Ok(_) => Ok(()),
            Err(failure) if matches!(failure.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn let_go(&self, key: &Key) -> Result<(), Failure> {
        let api = self.client.api::<Namespace>();
        let written = api.modify(key, Part::Whole, drop_finalizer).await?;
        metrics::counter!("balsa_namespaces_emptied_total").increment(u64::from(written.is_some()));
        Ok(())
    }
}

/// Takes our finalizer away; whether it was there.
fn drop_finalizer(namespace: &mut Namespace) -> bool {
    let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) else {
        return false;
    };
    let before = finalizers.len();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.len() != before
}

#[async_trait]
impl Reconciler for Namespaces {
    type Key = Key;

    fn name(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.caches.namespaces.get(key).filter(|object| object.is_deleting()) else {
            return Ok(Next::Wait);
        };
        let Some(namespace) = object.typed::<Namespace>() else { return Ok(Next::Wait) };
        if balsa_model::kinds::namespace::is_finalized(&namespace) {
            return Ok(Next::Wait);
        }
        let left = self.empty(&key.name).await;
        if left.is_empty() {
            self.let_go(key).await?;
            return Ok(Next::Wait);
        }
        let changed = with_conditions(&namespace, &left, self.clock.now_seconds());
        if changed != *namespace {
            self.client.api::<Namespace>().update(&changed, Part::Status).await?;
        }
        Ok(Next::After(AGAIN))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let mut left = Left::default();
        left.kinds.insert("pods.".to_owned(), 2);
        left.finalizers.insert("example.com/hold".to_owned(), 1);
        let namespace = with_conditions(&Namespace::default(), &left, Timestamp::UNIX_EPOCH);
        let conditions = namespace.status.clone().unwrap().conditions.unwrap();
        let remaining = conditions.iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap();
        assert_eq!(remaining.status, "True");
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        let later = Timestamp::UNIX_EPOCH + Duration::from_secs(9);
        assert_eq!(with_conditions(&namespace, &left, later), namespace, "nothing new is not written");
    }
}
