//! A scope: tasks that end together.
//!
//! Leader-only work, one agent, one server: each is a scope with one cancel token. Dropping the
//! scope cancels and aborts; [`Scope::close`] cancels and waits, which is the graceful way.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::task::{AbortOnDrop, Outcome, TaskKind, spawn};

/// Tasks under one cancel token.
pub struct Scope {
    token: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Scope {
    /// A scope of its own.
    pub fn new() -> Self {
        Self::under(&CancellationToken::new())
    }

    /// A scope that is cancelled when `parent` is.
    pub fn under(parent: &CancellationToken) -> Self {
        Self { token: parent.child_token(), tasks: Mutex::new(Vec::new()) }
    }

    /// The token its tasks listen to.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Spawns a task that is expected to end soon after the token is cancelled.
    pub fn spawn<F>(&self, kind: TaskKind, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let handle =
            spawn(
                kind,
                async move { if let Some(error) = future.await.failure() { Err(error) } else { Ok(()) } },
            );
        let guard = AbortOnDrop(handle.abort_handle());
        let mut tasks = self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        #[expect(clippy::disallowed_methods, reason = "erases the type of the handle")]
        tasks.push(tokio::spawn(async move {
            let _guard = guard;
            let _ = handle.await;
        }));
    }

    /// Cancels the token and waits at most `limit` for the tasks; the rest is aborted.
    pub async fn close(self, limit: Duration) {
        self.token.cancel();
        let tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        if tokio::time::timeout(limit, futures::future::join_all(tasks)).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.token.cancel();
        for task in self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_waits_for_the_tasks() {
        let scope = Scope::new();
        let (done, seen) = tokio::sync::oneshot::channel();
        let token = scope.token();
        scope.spawn(TaskKind::Test, async move {
            token.cancelled().await;
            let _ = done.send("drained");
        });
        scope.close(Duration::from_secs(5)).await;
        assert_eq!(seen.await, Ok("drained"));
    }

    #[tokio::test]
    async fn dropping_aborts_what_does_not_listen() {
        let scope = Scope::new();
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(TaskKind::Test, async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(scope);
        assert!(gone.await.is_err());
    }
}
