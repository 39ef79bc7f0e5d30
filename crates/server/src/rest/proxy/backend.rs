//! Where a proxied request goes: a connection to a port of a pod, to an endpoint of a service, or to a
//! node's agent.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key, Reason};
use balsa_proto::agent::{
    Channel, Data, OpenHttp, OpenPortForward, StreamResponse, open, stream_request, stream_response,
};
use balsa_rt::TaskKind;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use rand::seq::IndexedRandom as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use super::Address;
use crate::front::Front;
use crate::pods::Target;
use crate::sessions::PodStream;

/// A connection, whatever it goes through.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open connection, and what it is called there.
pub(super) struct Backend {
    pub(super) io: Box<dyn Io>,
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) why: Why,
}

/// Why the far end gave a connection up, once it has: the connection itself only ends.
pub(super) type Why = Arc<OnceLock<String>>;

/// Bytes that are read at once.
const PIECE: usize = 32 << 10;
/// How long a connection that is made directly may take.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

fn unreachable(why: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"))
}

/// To a port of a pod; without one, to the first that it declares.
pub(super) async fn pod(front: &Front, key: &Key, address: &Address) -> Result<Backend, Failure> {
    let port = match address.port.as_str() {
        "" => declared_port(front, key)?,
        text => number(text)?,
    };
    to_pod(front, key, port, address.https).await
}

fn number(text: &str) -> Result<u16, Failure> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.ok_or_else(|| Failure::bad_request(format!("invalid port \"{text}\"")))
}

fn declared_port(front: &Front, key: &Key) -> Result<u16, Failure> {
    let kind = kind_of::<Pod>();
    let found = front.engine.state().get(kind, key);
    let object = found.ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))?;
    let pod = object.typed::<Pod>();
    let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
    let mut ports = spec.iter().flat_map(|spec| &spec.containers).flat_map(|c| c.ports.iter().flatten());
    let port = ports.next().and_then(|port| u16::try_from(port.container_port).ok());
    Ok(port.unwrap_or(80))
}

async fn to_pod(front: &Front, key: &Key, port: u16, https: bool) -> Result<Backend, Failure> {
    let target = front.pod(key)?;
    target.require_running().map_err(|failure| unreachable(failure.message))?;
    let what = OpenPortForward { port: port.into(), by_address: true };
    let stream = front.open_stream(&target, open::What::PortForward(what)).await?;
    let (io, why) = piped(stream);
    let io = secured(Box::new(io), https).await.map_err(|failure| why.get().map_or(failure, unreachable))?;
    Ok(Backend { io, https, host: format!("{}:{port}", key.name), why })
}

/// To one of a service's endpoints that are ready.
pub(super) async fn service(front: &Front, key: &Key, address: &Address) -> Result<Backend, Failure> {
    let kind = kind_of::<Service>();
    let state = front.engine.state();
    let found = state.get(kind, key).ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))?;
    let service = found.typed::<Service>().ok_or_else(|| Failure::internal("service does not decode"))?;
    let endpoints = state.get(kind_of::<Endpoints>(), key);
    let endpoints = endpoints.and_then(|object| object.typed::<Endpoints>());
    let name = port_name(&service, &address.port);
    let chosen = name.and_then(|name| choose(&*endpoints?, &name));
    let none = || {
        let why = format!("no endpoints available for service \"{}\"", key.name);
        Failure::new(Reason::ServiceUnavailable, why)
    };
    let (endpoint, port) = chosen.ok_or_else(none)?;
    match endpoint.pod {
        Some(pod) => to_pod(front, &Key::new(&*key.namespace, pod.as_str()), port, address.https).await,
        None => directly(&endpoint.ip, port, address.https).await,
    }
}

/// The name of the service's port that is meant; its only one may have none.
fn port_name(service: &Service, wanted: &str) -> Option<String> {
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    let name = |port: &k8s_openapi::api::core::v1::ServicePort| port.name.clone().unwrap_or_default();
    if wanted.is_empty() {
        return match ports {
            [only] => Some(name(only)),
            _ => ports.iter().map(name).find(String::is_empty),
        };
    }
    let is_meant = |port: &&k8s_openapi::api::core::v1::ServicePort| {
        port.name.as_deref() == Some(wanted) || port.port.to_string() == wanted
    };
    ports.iter().find(is_meant).map(name)
}

struct Endpoint {
    ip: String,
    pod: Option<String>,
}

fn choose(endpoints: &Endpoints, port_name: &str) -> Option<(Endpoint, u16)> {
    let mut all = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = subset.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port).ok()) else { continue };
        all.extend(subset.addresses.iter().flatten().map(|address| (address, port)));
    }
    let (address, port) = all.choose(&mut rand::rng())?;
    let pod = address.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|target| target.name.clone());
    Some((Endpoint { ip: address.ip.clone(), pod }, *port))
}

