//! Pods: one actor each, and the steps it takes.
//!
//! ```text
//!   look ─▶ Observed ─┐
//!   Pod (wanted) ─────┼─▶ plan (pure) ─▶ sandbox | volumes | image | start | stop | remove
//!   Memory ───────────┘        └──────▶ status (pure) ─▶ StatusBoard ─▶ server
//! ```
//!
//! Every step is one file, is idempotent, and may be cut off at any point: the next look finds what it
//! left. Nothing has to be remembered over a restart of the agent; labels and files say it all.

pub(crate) mod actor;
pub(crate) mod admission;
pub(crate) mod backoff;
pub(crate) mod cache;
pub(crate) mod conditions;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod ephemeral;
pub(crate) mod etc;
pub(crate) mod expand;
pub(crate) mod fields;
pub(crate) mod hooks;
pub(crate) mod host_ports;
pub(crate) mod image;
pub(crate) mod limits;
pub(crate) mod look;
pub(crate) mod manager;
pub(crate) mod observed;
pub(crate) mod plan;
mod progress;
pub(crate) mod read_only;
pub(crate) mod resize;
pub(crate) mod sandbox;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod terminate;
