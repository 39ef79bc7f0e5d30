//! List and watch into a cache that resumes by itself.
//!
//! One task owns the cache and publishes it as a persistent map behind an atomic pointer; readers
//! never wait. Subscribers hear of every change after the cache shows it. The objects are shared with
//! whoever handed them out: in a server's process, with its views.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use balsa_model::selector::Filter;
use balsa_model::{Failure, Key, KindRef, Object, Reason, Revision};
use balsa_rt::{Backoff, Scope, TaskKind};
use futures::StreamExt as _;
use imbl::OrdMap;
use tokio::sync::{mpsc, watch};

use crate::backend::{Backend, Start, WatchEvent, WatchStream};

/// What happened to an object in the cache.
#[derive(Clone, Debug)]
pub struct Changed {
    /// As it was.
    pub old: Option<Arc<Object>>,
    /// As it is.
    pub new: Option<Arc<Object>>,
}

impl Changed {
    /// The object, as it is or was last.
    pub fn object(&self) -> Option<&Arc<Object>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Changes as they come, starting with every object that was there at subscription.
pub type Subscription = mpsc::UnboundedReceiver<Changed>;

struct Shared {
    kind: KindRef,
    filter: Filter,
    cache: ArcSwap<OrdMap<Key, Arc<Object>>>,
    /// The last revision seen, once synced.
    reached: watch::Sender<Option<Revision>>,
    /// Unbounded, because each holds at most pointers to objects that the subscriber's queue
    /// deduplicates at once; a subscriber that stops reading is one that has ended.
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Changed>>>,
}

/// A cache of the objects of one kind that match a filter. Cheap to clone.
#[derive(Clone)]
pub struct Informer(Arc<Shared>);

impl Informer {
    /// Starts to list and watch; ends with `scope`.
    pub fn start(backend: Arc<dyn Backend>, kind: KindRef, filter: Filter, scope: &Scope) -> Self {
        let shared = Arc::new(Shared {
            kind,
            filter,
            cache: ArcSwap::default(),
            reached: watch::Sender::new(None),
            subscribers: Mutex::default(),
        });
        let token = scope.token();
        let keeper = shared.clone();
        scope.spawn(TaskKind::Informer, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = keeper.keep(backend) => {}
            }
        });
        Self(shared)
    }

    /// Waits until the cache shows everything that was there when it started.
    pub async fn synced(&self) {
        let _ = self.0.reached.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the cache shows the effect of a write, so that the next look at it does not miss
    /// what this part itself has just made. Only for objects that match the filter.
    pub async fn reached(&self, revision: Revision) {
        let _ = self.0.reached.subscribe().wait_for(|reached| *reached >= Some(revision)).await;
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.0.cache.load().get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.0.cache.load().values().cloned().collect()
    }

    /// All objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<Object>> {
        let cache = self.0.cache.load();
        cache
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Hears of every object that is there and of every change after.
    pub fn subscribe(&self) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut subscribers = lock(&self.0.subscribers);
        // Under the lock: the keeper tells of later changes only after this.
        for object in self.0.cache.load().values() {
            let _ = sender.send(Changed { old: None, new: Some(object.clone()) });
        }
        subscribers.push(sender);
        receiver
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// Watches, resumes where a watch ended, and lists again where it cannot.
    async fn keep(&self, backend: Arc<dyn Backend>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        let mut start = Start::Initial;
        loop {
            let outcome = match backend.watch(self.kind, &self.filter, start).await {
                Ok(stream) => self.follow(stream, start, &mut backoff).await,
                Err(failure) => Err(failure),
            };
            start = match (&outcome, *self.reached.borrow()) {
                (Err(failure), _) if failure.reason == Reason::Expired => Start::Initial,
                (_, Some(revision)) => Start::After(revision),
                (_, None) => Start::Initial,
            };
            if let Err(failure) = outcome {
                let kind = self.kind.descriptor().plural;
                tracing::debug!(kind, %failure, "watch failed; trying again");
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn follow(
        &self,
        mut stream: WatchStream,
        start: Start,
        backoff: &mut Backoff,
    ) -> Result<(), Failure> {
        // Objects told before `Synced`: what the cache has beside them is gone.
        let mut listed = (start == Start::Initial).then(OrdMap::new);
        while let Some(event) = stream.next().await {
            let event = event?;
            backoff.reset();
            match (event, &mut listed) {
                (WatchEvent::Applied(object), Some(listed)) => {
                    listed.insert(object.key().clone(), object);
                }
                (WatchEvent::Synced(revision), Some(complete)) => {
                    self.replace(std::mem::take(complete), revision);
                    listed = None;
                }
                (WatchEvent::Applied(object), None) => {
                    let revision = object.revision();
                    self.change(object.key().clone(), Some(object), revision);
                }
                (WatchEvent::Deleted(object), None) => {
                    let revision = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok());
                    self.change(object.key().clone(), None, revision.unwrap_or(object.revision()));
                }
                (WatchEvent::Bookmark(revision) | WatchEvent::Synced(revision), None) => {
                    self.advance(revision);
                }
                (WatchEvent::Deleted(_) | WatchEvent::Bookmark(_), Some(_)) => {}
            }
        }
        Ok(())
    }

    fn replace(&self, fresh: OrdMap<Key, Arc<Object>>, revision: Revision) {
        let old = self.cache.swap(Arc::new(fresh.clone()));
        let mut subscribers = lock(&self.subscribers);
        for (key, object) in old.iter().filter(|(key, _)| !fresh.contains_key(*key)) {
            tracing::trace!(%key, "gone while the watch was down");
            tell(&mut subscribers, &Changed { old: Some(object.clone()), new: None });
        }
        for (key, object) in &fresh {
            let before = old.get(key).cloned();
            if before.as_ref().map(|o| o.revision()) != Some(object.revision()) {
                tell(&mut subscribers, &Changed { old: before, new: Some(object.clone()) });
            }
        }
        drop(subscribers);
        self.advance(revision);
    }

    fn change(&self, key: Key, new: Option<Arc<Object>>, revision: Revision) {
        let mut subscribers = lock(&self.subscribers);
        let mut cache = OrdMap::clone(&self.cache.load());
        let old = match &new {
            Some(object) => cache.insert(key, object.clone()),
            None => cache.remove(&key),
        };
        self.cache.store(Arc::new(cache));
        tell(&mut subscribers, &Changed { old, new });
        drop(subscribers);
        self.advance(revision);
    }

    fn advance(&self, revision: Revision) {
        self.reached.send_if_modified(|reached| {
            let forward = *reached < Some(revision);
            if forward {
                *reached = Some(revision);
            }
            forward
        });
    }
}

fn tell(subscribers: &mut Vec<mpsc::UnboundedSender<Changed>>, changed: &Changed) {
    subscribers.retain(|subscriber| subscriber.send(changed.clone()).is_ok());
}
