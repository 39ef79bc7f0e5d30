//! The loop around a controller: keys in, `reconcile(key)`, back-off on failure.

use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use balsa_model::{Failure, Reason};
use balsa_rt::{Scope, TaskKind};

use crate::informer::{Changed, Informer};
use crate::queue::Queue;

/// What to do with a key after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Look again after that time.
    After(Duration),
}

/// A controller: brings what a key names closer to what is wanted.
///
/// `reconcile` reads caches, computes a plan and carries it out; it takes no event, so that lost,
/// merged and repeated signals change nothing.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// What it works on.
    type Key: Clone + Eq + Hash + Display + Send + Sync + 'static;

    /// Its name in logs and metrics.
    fn name(&self) -> &'static str;

    /// One run.
    async fn reconcile(&self, key: &Self::Key) -> Result<Next, Failure>;
}

/// Adds to `queue` the keys that `keys` finds in each change of `informer`, and in every object that is there.
pub fn feed<K, I>(
    informer: &Informer,
    queue: &Queue<K>,
    scope: &Scope,
    keys: impl Fn(&Changed) -> I + Send + 'static,
) where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: IntoIterator<Item = K> + Send,
    I::IntoIter: Send,
{
    let (mut changes, queue, token) = (informer.subscribe(), queue.clone(), scope.token());
    scope.spawn(TaskKind::Controller, async move {
        loop {
            let change = tokio::select! {
                () = token.cancelled() => return,
                change = changes.recv() => change,
            };
            let Some(change) = change else { return };
            for key in keys(&change) {
                queue.add(key);
            }
        }
    });
}

/// Runs `workers` workers on `queue` until `scope` ends.
pub fn run<R: Reconciler>(reconciler: Arc<R>, queue: Queue<R::Key>, workers: usize, scope: &Scope) {
    queue.measure_as(reconciler.name());
    for _ in 0..workers {
        let (reconciler, queue, token) = (reconciler.clone(), queue.clone(), scope.token());
        scope.spawn(TaskKind::Controller, async move {
            loop {
                let key = tokio::select! {
                    () = token.cancelled() => return,
                    key = queue.next() => key,
                };
                work(&*reconciler, &queue, key).await;
            }
        });
    }
}

async fn work<R: Reconciler>(reconciler: &R, queue: &Queue<R::Key>, key: R::Key) {
    let name = reconciler.name();
    let start = Instant::now();
    let result = reconciler.reconcile(&key).await;
    metrics::histogram!("workqueue_work_duration_seconds", "name" => name).record(start.elapsed());
    match result {
        Ok(next) => {
            queue.done(&key);
            if let Next::After(delay) = next {
                queue.add_after(key, delay);
            }
        }
        Err(failure) => {
            metrics::counter!("workqueue_retries_total", "name" => name).increment(1);
            // Somebody else was faster: the ordinary way of things, not worth a line.
            if failure.reason == Reason::Conflict {
                tracing::debug!(controller = name, %key, %failure, "will try again");
            } else {
                tracing::warn!(controller = name, %key, %failure, "will try again");
            }
            queue.failed(&key);
        }
    }
}
