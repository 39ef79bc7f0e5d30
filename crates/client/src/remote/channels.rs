//! One lazy connection a server, and which of them is asked.
//!
//! All calls go to one server until it does not answer; then the next one is asked. Streams that
//! break are not repeated here: whoever reads them knows where to go on.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use balsa_model::{Failure, Reason};
use balsa_proto::from_status;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::ServerCertVerifier;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::{ConnectError, Identity, RemoteConfig};

/// The name that every server's certificate has.
const SERVER_NAME: &str = "kubernetes";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes back for that long is dead.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Bytes on the way of one stream; lists are large.
const WINDOW: u32 = 1 << 20;
/// A message may be that large: a list's message is half a MiB and the last object more.
pub(super) const MAX_MESSAGE: usize = 32 << 20;
/// How long a call that is no stream may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Adds the bearer token to every call.
#[derive(Clone)]
pub struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// What generated clients are made of.
pub type Connection = InterceptedService<Channel, Credentials>;

struct Shared {
    servers: Vec<String>,
    connections: Vec<Connection>,
    current: AtomicUsize,
}

impl Shared {
    fn new(config: &RemoteConfig, trust: &Trust) -> Result<Self, ConnectError> {
        if config.servers.is_empty() {
            return Err(ConnectError::NoServers);
        }
        let credentials = Credentials(match &config.identity {
            Identity::Certificate { .. } => None,
            Identity::Token(token) => {
                Some(format!("Bearer {token}").parse().map_err(|_| ConnectError::Token)?)
            }
        });
        let connect = |server: &String| {
            let channel = checked_endpoint(config, server, trust)?.connect_with_connector_lazy(connector());
            Ok(InterceptedService::new(channel, credentials.clone()))
        };
        let connections: Result<Vec<_>, ConnectError> = config.servers.iter().map(connect).collect();
        Ok(Self { servers: config.servers.clone(), connections: connections?, current: AtomicUsize::new(0) })
    }
}

/// The connections to all servers. Clones share them, also when they are replaced.
#[derive(Clone)]
pub(super) struct Channels(Arc<ArcSwap<Shared>>);

/// Whether a call may be made again after its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Always,
    /// Only when it has not reached a server.
    Unsent,
}

/// Which servers are trusted.
pub(super) enum Trust {
    /// Those that the configuration's CA has signed.
    Ca,
    /// Those that this lets pass.
    Verifier(Arc<dyn ServerCertVerifier>),
}

impl Channels {
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, ConnectError> {
        Self::with_trust(config, &Trust::Ca)
    }

    pub(super) fn with_trust(config: &RemoteConfig, trust: &Trust) -> Result<Self, ConnectError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Shared::new(config, trust)?))))
    }

    /// Makes all later calls with another configuration; those under way end with the old one.
    pub(super) fn replace(&self, config: &RemoteConfig) -> Result<(), ConnectError> {
        self.0.store(Arc::new(Shared::new(config, &Trust::Ca)?));
        Ok(())
    }

    pub(super) fn servers(&self) -> Vec<String> {
        self.0.load().servers.clone()
    }

    /// The server that is asked at present.
    pub(super) fn current(&self) -> (usize, Connection) {
        let shared = self.0.load();
        let index = shared.current.load(Ordering::Relaxed) % shared.connections.len();
        (index, shared.connections[index].clone())
    }

    /// Goes on with the server after `index`, unless somebody else has done so already.
    pub(super) fn skip(&self, index: usize) {
        let shared = self.0.load();
        let next = (index + 1) % shared.connections.len();
        let _ = shared.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a call at one server after another, until one answers.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        make: impl Fn(Connection) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        T: Send,
        F: Future<Output = Result<tonic::Response<T>, Status>> + Send,
    {
        let mut last = None;
        for _ in 0..self.0.load().connections.len() {
            let (index, connection) = self.current();
            let status = match make(connection).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let failure = self.failure(&status, index);
            if status.code() != Code::Unavailable && !is_transport(&status) {
                return Err(failure);
            }
            self.skip(index);
            if repeat == Repeat::Unsent && !is_unsent(&status) {
                return Err(failure);
            }
            last = Some(failure);
        }
        Err(last.unwrap_or_else(|| Failure::internal("no server is configured")))
    }

    /// What a status means; one that no server sent says which server and why.
    pub(super) fn failure(&self, status: &Status, server: usize) -> Failure {
        if !is_transport(status) {
            return from_status(status);
        }
        let shared = self.0.load();
        let server = shared.servers.get(server).map_or("the server", String::as_str);
        let mut why = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            why = if is_timeout(error) { "it does not answer".to_owned() } else { error.to_string() };
            source = error.source();
        }
        Failure::new(Reason::ServiceUnavailable, format!("cannot reach the server {server}: {why}"))
    }
}

