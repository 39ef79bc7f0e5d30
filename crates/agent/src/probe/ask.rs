//! The ways of asking: a command, HTTP, TCP, gRPC health.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use balsa_runtime::{ContainerId, Error, Runtime};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::unreached;

/// So much of an answer is looked at.
const ANSWER: usize = 10 << 10;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The container's name in the pod.
    pub container: String,
    /// The runtime's id of it.
    pub id: ContainerId,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// Its named ports.
    pub ports: Vec<(String, u16)>,
}

impl Target {
    pub(crate) fn new(container: &Container, id: ContainerId, address: Option<IpAddr>) -> Self {
        let named = |port: &k8s_openapi::api::core::v1::ContainerPort| {
            Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))
        };
        let ports = container.ports.iter().flatten().filter_map(named).collect();
        Self { container: container.name.clone(), id, address, ports }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let found = match port {
            IntOrString::Int(port) => u16::try_from(*port).ok(),
            IntOrString::String(name) => self
                .ports
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, port)| *port)
                .or(name.parse().ok()),
        };
        found.ok_or_else(|| format!("couldn't find port: {port:?}"))
    }

    fn host(&self, host: Option<&String>) -> Result<String, String> {
        match host.filter(|host| !host.is_empty()) {
            Some(host) => Ok(host.clone()),
            None => self
                .address
                .map(|address| address.to_string())
                .ok_or_else(|| "the pod has no address".to_owned()),
        }
    }
}

/// One try; `Err` says how it failed, in the kubelet's words.
pub(super) async fn ask(
    runtime: &dyn Runtime,
    target: &Target,
    probe: &Probe,
    limit: Duration,
) -> Result<(), String> {
    let asked = async {
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return exec(runtime, target, &command, limit).await;
        }
        if let Some(action) = &probe.http_get {
            return get(target, action, "kube-probe/1.33").await;
        }
        if let Some(action) = &probe.tcp_socket {
            let (host, port) = (target.host(action.host.as_ref())?, target.port(&action.port)?);
            return connect(&host, port).await.map(drop);
        }
        match &probe.grpc {
            Some(action) => grpc(target, action, limit).await,
            None => Ok(()),
        }
    };
    // A command is ended by the runtime itself, a little later than here.
    let patience = if probe.exec.is_some() { limit + Duration::from_secs(2) } else { limit };
    match tokio::time::timeout(patience, asked).await {
        Ok(result) => result,
        Err(_) => {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
        }
    }
}

async fn exec(
    runtime: &dyn Runtime,
    target: &Target,
    command: &[String],
    limit: Duration,
) -> Result<(), String> {
    match runtime.exec_sync(&target.id, command, limit).await {
        Ok(output) if output.exit_code == 0 => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.output).into_owned()),
        Err(Error::Timeout { .. }) => {
            Err(format!("command timed out: \"{}\" timed out after {}s", command.join(" "), limit.as_secs()))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await;
    stream.map_err(|error| unreached(format_args!("{host}:{port}"), &error))
}

/// An HTTP GET; anything from 200 to 399 is well. HTTPS certificates are not checked, as Kubernetes
/// documents: a probe asks whether the program answers, not who it is.
pub(crate) async fn get(target: &Target, action: &HTTPGetAction, agent: &str) -> Result<(), String> {
    let (host, port) = (target.host(action.host.as_ref())?, target.port(&action.port)?);
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let mut request = http::Request::get(&path).header("user-agent", agent).header("accept", "*/*");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        request = request.header("host", format!("{host}:{port}"));
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let stream = connect(&host, port).await;
    let stream = stream.map_err(|error| format!("Get \"{scheme}://{host}:{port}{path}\": {error}"))?;
    let status = if scheme == "https" {
        exchange(secure(stream, &host).await?, request).await?
    } else {
        exchange(stream, request).await?
    };
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<http::StatusCode, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // The body is not looked at, but a program may be upset when nobody reads it.
        let _ = Limited::new(response.into_body(), ANSWER).collect().await;
        Ok(status)
    };
    tokio::pin!(connection, talk);
    tokio::select! {
        status = &mut talk => status,
        // The other side may close right after its answer, which is then already here.
        _ = &mut connection => talk.await,
    }
}

async fn secure(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(unchecked::Unchecked(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

async fn grpc(target: &Target, action: &GRPCAction, limit: Duration) -> Result<(), String> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let host = target.host(None)?;
    let failed = |error: &dyn std::fmt::Display| format!("failed to connect service: {error}");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{host}:{}", action.port));
    let endpoint = endpoint.map_err(|error| failed(&error))?.connect_timeout(limit).timeout(limit);
    let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
    let service = action.service.clone().unwrap_or_default();
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
    let status =
        answer.map_err(|status| format!("health rpc failed: {}", status.message()))?.into_inner().status();
    if status == ServingStatus::Serving {
        return Ok(());
    }
    Err(format!("service unhealthy (responded with \"{}\")", status.as_str_name()))
}

/// Accepts any certificate: for probes only, see [`get`].
mod unchecked {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Unchecked(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Unchecked {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn answer(status: &'static str) -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        balsa_rt::spawn(balsa_rt::TaskKind::Test, async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await;
            }
        });
        Target {
            container: "c".into(),
            id: ContainerId::new("c"),
            address: "127.0.0.1".parse().ok(),
            ports: vec![("http".into(), port)],
        }
    }

    fn action() -> HTTPGetAction {
        HTTPGetAction { port: IntOrString::String("http".into()), ..HTTPGetAction::default() }
    }

    #[tokio::test]
    async fn http_answers_are_judged_by_their_status() {
        assert_eq!(get(&answer("204 No Content").await, &action(), "t").await, Ok(()));
        assert_eq!(get(&answer("301 Moved").await, &action(), "t").await, Ok(()));
        let failure = get(&answer("503 Busy").await, &action(), "t").await.unwrap_err();
        assert_eq!(failure, "HTTP probe failed with statuscode: 503");
    }

    #[tokio::test]
    async fn a_grpc_service_is_well_when_it_says_so() {
        use tonic::transport::server::{Server, TcpIncoming};
        use tonic_health::ServingStatus;
        let (reporter, health) = tonic_health::server::health_reporter();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let serving = Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener));
        balsa_rt::spawn(
            balsa_rt::TaskKind::Test,
            async move { serving.await.map_err(|error| error.to_string()) },
        );
        let target = answer("200 OK").await;
        let check = async |service: &str, port: i32| {
            let action = GRPCAction { port, service: Some(service.to_owned()) };
            grpc(&target, &action, Duration::from_secs(5)).await
        };
        reporter.set_service_status("kites", ServingStatus::Serving).await;
        assert_eq!((check("kites", port).await, check("", port).await), (Ok(()), Ok(())));
        reporter.set_service_status("kites", ServingStatus::NotServing).await;
        let failure = check("kites", port).await.unwrap_err();
        assert_eq!(failure, "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(check("birds", port).await.unwrap_err().starts_with("health rpc failed: "));
        assert!(check("", 1).await.unwrap_err().starts_with("failed to connect service: "));
    }

    #[test]
    fn ports_have_numbers_or_names() {
        let target = Target {
            container: "c".into(),
            id: ContainerId::new("c"),
            address: None,
            ports: vec![("a".into(), 7)],
        };
        assert_eq!(target.port(&IntOrString::Int(80)), Ok(80));
        assert_eq!(target.port(&IntOrString::String("a".into())), Ok(7));
        assert!(target.port(&IntOrString::String("b".into())).is_err());
        assert!(target.host(None).is_err(), "a pod without an address has no host");
    }
}
