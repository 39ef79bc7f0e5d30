//! Exponential back-off with a ceiling and jitter.

use std::time::Duration;

use rand::RngExt as _;

use crate::Random;

/// Delays that double from `first` to `ceiling`, each shortened by up to a fifth at random so that
/// many who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `ceiling`.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, next: first }
    }

    /// The next delay to wait.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.ceiling);
        delay.mul_f64(Random.random_range(0.8..=1.0))
    }

    /// Something worked: start again from the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_ceiling() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for expected in [100.0, 200.0, 300.0, 300.0] {
            let delay = backoff.next_delay().as_secs_f64() * 1000.0;
            assert!((expected * 0.8..=expected).contains(&delay), "{delay} of {expected}");
        }
    }
}
