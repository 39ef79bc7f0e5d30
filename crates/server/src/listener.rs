//! The one port: TLS, then HTTP/1.1 or HTTP/2, then REST or gRPC.

mod gathered;
mod until;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use balsa_rt::{CancellationToken, TaskKind};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::front::{Front, Peer, PeerServer};
use crate::identity::IdentityError;
use crate::rest;
use gathered::Gathered;
pub(crate) use until::EndsItself;
use until::{UntilStopped, is_grpc};

/// How long connections are served as ever after the last one was taken.
const LAST_REQUESTS: Duration = Duration::from_millis(200);
/// How long a client may take over the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// What clients that speak HTTP/2 call it in their handshake.
const HTTP2: &[u8] = b"h2";
/// HTTP/2 streams a connection may have open: informers open one a kind, and must not starve.
const STREAMS: u32 = 1000;
/// Bytes of headers that a request over HTTP/2 may have, its path among them: as many as Go takes.
const HEADER_BYTES: u32 = 1 << 20;

/// The TLS of this server: its certificate, and client certificates of the cluster's CA where a client
/// shows one.
///
/// # Errors
/// When keys or certificates are malformed.
pub(crate) fn tls_config(
    ca: &str,
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let malformed = |error: &dyn std::fmt::Display| IdentityError::Malformed(error.to_string());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| malformed(&e))?;
    roots.add(ca).map_err(|e| malformed(&e))?;
    let mut provider = rustls::crypto::ring::default_provider();
    // Of long lists and many watches most of the time is encryption: the shorter key of AES first, as Go has it.
    provider.cipher_suites.sort_by_key(|suite| {
        use rustls::CipherSuite::{
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            TLS13_AES_128_GCM_SHA256,
        };
        let short = [
            TLS13_AES_128_GCM_SHA256,
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        !short.contains(&suite.suite())
    });
    let provider = Arc::new(provider);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| malformed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| malformed(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.ignore_client_order = true;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What is behind the port.
#[derive(Clone)]
pub(crate) struct Doors {
    /// For REST.
    pub(crate) front: Front,
    /// For gRPC.
    pub(crate) grpc: Router,
}

impl Doors {
    async fn answer(self, request: Request<Body>, is_grpc: bool) -> Response {
        // What is to be passed on to a pod is below /api, whatever it is.
        if is_grpc && !request.uri().path().starts_with("/api") {
            return self.grpc_answer(request).await;
        }
        // What this may grow to is not to be moved about.
        Box::pin(rest::serve(self.front, request)).await
    }

    async fn grpc_answer(self, mut request: Request<Body>) -> Response {
        let (asked, started) = (rest::Asked::default(), Instant::now());
        request.extensions_mut().insert(asked.clone());
        let Ok(response) = self.grpc.oneshot(request).await;
        self.front.counted.grpc(&asked, started, response.headers());
        response
    }
}

/// Serves what is behind the `doors` on `listener` until the token is cancelled; then lets requests in flight end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    doors: Doors,
    token: CancellationToken,
    drain: Duration,
) -> Result<(), std::io::Error> {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = Arc::new(GracefulShutdown::new());
    loop {
        let (socket, address) = tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: others may end soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, doors, watcher) = (acceptor.clone(), doors.clone(), graceful.watcher());
        let stopping = token.clone();
        balsa_rt::spawn(TaskKind::Connection, async move {
            connection(socket, address, acceptor, doors, (watcher, stopping)).await;
        });
    }
    drop(listener);
    // Connections that were made a moment ago still bring their request.
    tokio::time::sleep(LAST_REQUESTS).await;
    if let Ok(graceful) = Arc::try_unwrap(graceful) {
        let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    }
    Ok(())
}

async fn connection(
    socket: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    doors: Doors,
    (watcher, stopping): (hyper_util::server::graceful::Watcher, CancellationToken),
) {
    let _ = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let server = certificate.and_then(|der| PeerServer::of(der));
    let is_server = server.is_some();
    let peer = Peer::new(certificate.map(|der| der.as_ref()));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        if let Some(server) = &server {
            request.extensions_mut().insert(server.clone());
        }
        let is_grpc = is_grpc(request.headers());
        let (doors, stopping) = (doors.clone(), stopping.clone());
        async move {
            let response = doors.answer(request.map(Body::new), is_grpc).await;
            Ok::<_, std::convert::Infallible>(UntilStopped::answer(response, is_grpc, stopping))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_header_list_size(HEADER_BYTES)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder.http1().timer(TokioTimer::new());
    // What servers tell each other, heartbeats above all, waits for nothing else that this thread has to do.
    let gathers = !is_server && stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    let stream = TokioIo::new(Gathered::new(stream, gathers));
    let connection = builder.serve_connection_with_upgrades(stream, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%address, %error, "connection ended");
    }
}
