//! The watchers of one kind: who is told of a change.
//!
//! Each watcher is in exactly one bucket, the narrowest that its filter allows, so that a change asks only
//! those who may want it: the watches of five thousand agents on their own pods cost a pod's
//! change nothing but the one agent's. A watcher whose queue is full is cut off, never waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balsa_model::Revision;
use balsa_model::kind::KindRef;
use balsa_model::selector::Filter;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::event::{Event, SharedChange};
use crate::view::{Narrow, selects};

/// Names a watcher within its kind.
pub(crate) type WatcherId = u64;

/// The receiving end of a new watcher.
pub(crate) struct Queue {
    pub(crate) id: WatcherId,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Set before the queue is closed on a watcher that did not keep up.
    pub(crate) cut: Arc<AtomicBool>,
}

struct Watcher {
    filter: Arc<Filter>,
    /// It knows everything up to here.
    after: Revision,
    bucket: Narrow,
    events: mpsc::Sender<Event>,
    cut: Arc<AtomicBool>,
}

/// All watchers of one kind.
pub(crate) struct Watchers {
    kind: KindRef,
    queue: usize,
    next: WatcherId,
    watchers: HashMap<WatcherId, Watcher>,
    buckets: HashMap<Narrow, Vec<WatcherId>>,
}

impl Watchers {
    /// `queue` events wait for a watcher at most.
    pub(crate) fn new(kind: KindRef, queue: usize) -> Self {
        Self { kind, queue, next: 0, watchers: HashMap::new(), buckets: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Adds a watcher that wants the changes after `after`.
    pub(crate) fn add(&mut self, filter: Arc<Filter>, after: Revision) -> Queue {
        let (events, receiver) = mpsc::channel(self.queue);
        let (id, cut) = (self.next, Arc::new(AtomicBool::new(false)));
        self.next += 1;
        let bucket = Narrow::of(self.kind, &filter);
        self.buckets.entry(bucket.clone()).or_default().push(id);
        self.watchers.insert(id, Watcher { filter, after, bucket, events, cut: cut.clone() });
        Queue { id, events: receiver, cut }
    }

    pub(crate) fn remove(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        if let Some(ids) = self.buckets.get_mut(&watcher.bucket) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.buckets.remove(&watcher.bucket);
            }
        }
    }

    /// Removes those whose stream is gone.
    pub(crate) fn sweep(&mut self) {
        let gone: Vec<_> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.events.is_closed())
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Cuts everybody off: what they would miss cannot be told to them one by one.
    pub(crate) fn cut_all(&mut self) -> usize {
        let cut = self.watchers.len();
        self.watchers.values().for_each(|watcher| watcher.cut.store(true, Ordering::Release));
        self.watchers.clear();
        self.buckets.clear();
        cut
    }

    /// Tells a change to those who want it; how many were cut off.
    pub(crate) fn deliver(&mut self, change: &SharedChange) -> usize {
        let mut lost = Vec::new();
        for bucket in buckets_of(change) {
            for id in self.buckets.get(&bucket).into_iter().flatten() {
                if self.watchers.get(id).is_some_and(|watcher| !watcher.tell(change)) {
                    lost.push(*id);
                }
            }
        }
        let cut = |id: &WatcherId| self.watchers.get(id).is_some_and(|w| w.cut.load(Ordering::Relaxed));
        let count = lost.iter().filter(|id| cut(id)).count();
        lost.into_iter().for_each(|id| self.remove(id));
        count
    }
}

impl Watcher {
    /// Whether it goes on.
    fn tell(&self, change: &SharedChange) -> bool {
        if change.revision() <= self.after {
            return true;
        }
        let Some(event) = event_for(&self.filter, change) else { return true };
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.cut.store(true, Ordering::Release);
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// What a change is to somebody who sees through `filter`.
pub(crate) fn event_for(filter: &Filter, change: &SharedChange) -> Option<Event> {
    let old = change.change.old.as_ref().is_some_and(|old| selects(filter, old, &change.old_fields));
    let new = change.change.new.as_ref().is_some_and(|new| selects(filter, new, &change.new_fields));
    change.event(old, new)
}

/// The buckets whose watchers may want a change, each once.
fn buckets_of(change: &SharedChange) -> impl Iterator<Item = Narrow> + '_ {
    let key = &change.change.key;
    let namespace = (!key.namespace.is_empty()).then(|| Narrow::Namespace(key.namespace.clone()));
    let field = |(i, value): (usize, &Arc<str>)| Narrow::Field(i, value.clone());
    let changed = |(i, value): &(usize, &Arc<str>)| change.new_fields.get(*i) != Some(*value);
    [Narrow::Nothing, Narrow::Object(key.clone())]
        .into_iter()
        .chain(namespace)
        .chain(change.new_fields.iter().enumerate().map(field))
        .chain(change.old_fields.iter().enumerate().filter(changed).map(field))
}
