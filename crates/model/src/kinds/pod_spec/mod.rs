//! What a pod is told to run: shared by pods and by the templates of every workload.
//!
//! - [`defaults`]: what the client left open;
//! - `validation`: the spec as a whole; `containers`, `env`, `probes`, `volumes`, `shared`, `sources`, `projected`, `resources`, `security`,
//!   `windows`, `scheduling`: its parts; `annotations`: profiles that are no fields; `members`: its containers of all sorts; `update`: what a pod may still change; `resize`: what its
//!   containers may use, changed while they run;
//! - [`template`]: pod templates; `warnings`: what is taken of both, and likely not meant.
//!
//! Wordings and order are those of `k8s.io/kubernetes` `pkg/apis/core/validation`.

pub(crate) mod annotations;
pub(crate) mod containers;
pub mod defaults;
mod env;
pub(crate) mod members;
mod probes;
mod projected;
pub(crate) mod resize;
pub mod resources;
pub(crate) mod scheduling;
mod security;
pub(crate) mod shared;
pub(crate) mod sources;
pub mod template;
pub(crate) mod update;
pub(crate) mod validation;
mod volumes;
pub(crate) mod warnings;
mod windows;

pub(crate) use validation::validate;
