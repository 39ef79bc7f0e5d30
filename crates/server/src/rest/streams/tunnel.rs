//! SPDY inside a WebSocket: binary messages are pieces of the byte stream, wherever they are cut.

use balsa_rt::TaskKind;
use futures::SinkExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

use super::forward;
use super::upgrade::Io;
use super::websocket::{self, Sink, Source};
use crate::front::Front;
use crate::pods::Target;

/// What is negotiated.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// Bytes that may be between the two protocols in each direction.
const BETWEEN: usize = 64 << 10;
/// The longest message that is sent.
const PIECE: usize = 32 << 10;

/// Forwards connections until the client goes.
pub(super) async fn serve(io: Io, front: Front, target: Target) {
    let (inside, outside) = tokio::io::duplex(BETWEEN);
    balsa_rt::spawn(TaskKind::Connection, forward::serve(inside, front, target));
    let (mut sink, mut source) = websocket::open(io).await;
    let (mut reader, mut writer) = tokio::io::split(outside);
    let ended = tokio::select! {
        ended = outward(&mut sink, &mut reader) => ended,
        () = inward(&mut source, &mut writer) => false,
    };
    if ended {
        websocket::finish(sink, source).await;
    }
}

async fn outward(sink: &mut Sink, reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
    let mut buffer = vec![0; PIECE];
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        if sink.send(Message::Binary(buffer[..read].to_vec().into())).await.is_err() {
            return false;
        }
    }
    true
}

async fn inward(source: &mut Source, writer: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    while let Some(message) = websocket::next(source).await {
        if let Message::Binary(bytes) = message
            && writer.write_all(&bytes).await.is_err()
        {
            // The inside has ended; the outside says so.
            return std::future::pending().await;
        }
    }
}
