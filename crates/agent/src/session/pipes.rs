//! Connections: to ports of pods, and to the node's own HTTP endpoint.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balsa_net::Netns;
use balsa_proto::agent::{Channel as Lane, OpenPortForward, StreamResponse, stream_response};
use balsa_rt::TaskKind;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Streaming;

use super::streams::{Out, Refusal};
use crate::context::NodeContext;
use crate::error::unreached;
use crate::pod::actor::Running;
use crate::pod::sandbox::is_host_network;

/// Bytes that are read at once.
const PIECE: usize = 32 << 10;

/// Carries one connection to a port of a pod.
pub(super) async fn port_forward(
    pod: &Pod,
    running: &Running,
    wanted: &OpenPortForward,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let port = u16::try_from(wanted.port).map_err(|_| Refusal::bad_request("no such port"))?;
    let stream = connect(pod, running, port, wanted.by_address).await?;
    carry(stream, input, out).await;
    Ok(0)
}

/// Carries one connection to the node's own HTTP endpoint.
pub(super) async fn http(
    node: &NodeContext,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let router = node.http.get().cloned();
    let router = router.ok_or_else(|| Refusal::bad_request("this node serves no HTTP"))?;
    let (inside, outside) = tokio::io::duplex(2 * PIECE);
    balsa_rt::spawn(TaskKind::Connection, async move {
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(inside), TowerToHyperService::new(router));
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection to the node's endpoint ended");
        }
    });
    carry(outside, input, out).await;
    Ok(0)
}

/// Both ways until the far end closes, or whoever asked has gone.
async fn carry(stream: impl AsyncRead + AsyncWrite + Send, input: &mut Streaming<StreamResponse>, out: &Out) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let upward = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            if !out.data(Lane::Data, Bytes::copy_from_slice(&buffer[..read])).await {
                return;
            }
        }
    };
    let downward = async {
        while let Ok(Some(response)) = input.message().await {
            match response.message {
                Some(stream_response::Message::Data(data))
                    if writer.write_all(&data.bytes).await.is_err() =>
                {
                    break;
                }
                Some(stream_response::Message::Close(_)) => drop(writer.shutdown().await),
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
        // The far end decides: what it says after our last word still counts.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = upward => {}
        () = downward => {}
        () = out.closed() => {}
    }
}

/// To the port on the pod's own loopback, as Kubernetes does, so that programs that listen on it alone
/// can be reached; or on its address.
async fn connect(pod: &Pod, running: &Running, port: u16, by_address: bool) -> Result<TcpStream, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let refused = |error: &dyn std::fmt::Display| {
        let to_whom = format!("error forwarding port {port} to pod {name}, uid {uid}: ");
        // Who goes to an address does not forward; what it does, it says itself.
        let to_whom = if by_address { String::new() } else { to_whom };
        Refusal::bad_request(format!("{to_whom}{error}"))
    };
    let pid = running.sandbox_pid.ok_or_else(|| refused(&"the pod does not run"))?;
    let netns = if is_host_network(pod) { Netns::Current } else { Netns::of_pid(pid) };
    let addresses = if by_address {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).unwrap_or_default();
        vec![ip.parse().map_err(|_| refused(&"the pod has no address"))?]
    } else {
        vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]
    };
    let connected = netns.run(move || Ok(first(&addresses, port))).await;
    let stream = connected.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
    stream.set_nonblocking(true).map_err(|error| refused(&error))?;
    // Small answers are not held back until there are more.
    stream.set_nodelay(true).map_err(|error| refused(&error))?;
    TcpStream::from_std(stream).map_err(|error| refused(&error))
}

fn dial(address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let connected = std::net::TcpStream::connect(address);
    connected.map_err(|error| std::io::Error::new(error.kind(), unreached(address, &error)))
}

/// The first that answers; else the error of the first.
fn first(addresses: &[IpAddr], port: u16) -> std::io::Result<std::net::TcpStream> {
    let mut attempts = addresses.iter().map(|address| dial(SocketAddr::new(*address, port)));
    let none = || Err(std::io::Error::other("the pod has no address"));
    let first = attempts.next().unwrap_or_else(none);
    first.or_else(|error| attempts.find_map(Result::ok).ok_or(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_listens() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let why = first(&[free.ip()], free.port()).unwrap_err().to_string();
        assert_eq!(why, format!("dial tcp {free}: connect: connection refused"));
    }
}