/// What connects an endpoint, in no more than its `connect_timeout`. With tonic's own that is the time for TCP alone, which
/// the kernel of a server that stands still answers: the handshake of TLS would be waited for without end.
pub fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

/// The endpoint of a server.
pub(super) fn endpoint(
    config: &RemoteConfig,
    server: &str,
    trust: &Trust,
) -> Result<Endpoint, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().domain_name(SERVER_NAME).assume_http2(true);
    if let Identity::Certificate { cert_pem, key_pem } = &config.identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(cert_pem, key_pem));
    }
    let endpoint = Endpoint::from_shared(format!("https://{server}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(8 * WINDOW);
    match trust {
        Trust::Ca => endpoint.tls_config(tls.ca_certificate(Certificate::from_pem(&config.ca_pem))),
        Trust::Verifier(verifier) => endpoint.tls_config_with_verifier(tls, verifier.clone()),
    }
}

/// The same, with what is wrong in our words.
fn checked_endpoint(config: &RemoteConfig, server: &str, trust: &Trust) -> Result<Endpoint, ConnectError> {
    let wrong = || ConnectError::Address { server: server.to_owned() };
    // Without a port the address is meant for somebody else.
    if server.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(wrong());
    }
    Endpoint::from_shared(format!("https://{server}")).map_err(|_| wrong())?;
    endpoint(config, server, trust).map_err(|error| {
        ConnectError::Tls(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    })
}

/// A request for a call that is no stream.
pub(super) fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// No server said this: the way to one is broken. Servers send details.
fn is_transport(status: &Status) -> bool {
    status.details().is_empty()
        && status.source().is_some()
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// The call has not reached a server.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() || is_timeout(error) {
            return true;
        }
        source = error.source();
    }
    false
}

/// There was no connection in time.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<tokio::time::error::Elapsed>())
}

#[cfg(test)]
mod tests {
    use super::super::{ConnectError, Identity, RemoteBackend, RemoteConfig};
    use super::*;
    use balsa_model::kind::kind_of;
    use k8s_openapi::api::core::v1::ConfigMap;

    use crate::Backend as _;

    fn config(servers: &[&str]) -> RemoteConfig {
        RemoteConfig {
            servers: servers.iter().map(|s| (*s).to_owned()).collect(),
            ca_pem: String::new(),
            identity: Identity::Token("t".to_owned()),
        }
    }

    #[tokio::test]
    async fn addresses_need_a_port() {
        for wrong in ["localhost", ":6443", "a b:1", "host:port"] {
            let refused = RemoteBackend::connect(&config(&[wrong])).err();
            assert!(matches!(refused, Some(ConnectError::Address { .. })), "{wrong}");
        }
        assert!(matches!(RemoteBackend::connect(&config(&[])).err(), Some(ConnectError::NoServers)));
    }

    #[tokio::test]
    async fn who_cannot_be_reached_is_told_by_name() {
        // Bound and dropped: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let backend = RemoteBackend::connect(&config(&[&free, &free])).unwrap();
        let failure =
            backend.get(kind_of::<ConfigMap>(), &balsa_model::Key::new("n", "c")).await.unwrap_err();
        assert_eq!(failure.reason, Reason::ServiceUnavailable);
        assert!(failure.message.starts_with(&format!("cannot reach the server {free}: ")), "{failure}");
        assert!(failure.message.contains("refused"), "{failure}");
        assert_eq!(backend.channels.current().0, 0, "both were asked in turn");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_not_waited_for() {
        // Its kernel takes connections, and nobody says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().map(|address| (silent, address.to_string())).unwrap();
        let backend = RemoteBackend::connect(&config(&[&silent.1, &silent.1])).unwrap();
        let object = balsa_model::Key::new("n", "c");
        // A write, too: it was never sent.
        let failure = backend.delete(kind_of::<ConfigMap>(), &object, &Default::default()).await.unwrap_err();
        let why = format!("cannot reach the server {}: it does not answer", silent.1);
        assert_eq!((failure.reason, failure.message), (Reason::ServiceUnavailable, why));
        assert_eq!(backend.channels.current().0, 0, "both were asked in turn");
    }
}
