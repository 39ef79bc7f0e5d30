//! What keeps an agent from starting or joining, and anybody from reaching an address.

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
    /// A bootstrap token is needed and there is none.
    #[error("no bootstrap token is given: {0}; make one with `balsa token create`")]
    Token(&'static str),
    /// A key or a certificate could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
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

/// Why there is no connection to an address, in the words that everybody knows.
pub(crate) fn unreached(address: impl std::fmt::Display, error: &std::io::Error) -> String {
    let told = error.to_string().to_lowercase();
    let told = told.split(" (os error").next().unwrap_or_default();
    format!("dial tcp {address}: connect: {told}")
}
