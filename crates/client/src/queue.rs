//! The keyed work queue: deduplicated, delayed, backing off.
//!
//! Invariants: a key is handed to one worker at a time; a key that is added while it is worked on is
//! handed out again afterwards; a failed key comes back later and later. Nothing here survives a
//! restart, and nothing needs to: a new leader adds every key once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The wait after the first failure of a key; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_secs(60);

struct State<K> {
    /// Of whom the metrics tell; nobody is told of a queue without a name.
    name: Option<&'static str>,
    /// Keys, and since when they wait.
    ready: VecDeque<(K, Instant)>,
    queued: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    delayed: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

/// A queue of keys. Cheap to clone.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), wake: self.wake.clone() }
    }
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            name: None,
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::new(Notify::new()) }
    }

    /// From now on metrics tell of it by this name, as Kubernetes' do of its work queues.
    pub(crate) fn measure_as(&self, name: &'static str) {
        self.lock().name = Some(name);
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Has `key` worked on soon.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        state.delayed.remove(&key);
        state.push(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Has `key` worked on after `delay`, or earlier when it is already due earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        let mut state = self.lock();
        let at = state.delayed.entry(key).or_insert(due);
        *at = (*at).min(due);
        drop(state);
        self.wake.notify_one();
    }

    /// The next key. The caller must answer with [`Self::done`] or [`Self::failed`].
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.pop() {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.values().min().copied()
            };
            match due {
                Some(due) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => woken.await,
            }
        }
    }

    /// The work on `key` is done.
    pub fn done(&self, key: &K) {
        self.finish(key, true);
    }

    /// The work on `key` failed: it comes back, later each time.
    pub fn failed(&self, key: &K) {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            *failures
        };
        self.finish(key, false);
        let wait = FIRST_RETRY.saturating_mul(1 << (failures - 1).min(20)).min(LAST_RETRY);
        self.add_after(key.clone(), wait);
    }

    fn finish(&self, key: &K, success: bool) {
        let mut state = self.lock();
        state.running.remove(key);
        if success {
            state.failures.remove(key);
        }
        if state.again.remove(key) {
            state.push(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// How many keys wait to be worked on, those that are delayed not counted.
    #[cfg(test)]
    fn depth(&self) -> usize {
        self.lock().ready.len()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn push(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back((key, Instant::now()));
            if let Some(name) = self.name {
                metrics::counter!("workqueue_adds_total", "name" => name).increment(1);
                self.tell_depth(name);
            }
        }
    }

    fn pop(&mut self) -> Option<K> {
        let (key, since) = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        if let Some(name) = self.name {
            metrics::histogram!("workqueue_queue_duration_seconds", "name" => name).record(since.elapsed());
            self.tell_depth(name);
        }
        Some(key)
    }

    fn tell_depth(&self, name: &'static str) {
        metrics::gauge!("workqueue_depth", "name" => name).set(self.ready.len() as f64);
    }

    fn promote(&mut self, now: Instant) {
        let due: Vec<K> =
            self.delayed.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.delayed.remove(&key);
            self.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_run_runs_once_more() {
        let queue = Queue::new();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.depth(), 0, "never two runs of one key");
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later() {
        let queue = Queue::new();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            let key = queue.next().await;
            waits.push(start.elapsed());
            queue.failed(&key);
        }
        assert!(waits.windows(2).all(|w| w[0] < w[1]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_comes_when_it_is_due() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
    }
}
