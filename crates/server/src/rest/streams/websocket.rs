//! What all WebSockets share: the forms in which channels travel, limits, and a good end.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::upgrade::Io;

/// The longest message that is taken. Clients send what they read at once, tens of KiB.
const MAX_MESSAGE: usize = 4 << 20;
/// How long a client may take to go once it was told the end.
const LINGER: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<Io>;
pub(super) type Sink = SplitSink<Socket, Message>;
pub(super) type Source = SplitStream<Socket>;

/// Both directions of a WebSocket.
pub(super) async fn open(io: Io) -> (Sink, Source) {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split()
}

/// The next message that carries something; `None` when the client has gone. Pings are answered
/// underneath.
pub(super) async fn next(source: &mut Source) -> Option<Message> {
    loop {
        match source.next().await {
            Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => return Some(message),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// Ends a WebSocket, and lets the client go first: what it has not read yet would be lost otherwise.
pub(super) async fn finish(mut sink: Sink, mut source: Source) {
    // Without a code kubectl takes the end for a failure, whatever was said before.
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let end = async {
        let _ = sink.send(Message::Close(Some(normal))).await;
        while let Some(Ok(_)) = source.next().await {}
    };
    let _ = tokio::time::timeout(LINGER, end).await;
}

/// A sub-protocol, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// As it is negotiated; empty: none was offered.
    pub(super) name: &'static str,
    /// Text messages: the channel as a digit, the rest in base64.
    pub(super) text: bool,
    /// The end is a Status in JSON; before, it was the text of an error.
    pub(super) status: bool,
    /// Channels can be closed one by one.
    pub(super) closes: bool,
}

impl Form {
    /// A message on a channel.
    pub(super) fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        if self.text {
            let mut text = char::from(b'0' + channel % 10).to_string();
            STANDARD.encode_string(bytes, &mut text);
            return Message::Text(text.into());
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::Binary(message.into())
    }

    /// The channel and the bytes of a message; `None` for what is neither. What kind of message it is does not
    /// count: the Python client sends what is typed as text where bytes were agreed upon.
    pub(super) fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        if !self.text {
            return Some((*bytes.first()?, bytes.slice(1..)));
        }
        let (digit, rest) = std::str::from_utf8(&bytes).ok()?.split_at_checked(1)?;
        Some((digit.parse().ok()?, STANDARD.decode(rest).ok()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_in_both_forms() {
        let binary = Form { name: "v4.channel.k8s.io", text: false, status: true, closes: false };
        let text = Form { text: true, ..binary };
        for form in [binary, text] {
            let message = form.encode(1, b"hello");
            assert_eq!(form.decode(message), Some((1, Bytes::from_static(b"hello"))));
        }
        assert_eq!(text.encode(0, b"ls"), Message::Text("0bHM=".into()));
        assert_eq!(text.decode(Message::Text("0*".into())), None);
        assert_eq!(text.decode(Message::Text("é".into())), None);
        assert_eq!(binary.decode(Message::Binary(Bytes::new())), None);
        assert_eq!(binary.decode(Message::Text("\u{0}ls".into())), Some((0, Bytes::from_static(b"ls"))));
    }
}
