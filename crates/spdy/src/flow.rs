//! How much may be sent: windows, and how much of what came may wait to be read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that may be sent before the peer says more, in SPDY/3.1.
pub(crate) const WINDOW: i64 = 64 << 10;

/// What a sender may send. It counts from the start and is enforced once the peer has shown that it
/// knows about windows (see the crate's description).
pub(crate) struct Window {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    enforced: bool,
    credit: i64,
    gone: bool,
}

impl Window {
    /// `obedient`: it is enforced from the start.
    pub(crate) fn new(obedient: bool) -> Self {
        let state = State { enforced: obedient, credit: WINDOW, gone: false };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer takes so much more.
    pub(crate) fn grow(&self, delta: i64) {
        let mut state = self.lock();
        state.enforced = true;
        state.credit = state.credit.saturating_add(delta);
        self.changed.notify_waiters();
    }

    /// Nobody will send any more; who waits is told.
    pub(crate) fn end(&self) {
        self.lock().gone = true;
        self.changed.notify_waiters();
    }

    /// Whether it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Resolves when it has ended.
    pub(crate) async fn gone(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_gone() {
                return;
            }
            changed.await;
        }
    }

    /// Takes up to `wanted` bytes (which is not 0), waiting until there are some; `None` when it has
    /// ended.
    pub(crate) async fn take(&self, wanted: usize) -> Option<usize> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.gone {
                    return None;
                }
                let allowed = usize::try_from(state.credit).unwrap_or(0);
                let taken = if state.enforced { wanted.min(allowed) } else { wanted };
                if taken > 0 {
                    state.credit -= taken as i64;
                    return Some(taken);
                }
            }
            changed.await;
        }
    }

    /// Gives back what was taken and not sent.
    pub(crate) fn give_back(&self, unsent: usize) {
        let mut state = self.lock();
        state.credit += unsent as i64;
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_window_is_enforced_once_the_peer_knows_of_it() {
        let window = Window::new(false);
        assert_eq!(window.take(1 << 20).await, Some(1 << 20), "a peer without flow control");
        window.grow(1 << 20);
        assert_eq!(window.take(1 << 20).await, Some(64 << 10));
        let waiting = window.take(1);
        tokio::pin!(waiting);
        assert!(poll_once(&mut waiting).await.is_none(), "nothing is left");
        window.grow(5);
        assert_eq!(waiting.await, Some(1));
        window.end();
        assert_eq!(window.take(1).await, None);
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
