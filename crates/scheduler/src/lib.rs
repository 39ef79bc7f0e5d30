//! Which node gets which pod: a pure planner and the loop around it.
//!
//! [`plan`] takes a [`ClusterView`] and pods and gives placements or [`Reasons`]; it touches nothing,
//! so the same code answers "where would it go" and, with [`explain`], "why is it pending". [`start`]
//! runs the loop that keeps the view, binds in batches and says why a pod waits.
//!
//! - `filters`, `scores`: one file each, in Kubernetes' names and words;
//! - `needs`, `view`: the compact forms of pods and nodes; `board`: the planner;
//! - `waiting`, `scheduler`, `report`: the loop, its queue, and what it says;
//! - `preemption`: who makes way for a pod that found no node.

mod board;
mod filters;
mod needs;
mod preemption;
mod reasons;
mod report;
mod scheduler;
mod scores;
mod view;
mod waiting;

#[cfg(test)]
mod tests;

pub use board::{Decision, Placement, explain, plan};
pub use needs::Needs;
pub use preemption::{Preemption, preempt};
pub use reasons::{Reason, Reasons};
pub use scheduler::start;
pub use view::ClusterView;
