//! The log as its users see it: one server alone, and several under faults.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod kill;
mod missed;
mod recovery;
mod simulation;
mod single;
mod snapshots;
mod world;
