//! A plain client of the REST API: one HTTP/1.1 connection, one request at a time. As thin as can be,
//! so that what is measured is the server.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use balsa_rt::TaskKind;
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A server and how to reach it.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    address: String,
    connector: TlsConnector,
}

impl Target {
    /// The current context of a kubeconfig with embedded certificates.
    pub(crate) fn from_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: start a cluster, or name its kubeconfig", path.display()))?;
        let config: Value = serde_yaml_ng::from_str(&text)?;
        let bytes = |pointer: &str| -> anyhow::Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str);
            let text = text.ok_or_else(|| anyhow!("{}: {pointer} is missing", path.display()))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let server = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str);
        let uri: http::Uri = server.ok_or_else(|| anyhow!("the kubeconfig names no server"))?.parse()?;
        let host = uri.host().unwrap_or_default().to_owned();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&bytes(
            "/clusters/0/cluster/certificate-authority-data",
        )?)?)?;
        let certificate = CertificateDer::from_pem_slice(&bytes("/users/0/user/client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Self {
            address: format!("{host}:{}", uri.port_u16().unwrap_or(443)),
            host,
            connector: TlsConnector::from(Arc::new(tls)),
        })
    }

    /// A connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        let stream = self.connector.connect(name, socket).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        balsa_rt::spawn(TaskKind::Connection, connection);
        Ok(Connection { sender, host: self.address.clone() })
    }
}

/// A connection; one request at a time.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Sends a request; the body of the answer has still to be read.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(body))?;
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
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok((status, body))
    }
}
