//! What can go wrong: the caller's fault, try again, or fatal. Fatal means that this server must stop
//! acknowledging; nothing that was acknowledged is lost by stopping.

use std::io;
use std::path::PathBuf;

use crate::types::NodeId;

/// The log cannot be opened, or cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// What is on disk contradicts its checksum or itself. The text names the file where one is known.
    #[error(
        "the data in {path} is damaged: {detail}; restore it from another server or a backup, nothing was changed"
    )]
    Corrupt {
        /// The data directory.
        path: PathBuf,
        /// What RocksDB or the decoder found.
        detail: String,
    },
    /// A file cannot be read as a backup; the text says why.
    #[error("{path} cannot be used as a backup: {detail}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Something newer wrote it; going on would drop what this release does not understand.
    #[error("{what} was written by a newer release; start that release or a later one")]
    Newer {
        /// What was read.
        what: String,
    },
    /// The data directory belongs to another server.
    #[error("{path} belongs to server {found}, not {expected}; use that server's id or another directory")]
    WrongNode {
        /// The data directory.
        path: PathBuf,
        /// The id written there.
        found: NodeId,
        /// The id that was asked for.
        expected: NodeId,
    },
    /// The disk refused.
    #[error("storage in {path}: {detail}")]
    Storage {
        /// The data directory.
        path: PathBuf,
        /// What the operating system or RocksDB said.
        detail: String,
    },
    /// Values that cannot work together.
    #[error("configuration of the log: {0}")]
    Config(String),
    /// The state machine could not rebuild itself from the tables.
    #[error("rebuilding state from the tables: {0}")]
    Restore(String),
    /// The tables are not what the state machine has put into them; another server's must take their place.
    #[error("the tables are damaged: {0}")]
    Damaged(String),
    /// The certificates for talking to other servers cannot be used.
    #[error("certificates for talking to other servers: {0}")]
    Transport(String),
    /// The cluster did not accept a change of its members.
    #[error("change of members: {0}")]
    Membership(String),
    /// Only the leader can do it.
    #[error("this server does not lead{}", by(leader))]
    NotLeader {
        /// Who leads, as far as this server knows.
        leader: Option<NodeId>,
    },
    /// The log stopped.
    #[error("the log has stopped: {0}")]
    Fatal(String),
}

/// Who leads, for people.
fn by(leader: &Option<NodeId>) -> String {
    leader.map_or(String::new(), |leader| format!(" (server {leader} is taken for the leader)"))
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Corrupt { .. } | LogError::Newer { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed: another server leads, or none does.
    #[error("this server does not lead{}; try again there", by(leader))]
    NotLeader {
        /// Who leads, as far as this server knows.
        leader: Option<NodeId>,
    },
    /// It may or may not be applied, now or later; read before trying again.
    #[error("the outcome is not known; read before trying again")]
    Unknown,
    /// Too many proposals wait; nothing was proposed.
    #[error("too many proposals are waiting; try again later")]
    Overloaded,
    /// Nothing was proposed.
    #[error("the proposal has {size} bytes, more than the {limit} allowed; split it")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit of the server that would have taken it.
        limit: usize,
    },
    /// The log is shutting down; nothing was proposed.
    #[error("the server is shutting down")]
    Shutdown,
    /// Storage failed; this server must be repaired.
    #[error("the log has stopped: {0}")]
    Fatal(String),
}

/// Why there is no index to read at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another server leads, or none does.
    #[error("no leader answers{}; try again, or see `balsa status`", by(leader))]
    NotLeader {
        /// Who leads, as far as this server knows.
        leader: Option<NodeId>,
    },
    /// What is here differs from the other servers' and is being replaced; they can be read from.
    #[error("the state of this server is not to be trusted and is being rebuilt; ask another server")]
    Distrusted,
    /// No quorum confirmed the leader in time.
    #[error("no quorum of servers answered in time; try again")]
    Unavailable,
    /// The log is shutting down.
    #[error("the server is shutting down")]
    Shutdown,
    /// Storage failed; this server must be repaired.
    #[error("the log has stopped: {0}")]
    Fatal(String),
}

/// A state machine could not rebuild itself.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct StateMachineError {
    cause: Box<dyn std::error::Error + Send + Sync>,
    pub(crate) damaged: bool,
}

impl StateMachineError {
    /// Wraps a cause, or a sentence.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { cause: cause.into(), damaged: false }
    }

    /// The tables are not what the state machine has put into them. The log gets them from another server.
    pub fn damaged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { cause: cause.into(), damaged: true }
    }
}

impl From<LogError> for StateMachineError {
    fn from(error: LogError) -> Self {
        Self::new(error)
    }
}
