//! What `proto/` generates, and conversions to the model.
//!
//! The contract itself, with its comments, is in `proto/`. Here: the generated code, the descriptors
//! for server reflection, and what turns a [`balsa_model::Failure`] into a `tonic::Status` and back.

mod failure;
#[cfg(test)]
mod naming;

pub use failure::{details_of, from_status, to_status};

#[expect(missing_docs, clippy::all, reason = "generated; documented in proto/")]
pub mod v1 {
    tonic::include_proto!("balsa.v1");
}

#[expect(missing_docs, clippy::all, reason = "generated; documented in proto/")]
pub mod agent {
    tonic::include_proto!("balsa.agent.v1");
}

#[expect(missing_docs, reason = "generated; documented in proto/")]
pub mod peer {
    tonic::include_proto!("balsa.peer.v1");
}

/// The descriptors of all services, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
