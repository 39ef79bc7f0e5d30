//! How one server reaches another: channels over TLS, kept and shared.
//!
//! A server is reached by its id: its certificate must carry the name that belongs to that id, so an
//! address that another server has taken over leads nowhere. Where a server is stands in the members
//! list; what a server said of itself since then ([`TransportConfig::learn`]) counts more, until the
//! list says something new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::codec::pb;
use crate::codec::pb::raft_service_client::RaftServiceClient;
use crate::error::LogError;
use crate::types::NodeId;

/// Largest message between servers: a piece of the log, whose last entry may be as large as allowed.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// What a connection carries. Heartbeats and votes never wait behind bulk on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, read indexes.
    Control,
    /// Entries of the log, and up to where they are committed.
    Entries,
    /// Snapshots.
    Snapshots,
    /// Proposals on their way to the leader.
    Proposals,
}

/// Opens connections to other servers. Asked before every call, so it decides call by call whether
/// there is a way (a stream of entries is one call, and lasts a minute); it is expected to keep its channels.
pub trait Connector: Send + Sync + 'static {
    /// A channel to server `node` at `address`. Connecting may be put off to the first call.
    ///
    /// # Errors
    /// When there is no way to that server.
    fn connect(&self, node: NodeId, address: &str, lane: Lane) -> Result<Channel, LogError>;

    /// Certificates have changed: later connections are made anew.
    fn renew(&self) {}
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
}

/// The name that the certificate of server `node` carries, and no other.
pub fn peer_name(node: NodeId) -> String {
    format!("server-{node}.servers.balsa.internal")
}

/// A server that does not let this one in, and what it said.
pub type Refusal = (NodeId, String);

/// How to talk to other servers. Clones share what they learn.
#[derive(Clone)]
pub struct TransportConfig {
    connector: Arc<dyn Connector>,
    tls: Arc<RwLock<Option<ClientTlsConfig>>>,
    identity: Arc<RwLock<Option<PeerTls>>>,
    book: Arc<RwLock<HashMap<NodeId, Learned>>>,
    refusals: watch::Sender<Option<Refusal>>,
}

/// Where a server said it is.
struct Learned {
    address: String,
    /// What the members list said then; once it says something else, that counts.
    listed: Option<String>,
}

impl TransportConfig {
    /// Without TLS: for tests, and where something else protects the network.
    pub fn plain() -> Self {
        let tls = Arc::new(RwLock::new(None));
        let connector = TcpConnector { tls: tls.clone(), channels: Mutex::default() };
        Self { tls, ..Self::with_connector(Arc::new(connector)) }
    }

    /// With TLS in both directions.
    pub fn tls(tls: &PeerTls) -> Self {
        let config = Self::plain();
        config.replace_tls(tls);
        config
    }

    /// With connections of the caller's own making.
    pub fn with_connector(connector: Arc<dyn Connector>) -> Self {
        let refusals = watch::Sender::new(None);
        Self { connector, tls: Arc::default(), identity: Arc::default(), book: Arc::default(), refusals }
    }

    /// Makes all later connections with other certificates; those that stand are not touched.
    pub fn replace_tls(&self, tls: &PeerTls) {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .identity(Identity::from_pem(&tls.certificate, &tls.key));
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Some(tls.clone());
        self.connector.renew();
    }

    /// The certificates that are used now.
    pub fn identity(&self) -> Option<PeerTls> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Server `node` said that it is at `address`; `listed` is what the members list says.
    pub fn learn(&self, node: NodeId, address: &str, listed: Option<&str>) {
        let learned = Learned { address: address.to_owned(), listed: listed.map(str::to_owned) };
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        let before = book.insert(node, learned);
        if before.is_none_or(|before| before.address != address) && listed != Some(address) {
            tracing::info!(server = node, address, "a server is at another address now");
        }
    }

    /// Where server `node` is, given what the members list says.
    pub fn address(&self, node: NodeId, listed: &str) -> String {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let learned = book.get(&node);
        let learned = learned.filter(|it| it.listed.as_deref().is_none_or(|then| then == listed));
        learned.map_or_else(|| listed.to_owned(), |learned| learned.address.clone())
    }

    /// The last time that a server did not let this one in.
    pub fn refusals(&self) -> watch::Receiver<Option<Refusal>> {
        self.refusals.subscribe()
    }

    /// Notes that server `by` did not let this one in.
    pub fn refused(&self, by: NodeId, why: &str) {
        self.refusals.send_replace(Some((by, why.to_owned())));
    }

    /// A channel to server `node`, for whoever mounts services of its own beside the log's.
    ///
    /// # Errors
    /// When there is no way to that server.
    pub fn channel(&self, node: NodeId, listed: &str, lane: Lane) -> Result<Channel, LogError> {
        self.connector.connect(node, &self.address(node, listed), lane)
    }

    pub(crate) fn client(
        &self,
        node: NodeId,
        listed: &str,
        lane: Lane,
    ) -> Result<RaftServiceClient<Channel>, LogError> {
        let channel = self.channel(node, listed, lane)?;
        Ok(pb::raft_service_client::RaftServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }
}

type Place = (NodeId, String, Lane);

struct TcpConnector {
    tls: Arc<RwLock<Option<ClientTlsConfig>>>,
    channels: Mutex<HashMap<Place, Channel>>,
}

impl Connector for TcpConnector {
    fn connect(&self, node: NodeId, address: &str, lane: Lane) -> Result<Channel, LogError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (node, address.to_owned(), lane);
        if let Some(channel) = channels.get(&place) {
            return Ok(channel.clone());
        }
        let refused = |error: tonic::transport::Error| LogError::Transport(format!("{address}: {error}"));
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(refused)?
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if let Some(tls) = tls {
            let tls = tls.domain_name(peer_name(node)).assume_http2(true);
            endpoint = endpoint.tls_config(tls).map_err(refused)?;
        }
        // Its own connector would give that time to TCP alone, and wait for ever for the handshake of TLS.
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let channel = endpoint.connect_with_connector_lazy(connector);
        channels.insert(place, channel.clone());
        Ok(channel)
    }

    fn renew(&self) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_counts_until_the_list_knows_better() {
        let transport = TransportConfig::plain();
        assert_eq!(transport.address(1, "old:1"), "old:1");
        transport.learn(1, "new:1", Some("old:1"));
        assert_eq!(transport.address(1, "old:1"), "new:1");
        assert_eq!(transport.address(1, "newest:1"), "newest:1");
        assert_eq!(transport.address(2, "other:1"), "other:1");
    }
}
