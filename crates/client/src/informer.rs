//! List and watch into a cache that resumes by itself.
//!
//! One task keeps the cache, a persistent map under a lock. It changes the map in place, and copies only what somebody
//! holds who is going through it; who asks for an object holds the lock as long as a look-up takes. Subscribers hear of
//! every change after the cache shows it. The objects are shared with whoever handed them out: in a server's process,
//! with its views.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balsa_model::selector::Filter;
use balsa_model::{Failure, Key, KindRef, Object, Reason, Revision};
use balsa_rt::{Backoff, Scope, TaskKind};
use futures::StreamExt as _;
use imbl::OrdSet;
use tokio::sync::{mpsc, watch};

use crate::backend::{Backend, Start, WatchEvent, WatchStream};

/// Events that are shown together at most.
const BATCH: usize = 256;

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

/// An object by its key: one pointer, of which there is one for each object in the cluster.
#[derive(Clone)]
struct Keyed(Arc<Object>);

impl Borrow<Key> for Keyed {
    fn borrow(&self) -> &Key {
        self.0.key()
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

struct Shared {
    kind: KindRef,
    filter: Filter,
    cache: Mutex<OrdSet<Keyed>>,
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
            cache: Mutex::default(),
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

    /// The last revision whose effect the cache shows; 0 until it is synced.
    pub fn revision(&self) -> Revision {
        self.0.reached.borrow().unwrap_or_default()
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        lock(&self.0.cache).get(key).map(|keyed| keyed.0.clone())
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.0.now().iter().map(|keyed| keyed.0.clone()).collect()
    }

    /// All objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<Object>> {
        let cache = self.0.now();
        cache
            .range(Key::new(namespace, "")..)
            .map(|keyed| keyed.0.clone())
            .take_while(|object| &*object.key().namespace == namespace)
            .collect()
    }

    /// Hears of every object that is there and of every change after.
    pub fn subscribe(&self) -> Subscription {
        // Not bounded: a change that is lost would be lost for good, and subscribers are loops of this process that
        // only take note of it.
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut subscribers = lock(&self.0.subscribers);
        // Under the lock: the keeper tells of later changes only after this.
        for object in &self.0.now() {
            let _ = sender.send(Changed { old: None, new: Some(object.0.clone()) });
        }
        subscribers.push(sender);
        receiver
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// The cache as it is, for longer than a look-up.
    fn now(&self) -> OrdSet<Keyed> {
        lock(&self.cache).clone()
    }

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

    async fn follow(&self, stream: WatchStream, start: Start, backoff: &mut Backoff) -> Result<(), Failure> {
        // Objects told before `Synced`: what the cache has beside them is gone.
        let mut listed = (start == Start::Initial).then(OrdSet::new);
        // What comes together is shown together.
        let mut batches = stream.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            backoff.reset();
            let mut changes = Vec::with_capacity(batch.len());
            let mut ended = Ok(());
            for event in batch {
                match (event, &mut listed) {
                    (Err(failure), _) => {
                        ended = Err(failure);
                        break;
                    }
                    (Ok(WatchEvent::Applied(object)), Some(listed)) => {
                        listed.insert(Keyed(object));
                    }
                    (Ok(WatchEvent::Synced(revision)), Some(complete)) => {
                        self.replace(std::mem::take(complete), revision);
                        listed = None;
                    }
                    (Ok(event), None) => changes.push(event),
                    (Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)), Some(_)) => {}
                }
            }
            self.change(changes);
            ended?;
        }
        Ok(())
    }

    fn replace(&self, fresh: OrdSet<Keyed>, revision: Revision) {
        let old = std::mem::replace(&mut *lock(&self.cache), fresh.clone());
        let mut subscribers = lock(&self.subscribers);
        for Keyed(object) in old.iter().filter(|keyed| !fresh.contains(*keyed)) {
            tracing::trace!(key = %object.key(), "gone while the watch was down");
            tell(&mut subscribers, &Changed { old: Some(object.clone()), new: None });
        }
        for keyed in &fresh {
            let before = old.get(keyed).map(|keyed| keyed.0.clone());
            if before.as_ref().map(|o| o.revision()) != Some(keyed.0.revision()) {
                tell(&mut subscribers, &Changed { old: before, new: Some(keyed.0.clone()) });
            }
        }
        drop(subscribers);
        self.advance(revision);
    }

    /// Shows what changed, then tells of it, each change by itself.
    fn change(&self, events: Vec<WatchEvent>) {
        let Some(reached) = events.iter().map(revision_of).max() else { return };
        let mut subscribers = lock(&self.subscribers);
        let mut cache = lock(&self.cache);
        let mut changed = Vec::with_capacity(events.len());
        for event in events {
            match event {
                WatchEvent::Applied(object) => {
                    let old = cache.insert(Keyed(object.clone())).map(|keyed| keyed.0);
                    changed.push(Changed { old, new: Some(object) });
                }
                WatchEvent::Deleted(object) => {
                    let old = cache.remove(object.key()).map(|keyed| keyed.0);
                    changed.push(Changed { old, new: None });
                }
                WatchEvent::Bookmark(_) | WatchEvent::Synced(_) => {}
            }
        }
        drop(cache);
        changed.iter().for_each(|changed| tell(&mut subscribers, changed));
        drop(subscribers);
        self.advance(reached);
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

/// How far a watch has come with an event.
fn revision_of(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Applied(object) => object.revision(),
        WatchEvent::Deleted(object) => {
            let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
            version.unwrap_or(object.revision())
        }
        WatchEvent::Bookmark(revision) | WatchEvent::Synced(revision) => *revision,
    }
}

fn tell(subscribers: &mut Vec<mpsc::UnboundedSender<Changed>>, changed: &Changed) {
    subscribers.retain(|subscriber| subscriber.send(changed.clone()).is_ok());
}
