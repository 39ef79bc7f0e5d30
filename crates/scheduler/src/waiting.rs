//! Pods that wait for a node: by priority and age, with back-off for those that found none.
//!
//! Disposable: a new leader starts with every pending pod due at once. Invariant: each pod is in
//! exactly one of `active`, `delayed`, or in the hands of the loop.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use balsa_model::Key;
use tokio::time::Instant;

use crate::needs::Needs;

/// The first wait of a pod that found no node, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// When a pod that nothing has woken is tried again all the same.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Delayed(Instant),
    InHand,
}

struct Entry {
    pod: Arc<Needs>,
    /// The order of arrival.
    number: u64,
    attempts: u32,
    tried: Option<Instant>,
    place: Place,
    /// What was last said about it.
    message: String,
}

/// Pods that wait for a node.
#[derive(Default)]
pub(crate) struct Waiting {
    entries: HashMap<Key, Entry>,
    active: BTreeSet<(Reverse<i32>, u64, Key)>,
    delayed: BTreeSet<(Instant, Key)>,
    next_number: u64,
}

impl Waiting {
    /// A pod waits, or has changed while it waited: it is due at once.
    pub(crate) fn add(&mut self, pod: Arc<Needs>) {
        let key = pod.key.clone();
        let before = self.detach(&key).filter(|entry| entry.pod.uid == pod.uid);
        let mut entry = before.unwrap_or_else(|| {
            self.next_number += 1;
            Entry {
                pod: pod.clone(),
                number: self.next_number,
                attempts: 0,
                tried: None,
                place: Place::InHand,
                message: String::new(),
            }
        });
        entry.pod = pod;
        self.put(key, entry, Place::Active);
    }

    /// A pod waits no longer.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.detach(key);
    }

    /// Whether that very pod waits.
    pub(crate) fn has(&self, key: &Key, uid: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.pod.uid == uid)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// At most `limit` pods whose turn it is; each must come back by [`Self::failed`] or [`Self::remove`].
    pub(crate) fn take(&mut self, now: Instant, limit: usize) -> Vec<Arc<Needs>> {
        while let Some((due, key)) = self.delayed.first().cloned()
            && due <= now
        {
            if let Some(entry) = self.detach(&key) {
                self.put(key, entry, Place::Active);
            }
        }
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((_, _, key)) = self.active.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::InHand;
                taken.push(entry.pod.clone());
            }
        }
        taken
    }

    /// A pod found no node. Answers whether `message` is news about it.
    pub(crate) fn failed(&mut self, key: &Key, message: &str, now: Instant) -> bool {
        let Some(mut entry) = self.detach(key) else { return false };
        entry.attempts = entry.attempts.saturating_add(1);
        entry.tried = Some(now);
        let news = entry.message != message;
        message.clone_into(&mut entry.message);
        self.put(key.clone(), entry, Place::Delayed(now + PATIENCE));
        news
    }

    /// A pod is to be tried again after its back-off: what was decided could not be done.
    pub(crate) fn retry(&mut self, key: &Key, now: Instant) {
        let Some(mut entry) = self.detach(key) else { return };
        entry.attempts = entry.attempts.saturating_add(1);
        entry.tried = Some(now);
        let due = now + backoff(entry.attempts);
        self.put(key.clone(), entry, Place::Delayed(due));
    }

    /// Something has changed that may help: those that found no node are due after their back-off.
    pub(crate) fn wake(&mut self) {
        let delayed: Vec<Key> = self.delayed.iter().map(|(_, key)| key.clone()).collect();
        for key in delayed {
            let Some(entry) = self.detach(&key) else { continue };
            let earliest = entry.tried.map_or_else(Instant::now, |tried| tried + backoff(entry.attempts));
            let due = if let Place::Delayed(due) = entry.place { due.min(earliest) } else { earliest };
            self.put(key, entry, Place::Delayed(due));
        }
    }

    /// When the next pod becomes due; `None` when none waits for its time.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.first().map(|(due, _)| *due)
    }

    fn put(&mut self, key: Key, mut entry: Entry, place: Place) {
        match place {
            Place::Active => {
                self.active.insert((Reverse(entry.pod.priority), entry.number, key.clone()));
            }
            Place::Delayed(due) => {
                self.delayed.insert((due, key.clone()));
            }
            Place::InHand => {}
        }
        entry.place = place;
        self.entries.insert(key, entry);
    }

    fn detach(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        match entry.place {
            Place::Active => {
                self.active.remove(&(Reverse(entry.pod.priority), entry.number, key.clone()));
            }
            Place::Delayed(due) => {
                self.delayed.remove(&(due, key.clone()));
            }
            Place::InHand => {}
        }
        Some(entry)
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<Needs> {
        Arc::new(Needs { key: Key::new("n", name), uid: name.to_owned(), priority, ..Needs::default() })
    }

    fn names(pods: &[Arc<Needs>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.uid.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_urgent_and_the_early_come_first() {
        let mut waiting = Waiting::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            waiting.add(pod(name, priority));
        }
        assert_eq!(names(&waiting.take(Instant::now(), 2)), ["b", "a"]);
        assert_eq!(names(&waiting.take(Instant::now(), 2)), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_woken_pod_waits_for_its_back_off() {
        let mut waiting = Waiting::default();
        waiting.add(pod("a", 0));
        let start = Instant::now();
        let key = Key::new("n", "a");
        waiting.take(start, 1);
        assert!(waiting.failed(&key, "no room", start));
        assert_eq!(waiting.next_due(), Some(start + PATIENCE));
        waiting.wake();
        assert_eq!(waiting.next_due(), Some(start + BACKOFF.0));
        assert!(waiting.take(start, 1).is_empty());
        assert_eq!(names(&waiting.take(start + BACKOFF.0, 1)), ["a"]);
        assert!(!waiting.failed(&key, "no room", start), "that is no news");
        waiting.remove(&key);
        assert_eq!((waiting.len(), waiting.next_due()), (0, None));
    }
}
