//! How one server reaches another: channels over TLS, kept and shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::codec::pb;
use crate::codec::pb::raft_service_client::RaftServiceClient;
use crate::error::LogError;
use crate::types::NodeId;

/// Largest message between servers: a piece of the log, whose last entry may be as large as allowed.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Opens connections to other servers. Asked before every call, so it decides call by call whether
/// there is a way; it is expected to keep its channels.
pub trait Connector: Send + Sync + 'static {
    /// A channel to server `node` at `address`. Connecting may be put off to the first call.
    ///
    /// # Errors
    /// When there is no way to that server.
    fn connect(&self, node: NodeId, address: &str) -> Result<Channel, LogError>;
}

/// The certificates with which servers know each other.
#[derive(Clone)]
pub struct PeerTls {
    /// The cluster's CA, PEM.
    pub ca: String,
    /// This server's certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
    /// The name that every server's certificate carries.
    pub server_name: String,
}

/// How to talk to other servers.
#[derive(Clone)]
pub struct TransportConfig {
    connector: Arc<dyn Connector>,
}

impl TransportConfig {
    /// Without TLS: for tests, and where something else protects the network.
    pub fn plain() -> Self {
        Self::with_connector(Arc::new(TcpConnector { tls: None, channels: Mutex::default() }))
    }

    /// With TLS in both directions.
    pub fn tls(tls: &PeerTls) -> Self {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .identity(Identity::from_pem(&tls.certificate, &tls.key))
            .domain_name(&tls.server_name);
        Self::with_connector(Arc::new(TcpConnector { tls: Some(config), channels: Mutex::default() }))
    }

    /// With connections of the caller's own making.
    pub fn with_connector(connector: Arc<dyn Connector>) -> Self {
        Self { connector }
    }

    pub(crate) fn client(&self, node: NodeId, address: &str) -> Result<RaftServiceClient<Channel>, LogError> {
        let channel = self.connector.connect(node, address)?;
        Ok(pb::raft_service_client::RaftServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }
}

struct TcpConnector {
    tls: Option<ClientTlsConfig>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Connector for TcpConnector {
    fn connect(&self, _node: NodeId, address: &str) -> Result<Channel, LogError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let refused = |error: tonic::transport::Error| LogError::Transport(format!("{address}: {error}"));
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(refused)?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(refused)?;
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
