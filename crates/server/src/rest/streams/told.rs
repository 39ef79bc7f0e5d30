//! Watches and logs over a WebSocket: what browsers can follow, and dashboards do.
//!
//! The answer is the one that HTTP would have got. Once it has begun well, it is told in messages: an event of a watch
//! in each, or what there is of a log.

use axum::body::Body;
use axum::response::Response;
use balsa_model::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Extensions, HeaderMap, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::channels::choose;
use super::upgrade::{Io, Upgrade, WebSocketUpgrade};
use super::websocket::{self, Form};

/// The forms of a log, the last for a client that offers none.
const LOGS: [Form; 3] = [
    Form { name: "binary.k8s.io", text: false, status: false, closes: false },
    Form { name: "base64.binary.k8s.io", text: true, status: false, closes: false },
    Form { name: "", text: false, status: false, closes: false },
];

/// A wish to be told over a WebSocket.
pub(in crate::rest) struct Listener {
    socket: WebSocketUpgrade,
    tells: Tells,
}

/// How bytes become messages.
#[derive(Clone, Copy, Debug)]
enum Tells {
    /// Each line is one, as text.
    Lines,
    /// As they come, in a form of [`LOGS`].
    Bytes(Form),
}

impl Listener {
    /// What a request for a watch wishes; `None`: an ordinary answer.
    pub(in crate::rest) fn to_watch(headers: &HeaderMap, extensions: &mut Extensions) -> Option<Self> {
        Some(Self { socket: socket(headers, extensions)?, tells: Tells::Lines })
    }

    /// What a request for a log wishes; `None`: an ordinary answer.
    ///
    /// # Errors
    /// `BadRequest` when the client wants a form that there is not.
    pub(in crate::rest) fn to_log(
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> Result<Option<Self>, Failure> {
        let Some(socket) = socket(headers, extensions) else { return Ok(None) };
        let form = choose(&LOGS, &socket.offered)?;
        Ok(Some(Self { socket, tells: Tells::Bytes(form) }))
    }

    /// Tells an answer. One that is a refusal stays what it is.
    pub(in crate::rest) fn tell(self, answer: Response) -> Response {
        if answer.status() != StatusCode::OK {
            return answer;
        }
        let Self { socket, tells } = self;
        // Browsers give up on a server that agrees to nothing of what they offered. Of watches there is one form only,
        // whatever it is called.
        let protocol = match tells {
            Tells::Lines => socket.offered.first().cloned().unwrap_or_default(),
            Tells::Bytes(form) => form.name.to_owned(),
        };
        socket.accept(&protocol, move |io| serve(io, answer.into_body(), tells))
    }
}

fn socket(headers: &HeaderMap, extensions: &mut Extensions) -> Option<WebSocketUpgrade> {
    match Upgrade::wanted(headers, extensions.remove::<OnUpgrade>()) {
        Ok(Upgrade::WebSocket(socket)) => Some(socket),
        _ => None,
    }
}

/// Tells until there is no more to tell, or nobody listens.
async fn serve(io: Io, body: Body, tells: Tells) {
    let (mut sink, mut source) = websocket::open(io).await;
    let mut chunks = body.into_data_stream();
    let telling = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            for message in tells.messages(&chunk) {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        }
    };
    let ended = tokio::select! {
        () = telling => true,
        // What a listener says is not listened to.
        () = async { while websocket::next(&mut source).await.is_some() {} } => false,
    };
    drop(chunks);
    if ended {
        websocket::finish(sink, source).await;
    }
}

impl Tells {
    fn messages(self, chunk: &Bytes) -> Vec<Message> {
        match self {
            Self::Lines => {
                let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.map(|line| Message::Text(text(chunk.slice_ref(line)))).collect()
            }
            Self::Bytes(Form { text: true, .. }) => vec![Message::Text(STANDARD.encode(chunk).into())],
            Self::Bytes(_) => vec![Message::Binary(chunk.clone())],
        }
    }
}

fn text(bytes: Bytes) -> Utf8Bytes {
    Utf8Bytes::try_from(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_messages() {
        let events = Bytes::from_static(b"{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n");
        let told = Tells::Lines.messages(&events);
        assert_eq!(told, [Message::text("{\"type\":\"ADDED\"}"), Message::text("{\"type\":\"DELETED\"}")]);
        let log = Bytes::from_static(b"one\ntwo");
        let [binary, encoded, plain] = LOGS.map(|form| Tells::Bytes(form).messages(&log));
        assert_eq!((&binary, &plain), (&vec![Message::Binary(log.clone())], &vec![Message::Binary(log)]));
        assert_eq!(encoded, [Message::text("b25lCnR3bw==")]);
    }
}
