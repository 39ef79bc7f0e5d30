//! A plain client of the REST API: one HTTP/1.1 connection, one request at a time, or an HTTP/2 connection that many
//! share. As thin as can be, so that what is measured is the server.

use std::sync::Arc;

use anyhow::bail;
use balsa_rt::TaskKind;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kubeconfig::Kubeconfig;

/// A server and how to reach it.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    address: String,
    token: Option<HeaderValue>,
    connector: TlsConnector,
    /// The same for HTTP/2.
    sharing: TlsConnector,
}

impl Target {
    /// The server of a kubeconfig.
    pub(crate) fn new(config: &Kubeconfig) -> anyhow::Result<Self> {
        let Some(ca) = &config.ca else {
            bail!("the kubeconfig names no certificate authority: the server cannot be checked")
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match &config.identity {
            Some((certificate, key)) => tls.with_client_auth_cert(
                CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?,
                PrivateKeyDer::from_pem_slice(key)?,
            )?,
            None => tls.with_no_client_auth(),
        };
        let mut sharing = tls.clone();
        sharing.alpn_protocols = vec![b"h2".to_vec()];
        let token = config.token.as_ref().map(|token| format!("Bearer {token}").parse()).transpose()?;
        Ok(Self {
            host: config.host().to_owned(),
            address: config.address(),
            token,
            connector: TlsConnector::from(Arc::new(tls)),
            sharing: TlsConnector::from(Arc::new(sharing)),
        })
    }

    /// A connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = self.socket(&self.connector).await?;
        let (sender, connection) = http1::handshake(stream).await?;
        balsa_rt::spawn(TaskKind::Connection, connection);
        Ok(Connection { sender, host: self.address.parse()?, token: self.token.clone() })
    }

    /// A connection for many requests at a time, as client-go makes one of all that a program asks.
    pub(crate) async fn share(&self) -> anyhow::Result<Shared> {
        let stream = self.socket(&self.sharing).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        balsa_rt::spawn(TaskKind::Connection, connection);
        Ok(Shared { sender, host: self.address.clone(), token: self.token.clone() })
    }

    async fn socket(&self, connector: &TlsConnector) -> anyhow::Result<TokioIo<TlsStream<TcpStream>>> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        Ok(TokioIo::new(connector.connect(name, socket).await?))
    }
}

/// A connection that many share.
#[derive(Clone)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    host: String,
    token: Option<HeaderValue>,
}

impl Shared {
    /// Asks for `path`; the body of the answer has still to be read.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<http::Response<Incoming>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = format!("https://{}{path}", self.host).parse()?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.token.iter().map(|token| (AUTHORIZATION, token.clone())));
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}

/// A connection; one request at a time.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    token: Option<HeaderValue>,
}

impl Connection {
    /// Sends a request; the body of the answer has still to be read.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        self.send_with(method, path, "application/json", body).await
    }

    async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let content_type = HeaderValue::from_static(content_type);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        let headers = request.headers_mut();
        headers.extend([(HOST, self.host.clone()), (CONTENT_TYPE, content_type), (ACCEPT, JSON)]);
        headers.extend(self.token.iter().map(|token| (AUTHORIZATION, token.clone())));
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads the answer; anything but success is an error.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        self.call_with(method, path, "application/json", body).await
    }

    /// The same with a body of another type than JSON.
    pub(crate) async fn call_with(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.send_with(method, path, content_type, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok((status, body))
    }
}
