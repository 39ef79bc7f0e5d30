//! What keeps an agent from starting or joining.

use std::path::PathBuf;

/// Why an agent cannot start or join.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory or file of the node cannot be used.
    #[error("cannot use {path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The container runtime does not answer.
    #[error("the container runtime does not answer; is Docker running? {0}")]
    Runtime(#[from] balsa_runtime::Error),
    /// The bootstrap token is not in the right form.
    #[error("the token is malformed ({0}); make one with `balsa token create`")]
    Token(&'static str),
    /// A key or a certificate could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The server could not be reached, or it is not the one that the token is for.
    #[error("cannot reach {server}: {message}")]
    Connect {
        /// Which one.
        server: String,
        /// Why.
        message: String,
    },
    /// The server refused to let this node in.
    #[error("joining was refused: {0}")]
    Refused(String),
}

impl AgentError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
