//! A cluster over gRPC: what agents and the command line use.
//!
//! - `channels`: one lazy connection a server, and which of them is asked;
//! - `objects`: the [`Backend`](crate::Backend), and the writes that need more than it offers;
//! - `pods`: logs and commands; `cluster`: version, status, tokens; `members`: the servers themselves;
//! - [`join`]: how a node gets its certificate.
//!
//! Invariant: a write is sent a second time only when the first cannot have reached a server.

mod channels;
mod cluster;
pub mod join;
mod members;
mod objects;
mod pods;

pub use channels::{Connection, Credentials, connector};
pub use members::Backup;
pub use objects::{WriteDetails, Written};
pub use pods::ExecOutput;
pub use tonic::transport::Endpoint;

use balsa_model::Failure;

use channels::{Channels, Trust};

/// Whom a client is.
#[derive(Clone)]
pub enum Identity {
    /// A certificate that the cluster's CA signed, and its key; both PEM.
    Certificate {
        /// The certificate.
        cert_pem: String,
        /// Its private key.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
}

/// How to reach a cluster.
#[derive(Clone)]
pub struct RemoteConfig {
    /// The servers, `host:port`; any of them will do.
    pub servers: Vec<String>,
    /// The cluster's CA, PEM: servers that it did not sign are refused.
    pub ca_pem: String,
    /// Whom the client is.
    pub identity: Identity,
}

/// Why a client cannot be made. Nothing is asked of the servers for it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no server to ask.
    #[error("no server is named: give at least one as host:port")]
    NoServers,
    /// An address cannot be read.
    #[error("\"{server}\" is not the address of a server; write it as host:port")]
    Address {
        /// As it was given.
        server: String,
    },
    /// The CA, the certificate or the key is no good.
    #[error("certificate or key: {0}")]
    Tls(String),
    /// The token cannot be sent.
    #[error("the token contains characters that no token has")]
    Token,
}

impl RemoteConfig {
    /// The endpoint of one server with the configuration's certificate, for whoever keeps a connection of
    /// its own (an agent's session). A bearer token is not part of it.
    ///
    /// # Errors
    /// When the address or the configuration is no good.
    pub fn endpoint(&self, server: &str) -> Result<Endpoint, tonic::transport::Error> {
        channels::endpoint(self, server, &Trust::Ca)
    }
}

/// A cluster over gRPC. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct RemoteBackend {
    channels: Channels,
}

impl RemoteBackend {
    /// A client of a cluster. Connections are made when they are first needed, and again when they
    /// break. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration is no good.
    pub fn connect(config: &RemoteConfig) -> Result<Self, ConnectError> {
        Ok(Self { channels: Channels::new(config)? })
    }

    /// A connection to the server that is asked at present, for services that have no method here
    /// (an agent's session and streams).
    pub fn connection(&self) -> Connection {
        self.channels.current().1
    }

    /// Goes on with another configuration: a renewed certificate, other servers.
    ///
    /// # Errors
    /// When the configuration is no good; the present one stays.
    pub fn reconfigure(&self, config: &RemoteConfig) -> Result<(), ConnectError> {
        self.channels.replace(config)
    }

    /// The servers, as they were given.
    pub fn servers(&self) -> Vec<String> {
        self.channels.servers()
    }
}

/// An answer without what it is about: a fault of the server's.
fn incomplete(what: &str) -> Failure {
    Failure::internal(format!("the server's answer holds no {what}"))
}
