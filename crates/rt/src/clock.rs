//! The clock, as a value: real in programs, set by hand in tests.
//!
//! Whoever stamps times into objects takes a [`Clock`]; nothing below the front doors reads the
//! system clock, because what is folded from the log must not depend on who folds it.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;

/// Tells the time.
#[derive(Clone, Default)]
pub struct Clock(Option<ManualClock>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// Now, in UTC.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp::now(),
            Some(manual) => manual.now(),
        }
    }

    /// Now, cut to whole seconds, as `metav1.Time` carries it.
    pub fn now_seconds(&self) -> Timestamp {
        let now = self.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// A clock that stands still until it is told to move.
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    /// A clock that shows `at`.
    pub fn at(at: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: std::time::Duration) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(Timestamp::MAX);
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// As a [`Clock`], to be passed in.
    pub fn clock(&self) -> Clock {
        Clock(Some(self.clone()))
    }
}
