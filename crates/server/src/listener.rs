//! The one port: TLS, then HTTP/1.1 or HTTP/2, then REST or gRPC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use balsa_rt::{CancellationToken, TaskKind};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::front::Peer;
use crate::identity::{IdentityError, Issued};

/// How long a client may take over the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// HTTP/2 streams a connection may have open: informers open one a kind, and must not starve.
const STREAMS: u32 = 1000;

/// The TLS of this server: its certificate, and client certificates of the cluster's CA where a client
/// shows one.
///
/// # Errors
/// When keys or certificates are malformed.
pub(crate) fn tls_config(ca: &str, identity: &Issued) -> Result<Arc<ServerConfig>, IdentityError> {
    let malformed = |error: &dyn std::fmt::Display| IdentityError::Malformed(error.to_string());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| malformed(&e))?;
    roots.add(ca.clone()).map_err(|e| malformed(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| malformed(&e))?;
    let certificate =
        CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(|e| malformed(&e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| malformed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| malformed(&e))?
        .with_client_cert_verifier(verifier)
        // With its issuer: whoever joins by a token knows the CA by its hash, and must see it.
        .with_single_cert(vec![certificate, ca], key)
        .map_err(|e| malformed(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves `router` on `listener` until the token is cancelled; then lets requests in flight end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
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
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        balsa_rt::spawn(TaskKind::Connection, async move {
            connection(socket, address, acceptor, router, watcher).await;
        });
    }
    drop(listener);
    if let Ok(graceful) = Arc::try_unwrap(graceful) {
        let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    }
    Ok(())
}

async fn connection(
    socket: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
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
    let peer = Peer(certificate.map(|der| Arc::new(der.to_vec())));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder.http1().timer(TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%address, %error, "connection ended");
    }
}
