//! A plain client of the REST API: JSON in and out, nothing retried, nothing hidden. One connection
//! carries one request at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use balsa_rt::TaskKind;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::{Method, Request};
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

/// Longest wait for an answer where nobody else sets a limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a kubeconfig holds as base64.
pub fn decode_base64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// A server, and who asks.
#[derive(Clone)]
pub struct Rest {
    host: String,
    address: String,
    connector: TlsConnector,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The body; a string where it is not JSON.
    pub body: Value,
    /// `Warning` headers.
    pub warnings: Vec<String>,
}

impl Rest {
    /// The current context of a kubeconfig with embedded certificates.
    pub fn from_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let config: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?;
        let bytes = |pointer: &str| -> anyhow::Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str);
            let text = text.ok_or_else(|| anyhow!("{}: {pointer} is missing", path.display()))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let server = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str);
        let uri: http::Uri = server.context("the kubeconfig names no server")?.parse()?;
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
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        Ok(Self { address, host, connector: TlsConnector::from(Arc::new(tls)) })
    }

    /// The same client at another server of the cluster, `host:port`.
    #[must_use]
    pub fn at(&self, address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        Self { address: address.to_owned(), host, connector: self.connector.clone() }
    }

    /// A connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        let stream = self.connector.connect(name, socket).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // A server that is killed ends it with an error; the request in flight says so too.
        balsa_rt::spawn(TaskKind::Test, async move {
            connection.await.ok();
        });
        Ok(Connection { sender, host: self.address.clone() })
    }

    /// One request on a connection of its own.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.connect().await?.call(method, path, body).await
    }

    /// The same from where there is no asynchronous runtime.
    pub fn call_now(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        self.raw_now(method, path, "application/json", bytes)
    }

    /// Bytes of any content type, from where there is no asynchronous runtime.
    pub fn raw_now(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let asking = async { self.connect().await?.raw(method, path, content_type, body).await };
            tokio::time::timeout(PATIENCE, asking).await?
        })
    }

    /// Any request whose answer is lines of JSON, on a connection of its own.
    pub async fn stream(&self, request: Request<Bytes>) -> anyhow::Result<(http::response::Parts, Watch)> {
        let mut connection = self.connect().await?;
        let (parts, body) = connection.start(request).await?.into_parts();
        Ok((parts, Watch { _connection: connection, body, rest: BytesMut::new() }))
    }

    /// A watch; `path` has its query.
    pub async fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let mut connection = self.connect().await?;
        let response = connection.send(Method::GET, path, "application/json", Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(anyhow!("{path}: {}", response.status()));
        }
        Ok(Watch { _connection: connection, body: response.into_body(), rest: BytesMut::new() })
    }
}

/// A connection; one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    async fn start(&mut self, request: Request<Bytes>) -> anyhow::Result<http::Response<Incoming>> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(http::header::HOST, self.host.parse()?);
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends any request as it is and reads the whole answer.
    pub async fn exchange(&mut self, request: Request<Bytes>) -> anyhow::Result<http::Response<Bytes>> {
        let (parts, body) = self.start(request).await?.into_parts();
        Ok(http::Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    /// Sends JSON (`null`: no body) and reads the whole answer, whatever it says.
    pub async fn call(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        self.raw(method, path, "application/json", bytes).await
    }

    /// Sends bytes of any content type and reads the whole answer.
    pub async fn raw(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let response = self.send(method, path, content_type, Bytes::from(body)).await?;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all(http::header::WARNING).iter();
        let warnings = warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let bytes = response.into_body().collect().await?.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Ok(Answer { code, body, warnings })
    }
}

/// Events of a watch, one after the other.
pub struct Watch {
    _connection: Connection,
    body: Incoming,
    rest: BytesMut,
}

impl Watch {
    /// The next event; `None` when the server ended the stream, an error when it was cut.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                // The last line need not end.
                None if self.rest.is_empty() => return Ok(None),
                None => return Ok(Some(serde_json::from_slice(&self.rest.split())?)),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
