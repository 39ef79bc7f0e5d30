//! SPDY/3.1, as far as Kubernetes' streams use it: many byte streams over one connection.
//!
//! `kubectl` before 1.30 runs exec and attach over it, and every `kubectl` runs port-forward over it,
//! since 1.31 inside a WebSocket. What speaks it in all of these is one Go library, and where that
//! library and the specification differ this crate goes with the library and says so.
//!
//! - [`frame`]: bytes to frames and back, without I/O. Whatever comes in, it never panics, and what it
//!   keeps is bounded.
//! - [`Connection`]: streams over anything that reads and writes. [`connection`] gives a handle and the
//!   future that does the work, which the caller spawns as it spawns everything.
//!
//! # Back-pressure
//!
//! That library has no flow control: it neither sends `WINDOW_UPDATE` nor obeys it. So a peer's window is
//! enforced only once it has shown that it knows about windows, and a stream whose reader is slow holds
//! up its connection when its buffer is full, as it does with Kubernetes' own servers.

mod connection;
mod dictionary;
mod error;
mod flow;
pub mod frame;
mod headers;
mod stream;

pub use connection::{Connection, Limits, Role, connection};
pub use error::{Error, FrameError, status};
pub use headers::Headers;
pub use stream::{Incoming, Stream, StreamReader, StreamWriter};
