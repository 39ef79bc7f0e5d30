//! Where randomness comes from: the machine, or in a simulation one seed for all that runs on a thread.
//!
//! A simulation runs several servers on one thread, on tokio's paused clock. What would make two runs
//! of one seed differ is taken from there: random numbers come from the seed, and blocking work is
//! done in its place instead of on other threads (see [`crate::spawn_blocking`]).

use std::cell::RefCell;
use std::convert::Infallible;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _, TryRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on everything on this thread is simulated: a run with the same seed does the same.
pub fn simulate_on_this_thread(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// Whether this thread runs a simulation.
pub fn is_simulated() -> bool {
    SEEDED.with_borrow(Option::is_some)
}

/// The source of everything random in Balsa but keys, which take the machine's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Random {
    fn draw<T>(draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => draw(seeded),
            None => draw(&mut rand::rng()),
        })
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(Self::draw(|source| source.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Self::draw(|source| source.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        Self::draw(|source| source.fill_bytes(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{new_uid, random_suffix, simulate_on_this_thread};

    #[test]
    fn a_seed_repeats_what_was_drawn() {
        let draw = || (new_uid(), random_suffix(5));
        simulate_on_this_thread(7);
        let first = draw();
        assert_ne!(draw(), first);
        simulate_on_this_thread(7);
        assert_eq!(draw(), first);
    }
}
