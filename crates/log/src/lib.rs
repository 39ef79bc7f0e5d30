//! The replicated log: openraft over RocksDB. It carries bytes and knows no kinds.
//!
//! ```text
//!  propose ──► openraft ──► log_store ──► writer ──► RocksDB `log`      one sync for many entries
//!                 │                          │
//!     network ◄───┤                 durable here, and on a quorum
//!     service ───►│                          │
//!                 └──► machine ──► StateMachine::apply ──► RocksDB `objects`, `history`, `applied`
//!                                            └──► views published ──► replies
//! ```
//!
//! Promises:
//! - What was acknowledged is on the disks of a quorum and applied by the leader.
//! - Every server's [`StateMachine`] is given the same payloads in the same order, each once, counted
//!   from what its tables reflect.
//! - The tables hold the state at exactly one index, [`Tables`] readers may be a batch behind.
//! - A storage error stops this server's part in the cluster; damage found at opening keeps it from
//!   starting. Nothing is repaired silently: tables that the state machine does not recognize, or that
//!   differ from the other servers', are replaced by another server's ([`Log::rebuild`]), loudly.
//!
//! openraft's types end in this crate. It has a single member or many; nothing here knows which.

mod append;
pub mod backup;
mod codec;
mod compaction;
mod config;
mod error;
mod handle;
mod incoming;
mod leadership;
mod log_store;
mod machine;
mod measure;
mod members;
mod metrics;
mod network;
mod read_index;
mod rebuild;
pub mod recovery;
mod runtime;
mod service;
mod snapshot;
mod store;
mod tables;
mod transport;
mod types;
mod writer;

pub use async_trait::async_trait;
pub use bytes::Bytes;

pub use config::{DiskFaults, ELECTION_TIMEOUT, HEARTBEAT, LogConfig};
pub use error::{LogError, ProposeError, ReadError, StateMachineError};
pub use handle::{Log, Turn};
pub use leadership::Leadership;
pub use machine::{Committed, LogIndex, StateMachine};
pub use members::{LogStatus, Member, Role};
pub use service::{PeerServer, PeerService};
pub use tables::{Table, TableBatch, TableWrite, Tables};
pub use transport::{Connector, Lane, PeerTls, Refusal, TransportConfig, peer_name};
pub use types::NodeId;

#[cfg(test)]
mod storage_suite;
