//! The front doors (REST and gRPC), identity, authorization and admission.
//!
//! A request's way: `listener` (TLS) → `rest` or `grpc` → `identity` (who) → `authorize` (may they) →
//! `engine`: decode, default, `admission`, validate, propose. Each step's type can only be had from
//! the step before. `server` puts it together and starts the leader's work; `sessions` joins streams
//! into pods with the agents that serve them.

mod admission;
mod api_endpoints;
mod authorize;
mod bootstrap;
mod engine;
mod fairness;
mod follower;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod identity;
mod leases;
mod listener;
mod members;
mod pods;
mod quota;
mod rest;
mod restore;
mod server;
mod sessions;
mod signer;
mod usage;

pub use balsa_controllers::NODE_GRACE;
pub use balsa_log::{ELECTION_TIMEOUT, HEARTBEAT};
pub use balsa_state::{HISTORY_CHANGES, Revisions};
pub use engine::{LocalBackend, MAX_OBJECT_BYTES};
pub use fairness::Limits;
pub use identity::{Authority, IdentityError, Issued, ServerId, SharedSettings, write_private};
pub use members::machine;
pub use restore::{Rewound, restore};
pub use server::{Server, ServerConfig, ServerError, nth_address};
