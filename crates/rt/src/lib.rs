//! What every program part runs on: tasks and their table, cancellation, clock, ids, configuration
//! layers and telemetry.
//!
//! The crate holds no global state but the metrics recorder and the tracing subscriber, which the
//! binary installs once, and the seed of a thread that runs a simulation. Clock, ids and scopes are values that are passed in.

mod backoff;
mod clock;
mod ids;
mod random;
mod scope;
mod task;
pub mod telemetry;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock};
pub use ids::{new_id, new_uid, random_suffix};
pub use random::{Random, is_simulated, simulate_on_this_thread};
pub use scope::Scope;
pub use task::{Outcome, TaskKind, spawn, spawn_blocking};

pub use tokio_util::sync::CancellationToken;
