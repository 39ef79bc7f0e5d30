//! Clusters of real processes, images made from nothing, a plain REST client, and waiting on
//! conditions: the words in which the end-to-end suites tell what a user does.
//!
//! It drives the `balsa` program from outside and links none of it, so that a suite is small and
//! quick to build. A failed expectation panics with what was asked, what came back, and the end of
//! the cluster's log.
#![allow(clippy::unwrap_used, reason = "used by tests alone: a panic is how a test fails")]

mod binary;
mod clients;
mod cluster;
mod footprint;
pub mod images;
mod kubectl;
mod lines;
mod lock;
mod lone;
mod process;
mod rest;
mod wait;
mod web;

pub use binary::{balsa, previous_balsa, root};
pub use clients::{clients, go};
pub use cluster::{Cluster, Options};
pub use footprint::{Container, Footprint, containers, docker, rules};
pub use kubectl::{Output, has_kubectl, kubectl_program, kubectl_programs};
pub use lines::Lines;
pub use lock::MachineLock;
pub use lone::LoneServer;
pub use rest::{Answer, Connection, Rest, Watch, decode_base64};
pub use wait::wait_until;
pub use web::{Steady, Tally, get};
