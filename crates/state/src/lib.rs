//! Kind actors, views, watches and history.
//!
//! - [`State`]: what everybody reads from: [`KindView`]s, [`Watch`]es, the history;
//! - [`Store`]: what proposes Mutations to the log, and reads linearizably;
//! - [`Machine`]: what the log feeds with committed entries.
//!
//! Inside, along the way of a Mutation: `entries` (who shares one), `codec` (entries and rows as bytes), `applier` (numbers, shares
//! out, gathers), `actor` (one a kind) with `fold` (the judgement), `view`, `event`, `watchers`, `history`;
//! beside it `digest` and `replicas`: how servers know that they have the same state.

mod actor;
mod applier;
mod codec;
mod digest;
mod entries;
mod event;
mod fold;
mod history;
mod indexed;
mod machine;
mod metrics;
mod outage;
mod past;
mod pins;
mod refusal;
mod replicas;
mod state;
mod store;
mod tables;
mod view;
mod watch;
mod watchers;

#[cfg(test)]
mod tests;

pub use actor::KindStatus;
pub use codec::NewerError;
pub use event::{Event, Version};
pub use history::{HistoryError, PastVersion};
pub use machine::Machine;
pub use refusal::Refusal;
pub use replicas::{Check, Comparison, Replicas};
pub use state::{HISTORY_CHANGES, Reached, State, StateConfig};
pub use store::Store;
pub use tables::{Revisions, TableError};
pub use view::KindView;
pub use watch::{Start, Watch, WatchError, WatchRequest};
