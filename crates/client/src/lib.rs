//! The `Client` with which every part of Balsa reads, watches and writes objects.
//!
//! Controllers, scheduler and agents reach the cluster through it alone: remote over gRPC
//! ([`remote`]), in a server's own process (its backend lives in `balsa-server`), or against objects
//! in memory in tests ([`memory`]). There is one write path, so all of them go through admission.
//!
//! - [`Backend`]: what a cluster can be asked; [`Client`] and [`Api`]: the typed face of it;
//! - [`Informer`]: list and watch into a cache that resumes by itself;
//! - [`Queue`], [`Reconciler`]: level-triggered work, one run a key.

mod api;
mod backend;
mod disruption;
pub mod events;
mod informer;
pub mod memory;
mod queue;
mod reconcile;
pub mod remote;

pub use api::{Api, Client};
pub use backend::{
    Backend, DeleteQuery, ListQuery, ObjectList, Start, WatchEvent, WatchStream, WriteOptions,
};
pub use events::Recorder;
pub use informer::{Changed, Informer, Subscription};
pub use queue::Queue;
pub use reconcile::{Next, Reconciler, feed, run};