/// To an address that somebody wrote down: outside the cluster, so it is reached from here. What only this
/// machine can see is nobody else's business.
async fn directly(ip: &str, port: u16, https: bool) -> Result<Backend, Failure> {
    let address: IpAddr = ip.parse().map_err(|_| unreachable(format!("invalid address \"{ip}\"")))?;
    if !may_reach(address) {
        return Err(Failure::new(Reason::Forbidden, format!("address {ip} is not allowed")));
    }
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect((address, port))).await;
    let stream = connected.map_err(unreachable)?.map_err(unreachable)?;
    let host = std::net::SocketAddr::new(address, port).to_string();
    Ok(Backend { io: secured(Box::new(stream), https).await?, https, host, why: Why::default() })
}

fn may_reach(address: IpAddr) -> bool {
    let local = match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// To the endpoint of a node's agent. It has one, whatever port is named.
pub(super) async fn node(front: &Front, address: &Address) -> Result<Backend, Failure> {
    let kind = kind_of::<Node>();
    let found = front.engine.state().get(kind, &Key::new("", address.name.as_str()));
    found.ok_or_else(|| Failure::not_found(kind.descriptor(), &address.name))?;
    if !matches!(address.port.as_str(), "" | "10250") {
        let why = format!("node \"{}\" is reached through its agent alone; leave out the port", address.name);
        return Err(Failure::bad_request(why));
    }
    let stream = front.open_stream(&Target::node(&address.name), open::What::Http(OpenHttp {})).await?;
    // Its bytes go through the agent's own connection, which has TLS already.
    let (io, why) = piped(stream);
    Ok(Backend { io: Box::new(io), https: false, host: address.name.clone(), why })
}

/// A stream as a connection. When either end is dropped, so is the other.
fn piped(stream: PodStream) -> (DuplexStream, Why) {
    let (ours, theirs) = tokio::io::duplex(2 * PIECE);
    let why = Why::default();
    let tell = why.clone();
    balsa_rt::spawn(TaskKind::Connection, async move {
        let PodStream { mut from_agent, to_agent } = stream;
        let (mut reader, mut writer) = tokio::io::split(theirs);
        let upward = async {
            let mut buffer = vec![0; PIECE];
            while let Ok(read @ 1..) = reader.read(&mut buffer).await {
                let bytes = buffer[..read].to_vec().into();
                let data = stream_response::Message::Data(Data { channel: Channel::Data.into(), bytes });
                if to_agent.send(StreamResponse { message: Some(data) }).await.is_err() {
                    // Its end is on the way.
                    std::future::pending::<()>().await;
                }
            }
        };
        let downward = async {
            loop {
                match from_agent.recv().await.and_then(|request| request.message) {
                    Some(stream_request::Message::Data(data)) => {
                        if writer.write_all(&data.bytes).await.is_err() {
                            return;
                        }
                    }
                    Some(stream_request::Message::End(end)) if !end.error.is_empty() => {
                        let _ = tell.set(end.error);
                        break;
                    }
                    _ => break,
                }
            }
            let _ = writer.shutdown().await;
        };
        // An HTTP client that is done drops its end; it never closes one direction alone.
        tokio::select! {
            () = upward => {}
            () = downward => {}
        }
    });
    (ours, why)
}

async fn secured(io: Box<dyn Io>, https: bool) -> Result<Box<dyn Io>, Failure> {
    if !https {
        return Ok(io);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Failure::internal)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(Failure::internal)?;
    let secured = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io);
    let secured = tokio::time::timeout(CONNECT, secured).await.map_err(unreachable)?;
    Ok(Box::new(secured.map_err(unreachable)?))
}

/// Takes any certificate: which one a pod shows, nobody has told us.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_others_see_too_is_reached() {
        let may = |text: &str| may_reach(text.parse().unwrap());
        assert!(may("192.0.2.7") && may("10.1.2.3") && may("2001:db8::1"));
        for own in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "fe80::1",
            "224.0.0.1",
        ] {
            assert!(!may(own), "{own}");
        }
    }

    #[test]
    fn a_service_s_port_by_name_or_number() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]}
        }))
        .unwrap();
        assert_eq!(port_name(&service, "http").as_deref(), Some("http"));
        assert_eq!(port_name(&service, "81").as_deref(), Some("admin"));
        assert_eq!(port_name(&service, ""), None);
        assert_eq!(port_name(&service, "82"), None);
    }

    #[test]
    fn an_endpoint_that_has_the_port() {
        let endpoints: Endpoints = serde_json::from_value(serde_json::json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 1}]},
            {"addresses": [{"ip": "10.0.0.2", "targetRef": {"kind": "Pod", "name": "p"}}],
             "notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "http", "port": 8080}]},
        ]}))
        .unwrap();
        let (endpoint, port) = choose(&endpoints, "http").unwrap();
        assert_eq!((endpoint.ip.as_str(), endpoint.pod.as_deref(), port), ("10.0.0.2", Some("p"), 8080));
        assert!(choose(&endpoints, "y").is_none());
    }
}
