//! Streams to and from containers: logs, exec, attach.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::AsyncWrite;

use crate::error::Result;

/// Which output stream. A terminal has only one, which is `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamKind {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Which part of a container's output to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only lines of this time and later.
    pub since: Option<Timestamp>,
    /// Only lines of this time and earlier.
    pub until: Option<Timestamp>,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
}

/// A piece of output: a line, or part of a very long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Written to which stream.
    pub stream: StreamKind,
    /// When the engine got it.
    pub time: Timestamp,
    /// Without the line end.
    pub bytes: Bytes,
    /// The line goes on in the next piece of the same stream.
    pub partial: bool,
}

/// A container's output in the order it was written.
pub type LogStream = BoxStream<'static, Result<LogLine>>;

/// A command to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// Program and arguments; no shell is put in front.
    pub command: Vec<String>,
    /// Name and value, added to the container's.
    pub env: Vec<(String, String)>,
    /// Its streams are a terminal.
    pub tty: bool,
    /// `uid`, `uid:gid` or names; else the container's.
    pub user: Option<String>,
    /// Else the container's.
    pub working_dir: Option<String>,
    /// Give it a standard input.
    pub stdin: bool,
    /// Bring its standard output.
    pub stdout: bool,
    /// Bring its standard error; a terminal has none.
    pub stderr: bool,
}

/// Which streams of a running container to join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Write to its standard input.
    pub stdin: bool,
    /// Read its standard output.
    pub stdout: bool,
    /// Read its standard error.
    pub stderr: bool,
}

/// What a process writes, in order, until it closes its streams.
pub type OutputStream = BoxStream<'static, Result<(StreamKind, Bytes)>>;

/// A conversation with a process in a container. Its parts are taken and used apart.
pub struct ExecSession {
    /// Its standard input, when one was asked for. Shutting it down (or dropping it) is the end of
    /// the input; the output goes on.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// What it writes.
    pub output: OutputStream,
    /// Terminal size and exit code.
    pub control: Arc<dyn SessionControl>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// What can be asked of a session beside its streams.
#[async_trait]
pub trait SessionControl: Send + Sync {
    /// Sets the size of its terminal.
    async fn resize(&self, width: u16, height: u16) -> Result<()>;

    /// Waits for the process to end and gives its code. Read the output to its end first (or at the
    /// same time): a process that cannot write does not end.
    async fn exit_code(&self) -> Result<i32>;
}

/// How a short command went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote to both streams, at most [`ExecOutput::LIMIT`] bytes.
    pub output: Bytes,
}

impl ExecOutput {
    /// So many bytes of output are kept: what Kubernetes keeps of a probe's.
    pub const LIMIT: usize = 10 << 10;

    /// Reads a session to its end.
    pub async fn collect(mut session: ExecSession) -> Result<Self> {
        let mut output = BytesMut::new();
        while let Some(piece) = session.output.next().await {
            let (_, bytes) = piece?;
            let room = Self::LIMIT - output.len();
            output.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let exit_code = session.control.exit_code().await?;
        Ok(Self { exit_code, output: output.freeze() })
    }
}
