//! Waiting until something has become true: asked again and again until a deadline, never slept for.

use std::fmt::Display;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(100);

/// Asks `condition` until it answers `Ok`, and gives back that answer. After `limit` it panics, saying
/// what was waited for and what the condition said last.
#[track_caller]
pub fn wait_until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() >= deadline => {
                panic!("not within {limit:?}: {what}. Last: {reason}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
