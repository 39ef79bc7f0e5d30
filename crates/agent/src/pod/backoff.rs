//! When a container that ended may start again: at once the first time, then after 10 s, 20 s, 40 s …
//! 5 minutes; at once again after it ran for ten minutes.
//!
//! Pure. What it remembers is disposable: after an agent restart it is guessed from the number of
//! attempts, which the containers' labels carry.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::Timing;

/// How a container ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Which attempt it was.
    pub attempt: u32,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct RestartBackoff {
    delay: Option<Duration>,
    /// The attempt whose end the delay was last counted for.
    counted: Option<u32>,
}

impl RestartBackoff {
    /// The wait that applies to the end of this attempt, from its end.
    pub(crate) fn delay(&mut self, ended: Ended, timing: &Timing) -> Duration {
        if self.counted != Some(ended.attempt) {
            self.delay = Some(self.next(ended, timing));
            self.counted = Some(ended.attempt);
        }
        self.delay.unwrap_or_default()
    }

    fn next(&self, ended: Ended, timing: &Timing) -> Duration {
        let ran = ended.started.map_or(Duration::ZERO, |start| elapsed(start, ended.finished));
        if ran >= timing.restart_reset || ended.attempt == 0 {
            return Duration::ZERO;
        }
        let doubled = match self.delay {
            Some(Duration::ZERO) => timing.restart_first,
            Some(delay) => delay.saturating_mul(2),
            None => timing.restart_first.saturating_mul(1 << (ended.attempt - 1).min(16)),
        };
        doubled.min(timing.restart_ceiling)
    }
}

/// From `start` to `end`; nothing when the clock went back.
pub(crate) fn elapsed(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}

/// Back-off of image pulls: 10 s, doubling to 5 minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct PullBackoff {
    delay: Duration,
    until: Option<Timestamp>,
}

impl PullBackoff {
    /// Counts a failure at `now`.
    pub(crate) fn failed(&mut self, now: Timestamp, timing: &Timing) {
        self.delay = if self.delay.is_zero() {
            timing.restart_first
        } else {
            (self.delay * 2).min(timing.restart_ceiling)
        };
        self.until = now.checked_add(self.delay).ok();
    }

    /// Until when nothing is to be tried.
    pub(crate) fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ended(attempt: u32, ran: i64) -> Ended {
        let finished = Timestamp::from_second(100_000).unwrap();
        Ended { attempt, started: Timestamp::from_second(100_000 - ran).ok(), finished }
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let (mut backoff, timing) = (RestartBackoff::default(), Timing::default());
        let waits: Vec<u64> = (0..8).map(|n| backoff.delay(ended(n, 1), &timing).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.delay(ended(7, 1), &timing).as_secs(), 300, "asking twice counts once");
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let (mut backoff, timing) = (RestartBackoff::default(), Timing::default());
        for n in 0..5 {
            backoff.delay(ended(n, 1), &timing);
        }
        assert_eq!(backoff.delay(ended(5, 601), &timing).as_secs(), 0);
        assert_eq!(backoff.delay(ended(6, 1), &timing).as_secs(), 10);
    }

    #[test]
    fn a_restarted_agent_goes_on_from_the_attempt() {
        let timing = Timing::default();
        assert_eq!(RestartBackoff::default().delay(ended(3, 1), &timing).as_secs(), 40);
        assert_eq!(RestartBackoff::default().delay(ended(40, 1), &timing).as_secs(), 300);
    }

    #[test]
    fn pulls_wait_longer_each_time() {
        let (mut backoff, timing) = (PullBackoff::default(), Timing::default());
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(backoff.waits_until(now), None);
        backoff.failed(now, &timing);
        assert_eq!(backoff.waits_until(now), Timestamp::from_second(1010).ok());
        backoff.failed(now, &timing);
        assert_eq!(backoff.waits_until(now), Timestamp::from_second(1020).ok());
    }
}
