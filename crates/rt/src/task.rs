//! The one table of tasks: what each kind of task is for, and what its failure means.
//!
//! Every task of Balsa is spawned here, so that no task is without a name, a span and an answer to
//! the question what happens when it fails.

use std::fmt::Display;
use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

const FAILURES: &str = "balsa_task_failures_total";

/// What to do when a task ends in an error or a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnError {
    /// The part goes on without it; the error is logged.
    Log,
    /// Nothing can go on safely: the process ends with exit code 70, and a supervisor starts it again.
    Abort,
}

macro_rules! task_kinds {
    ($($(#[$doc:meta])* $name:ident => $label:literal, $on_error:ident;)*) => {
        /// Every kind of task that Balsa runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum TaskKind { $($(#[$doc])* $name,)* }

        impl TaskKind {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in logs and metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            fn on_error(self) -> OnError {
                match self { $(Self::$name => OnError::$on_error,)* }
            }
        }
    };
}

task_kinds! {
    /// Feeds committed entries to the kind actors. Without it the server's state stands still.
    Applier => "applier", Abort;
    /// Puts what is proposed into entries of the log. Without it nothing can be written.
    Proposer => "proposer", Abort;
    /// Owns the state of one kind.
    KindActor => "kind-actor", Abort;
    /// Raft's own loops and its transport.
    Raft => "raft", Abort;
    /// Listens on a port.
    Listener => "listener", Abort;
    /// One connection or one stream of a client.
    Connection => "connection", Log;
    /// Leader-only work: scheduler, controllers.
    Controller => "controller", Log;
    /// A list-and-watch loop that keeps a cache.
    Informer => "informer", Log;
    /// One pod on a node.
    PodActor => "pod-actor", Log;
    /// A loop of the agent: status, leases, logs, volumes.
    Agent => "agent", Log;
    /// Rules of the service proxy, routes, DNS.
    Network => "network", Log;
    /// Probes, streams and other short-lived helpers of a bigger task.
    Helper => "helper", Log;
    /// The task of a test.
    Test => "test", Log;
}

/// How a task ended, when it has something to say.
pub trait Outcome: Send + 'static {
    /// The error to report, if it failed.
    fn failure(&self) -> Option<String>;
}

impl Outcome for () {
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<T: Send + 'static, E: Display + Send + 'static> Outcome for Result<T, E> {
    fn failure(&self) -> Option<String> {
        self.as_ref().err().map(ToString::to_string)
    }
}

/// Spawns `future` as a task of `kind`; its error or panic is treated as the table says.
pub fn spawn<F>(kind: TaskKind, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Outcome,
{
    let span = tracing::debug_span!("task", kind = kind.label());
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    let inner = tokio::spawn(future.instrument(span));
    // Made here, not in the watcher: a watcher that is aborted before it first runs must end the task too.
    // Aborting a task that has ended does nothing.
    let guard = AbortOnDrop(inner.abort_handle());
    #[expect(clippy::disallowed_methods, reason = "watches the task above")]
    let watched = tokio::spawn(async move {
        let _guard = guard;
        let result = inner.await;
        match result {
            Ok(output) => {
                if let Some(error) = output.failure() {
                    report(kind, &error);
                }
                Some(output)
            }
            Err(join) if join.is_panic() => {
                report(kind, "panicked");
                None
            }
            Err(_cancelled) => None,
        }
    });
    watched
}

pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs blocking work on tokio's pool for such work; in a simulation, in its place.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if crate::is_simulated() {
        #[expect(clippy::disallowed_methods, reason = "as above; a panic reaches whoever awaits it")]
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Begins to count failures, so that none is a number too.
pub(crate) fn count_failures() {
    metrics::describe_counter!(FAILURES, "Tasks that ended in an error, by kind");
    for kind in TaskKind::ALL {
        metrics::counter!(FAILURES, "kind" => kind.label()).absolute(0);
    }
}

fn report(kind: TaskKind, error: &str) {
    metrics::counter!(FAILURES, "kind" => kind.label()).increment(1);
    match kind.on_error() {
        OnError::Log => tracing::error!(task = kind.label(), error, "task failed"),
        OnError::Abort => {
            tracing::error!(task = kind.label(), error, "task failed; the process cannot go on");
            std::process::exit(70);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_hands_its_output_back() {
        let handle = spawn(TaskKind::Test, async { Ok::<_, String>(7) });
        assert_eq!(handle.await.ok().flatten(), Some(Ok(7)));
    }

    #[tokio::test]
    async fn aborting_the_handle_ends_the_task() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let handle = spawn(TaskKind::Test, async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        handle.abort();
        assert!(gone.await.is_err(), "the sender is dropped with the task");
    }

    #[tokio::test]
    async fn a_panic_is_contained() {
        let handle = spawn(TaskKind::Test, async {
            if true {
                panic!("on purpose");
            }
        });
        assert!(matches!(handle.await, Ok(None)));
    }
}
