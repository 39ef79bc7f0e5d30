//! `exec` and `attach` over WebSocket.
//!
//! The first byte of a message is its channel: 0 standard input, 1 output, 2 error, 3 the end, 4 the
//! terminal's size, and in v5 255, which closes a channel.

use balsa_model::{Failure, Reason};
use balsa_proto::agent::{
    Channel, Data, End, StreamRequest, StreamResponse, stream_request, stream_response,
};
use bytes::Bytes;
use futures::SinkExt as _;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::Wanted;
use super::upgrade::Io;
use super::websocket::{self, Form, Sink, Source};
use crate::sessions::PodStream;

/// All forms, best first; the last is what a client means that offers none.
const FORMS: [Form; 6] = [
    Form { name: "v5.channel.k8s.io", text: false, status: true, closes: true },
    Form { name: "v4.channel.k8s.io", text: false, status: true, closes: false },
    Form { name: "v4.base64.channel.k8s.io", text: true, status: true, closes: false },
    Form { name: "channel.k8s.io", text: false, status: false, closes: false },
    Form { name: "base64.channel.k8s.io", text: true, status: false, closes: false },
    Form { name: "", text: false, status: false, closes: false },
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The best form that the client offers.
pub(super) fn negotiate(offered: &[String]) -> Result<Form, Failure> {
    choose(&FORMS, offered)
}

/// The best of `forms` that is among the offered.
pub(super) fn choose(forms: &[Form], offered: &[String]) -> Result<Form, Failure> {
    let is_offered = |form: &&Form| match form.name {
        "" => offered.is_empty(),
        name => offered.iter().any(|offered| offered == name),
    };
    forms.iter().find(is_offered).copied().ok_or_else(|| {
        let served: Vec<&str> = forms.iter().map(|form| form.name).filter(|name| !name.is_empty()).collect();
        Failure::bad_request(format!(
            "requested protocol(s) are not supported: {}; supports {}",
            offered.join(", "),
            served.join(", ")
        ))
    })
}

/// Carries messages both ways until the command ends or the client goes.
pub(super) async fn serve(io: Io, stream: PodStream, form: Form, wanted: Wanted) {
    let (mut sink, mut source) = websocket::open(io).await;
    // An empty message says that it has begun; on the first channel that the client reads.
    let first = match wanted {
        Wanted { stdout: true, .. } => STDOUT,
        Wanted { stderr: true, .. } => STDERR,
        _ => STATUS,
    };
    if sink.send(form.encode(first, &[])).await.is_err() {
        return;
    }
    let PodStream { mut from_agent, to_agent } = stream;
    let ended = tokio::select! {
        ended = downstream(&mut from_agent, &mut sink, form) => ended,
        () = upstream(&mut source, to_agent, form) => false,
    };
    if ended {
        websocket::finish(sink, source).await;
    }
}

/// From the pod to the client; false when the client has gone.
async fn downstream(from_agent: &mut mpsc::Receiver<StreamRequest>, sink: &mut Sink, form: Form) -> bool {
    loop {
        let (channel, bytes) = match from_agent.recv().await.and_then(|request| request.message) {
            Some(stream_request::Message::Data(data)) => {
                let channel = if data.channel() == Channel::Stderr { STDERR } else { STDOUT };
                (channel, data.bytes)
            }
            Some(stream_request::Message::Open(_)) => continue,
            Some(stream_request::Message::End(end)) => (STATUS, last_words(&end_of(end, form), form.status)),
            None => (STATUS, last_words(&broken_off(), form.status)),
        };
        let sent = bytes.is_empty() || sink.send(form.encode(channel, &bytes)).await.is_ok();
        if channel == STATUS || !sent {
            return sent;
        }
    }
}

/// The newest form is Kubernetes' own translation of what a node says: what went wrong there is its own error.
fn end_of(mut end: End, form: Form) -> End {
    if form.closes && !end.error.is_empty() && end.reason == Reason::InternalError.as_str() {
        end.error.insert_str(0, "Internal error occurred: ");
    }
    end
}

/// How a stream ends whose agent has gone.
pub(super) fn broken_off() -> End {
    let error = "the node's agent broke the stream off".to_owned();
    End { exit_code: 0, error, reason: String::new() }
}

/// What the client is told at the end.
pub(super) fn last_words(end: &End, as_status: bool) -> Bytes {
    let status = super::console::status(end);
    if as_status {
        return status.to_string().into();
    }
    let message = status.get("message").and_then(serde_json::Value::as_str);
    message.unwrap_or_default().to_owned().into()
}

/// From the client to the pod, until the client goes.
async fn upstream(source: &mut Source, to_agent: mpsc::Sender<StreamResponse>, form: Form) {
    let mut to_agent = Some(to_agent);
    while let Some(message) = websocket::next(source).await {
        // The command may have ended; its end is on the way, and the client is still heard.
        if let Some(message) = to_pod(message, form)
            && let Some(sender) = &to_agent
            && sender.send(message).await.is_err()
        {
            to_agent = None;
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    width: u32,
    height: u32,
}

impl Size {
    pub(super) fn message(&self) -> stream_response::Message {
        stream_response::Message::Resize(stream_response::Size { width: self.width, height: self.height })
    }
}

/// What a message of the client's means to the agent; `None` for what means nothing.
fn to_pod(message: Message, form: Form) -> Option<StreamResponse> {
    let (channel, payload) = form.decode(message)?;
    let message = match channel {
        STDIN if payload.is_empty() => return None,
        STDIN => stream_response::Message::Data(Data { channel: Channel::Stdin.into(), bytes: payload }),
        RESIZE => serde_json::from_slice::<Size>(&payload).ok()?.message(),
        CLOSE if form.closes && payload[..] == [STDIN] => {
            stream_response::Message::Close(Channel::Stdin.into())
        }
        _ => return None,
    };
    Some(StreamResponse { message: Some(message) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn binary(bytes: &'static [u8], form: Form) -> Option<stream_response::Message> {
        to_pod(Message::Binary(Bytes::from_static(bytes)), form)?.message
    }

    #[test]
    fn messages_of_the_client() {
        let [v5, v4, ..] = FORMS;
        let data = binary(b"\x00ls\n", v5).unwrap();
        assert!(matches!(data, stream_response::Message::Data(d) if d.bytes == "ls\n"));
        let size = binary(b"\x04{\"Width\":80,\"Height\":24}", v4).unwrap();
        assert!(matches!(size, stream_response::Message::Resize(s) if s.width == 80));
        assert!(matches!(binary(b"\xff\x00", v5), Some(stream_response::Message::Close(_))));
        assert!(binary(b"\xff\x00", v4).is_none(), "v4 cannot close a channel");
        assert!(binary(b"", v5).is_none());
        assert!(binary(b"\x04nonsense", v5).is_none());
    }

    #[test]
    fn the_best_form_is_chosen() {
        let offered = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let best = |names: &[&str]| negotiate(&offered(names)).map(|form| form.name);
        assert_eq!(best(&["v4.channel.k8s.io", "v5.channel.k8s.io"]).unwrap(), "v5.channel.k8s.io");
        assert_eq!(best(&["base64.channel.k8s.io"]).unwrap(), "base64.channel.k8s.io");
        assert_eq!(best(&[]).unwrap(), "");
        assert!(best(&["v9.channel.k8s.io"]).is_err());
    }

    #[test]
    fn v5_says_that_an_internal_error_is_one() {
        let [v5, v4, ..] = FORMS;
        let end = |reason: &str, form| {
            let end = End { exit_code: 0, error: "no such thing".to_owned(), reason: reason.to_owned() };
            end_of(end, form).error
        };
        assert_eq!(end("InternalError", v5), "Internal error occurred: no such thing");
        assert_eq!(end("InternalError", v4), "no such thing");
        assert_eq!(end("BadRequest", v5), "no such thing");
        assert_eq!(end_of(End::default(), v5), End::default());
    }

    #[test]
    fn before_v4_the_end_is_an_error_s_text() {
        let failed = End { exit_code: 7, ..End::default() };
        assert_eq!(last_words(&failed, false), "command terminated with exit code 7");
        assert_eq!(last_words(&End::default(), false), "");
        assert_eq!(last_words(&End::default(), true), "{\"metadata\":{},\"status\":\"Success\"}");
    }
}
