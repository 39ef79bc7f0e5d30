//! The simulated network, as the log wants it.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use balsa_log::{Connector, Lane, LogError, NodeId, PeerServer};
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use turmoil::net::{TcpListener, TcpStream};

use crate::world::PORT;

/// After this a connection that says nothing counts as broken.
const SILENCE: Duration = Duration::from_secs(1);

/// Connects to other servers, and keeps the connections.
#[derive(Default)]
pub(crate) struct Wire {
    channels: Mutex<HashMap<(NodeId, Lane), Channel>>,
}

impl Connector for Wire {
    fn connect(&self, node: NodeId, address: &str, lane: Lane) -> Result<Channel, LogError> {
        let mut channels = self.channels.lock().unwrap();
        if let Some(channel) = channels.get(&(node, lane)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| LogError::Transport(error.to_string()))?
            .connect_timeout(SILENCE)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(dial));
        channels.insert((node, lane), channel.clone());
        Ok(channel)
    }
}

async fn dial(to: http::Uri) -> io::Result<TokioIo<TcpStream>> {
    let address = to.authority().map(ToString::to_string).unwrap_or_default();
    Ok(TokioIo::new(TcpStream::connect(address).await?))
}

/// Answers other servers until the server dies.
pub(crate) async fn serve(service: PeerServer) -> Result<(), String> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.map_err(|error| error.to_string())?;
    Server::builder()
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(SILENCE))
        .add_service(service)
        .serve_with_incoming(accepted(listener))
        .await
        .map_err(|error| error.to_string())
}

fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<Accepted>> {
    futures::stream::unfold(listener, |listener| async move {
        let stream = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((stream, listener))
    })
}

/// An accepted connection, as tonic wants it.
struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
