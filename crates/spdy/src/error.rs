//! What can go wrong on a connection, on a stream, and in the bytes.

/// Why bytes are no SPDY/3.1. The connection cannot go on: its compression state is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the protocol, or no SPDY at all.
    #[error("a control frame of version {0}; only version 3 is spoken")]
    Version(u16),
    /// A frame with less or more in it than its type has.
    #[error("a malformed {0} frame")]
    Malformed(&'static str),
    /// A control frame of a size that nobody needs.
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    /// Headers that do not inflate, or inflate to more than anybody needs.
    #[error("headers: {0}")]
    Headers(&'static str),
}

/// Why a stream or a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer (or this side) reset the stream; the number is one of [`status`].
    #[error("the stream was reset with status {0}")]
    Reset(u32),
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
    /// The peer does not speak SPDY/3.1.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer asks faster than it takes answers.
    #[error("the peer does not read what it asked for")]
    Flooded,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Status codes of `RST_STREAM`.
pub mod status {
    /// The peer broke the rules of the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A frame for a stream that is not there.
    pub const INVALID_STREAM: u32 = 2;
    /// The stream was not begun.
    pub const REFUSED_STREAM: u32 = 3;
    /// Whoever wanted it wants it no more.
    pub const CANCEL: u32 = 5;
    /// A failure that is none of the peer's.
    pub const INTERNAL_ERROR: u32 = 6;
}
