//! How long nobody has answered. A change of leader is waited for; a majority that is lost for good is not, once for
//! every request: clients that try again by themselves would wait for minutes until they hear why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a request is tried that begins when an outage has lasted already.
const MOMENT: Duration = Duration::from_secs(1);
/// Failures further apart belong to different outages.
const APART: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(crate) struct Outage {
    /// Looked at by every request that is answered.
    lasts: AtomicBool,
    /// The first and the last failure.
    failures: Mutex<Option<(Instant, Instant)>>,
}

impl Outage {
    /// Somebody has answered.
    pub(crate) fn is_over(&self) {
        // Read first: a write would take the line from every other processor, with every request.
        if self.lasts.load(Ordering::Relaxed) {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            *failures = None;
            self.lasts.store(false, Ordering::Relaxed);
        }
    }

    /// Nobody has answered a request that began then. Whether it is tried again: for so long, counted from the begin of
    /// the outage, and for a moment in any case.
    pub(crate) fn is_borne(&self, begun: Instant, patience: Duration) -> bool {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let first = failures.filter(|(_, last)| now < *last + APART).map_or(now, |(first, _)| first);
        *failures = Some((first, now));
        self.lasts.store(true, Ordering::Relaxed);
        now < (begun + patience).min((first + patience).max(begun + MOMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(8);

    /// How long a request that begins now is tried.
    async fn tried(outage: &Outage) -> Duration {
        let begun = Instant::now();
        while outage.is_borne(begun, PATIENCE) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_wait_long() {
        let outage = Outage::default();
        assert_eq!(tried(&outage).await, PATIENCE);
        for _ in 0..10 {
            assert_eq!(tried(&outage).await, MOMENT);
            tokio::time::sleep(MOMENT).await;
        }
        outage.is_over();
        assert_eq!(tried(&outage).await, PATIENCE);
        // A failure of long ago says nothing of this one.
        tokio::time::sleep(APART).await;
        assert_eq!(tried(&outage).await, PATIENCE);
    }
}
