//! `exec` and `attach` over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Messages are binary; the first byte is the channel: 0 standard input, 1 output, 2 error, 3 the final
//! Status, 4 the terminal's size, and in v5 255, which closes a channel.

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, Reason};
use balsa_proto::agent::{
    Channel, Data, End, OpenAttach, OpenExec, StreamResponse, open, stream_request, stream_response,
};
use balsa_rt::TaskKind;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::ResourceCall;
use crate::sessions::PodStream;

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Serves a command, or a container's own streams.
pub(super) async fn serve(call: ResourceCall, upgrade: Option<OnUpgrade>) -> Result<Response, Failure> {
    // A WebSocket is a GET to HTTP, and a new thing to authorization.
    call.authorize(if call.call.method == Method::GET { "get" } else { "create" })?;
    call.authorize("create")?;
    let headers = &call.call.headers;
    let (Some(upgrade), Some(key), true) =
        (upgrade, headers.get(SEC_WEBSOCKET_KEY).cloned(), is_websocket(headers))
    else {
        return Err(Failure::bad_request(
            "Upgrade request required: exec and attach are served over WebSocket",
        ));
    };
    let protocol = protocol(headers)?;
    let query = &call.call.query;
    let target = call.call.front.container(&call.key(), query.get("container"))?;
    target.require_started()?;
    let (stdin, stdout, stderr, tty) =
        (query.flag("stdin"), query.flag("stdout"), query.flag("stderr"), query.flag("tty"));
    if !(stdin || stdout || stderr) {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let container = target.container.clone();
    let what = if call.path.subresource == "attach" {
        open::What::Attach(OpenAttach { container, stdin, stdout, stderr, tty })
    } else {
        let command = query.all("command");
        if command.is_empty() {
            return Err(Failure::bad_request("you must specify at least 1 command for the container"));
        }
        open::What::Exec(OpenExec { container, command, stdin, stdout, stderr, tty })
    };
    let stream = call.call.front.open_stream(&target, what).await?;
    balsa_rt::spawn(TaskKind::Connection, async move {
        match upgrade.await {
            Ok(upgraded) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                relay(socket, stream, protocol == V5).await;
            }
            Err(error) => tracing::debug!(%error, "the client went away during the upgrade"),
        }
    });
    Ok(switching(&key, protocol))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The newest of the offered protocols that is served.
fn protocol(headers: &HeaderMap) -> Result<&'static str, Failure> {
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    [V5, V4].into_iter().find(|known| offered.contains(known)).ok_or_else(|| {
        Failure::bad_request(format!("none of the offered sub-protocols {offered:?} is served: {V5}, {V4}"))
    })
}

fn switching(key: &HeaderValue, protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Carries messages both ways until the command ends or the client goes.
async fn relay(socket: Socket, mut stream: PodStream, half_close: bool) {
    let (mut sink, mut source) = socket.split();
    if sink.send(frame(STDOUT, &[])).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            incoming = source.next() => match incoming {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(message) = to_agent(&bytes, half_close)
                        && stream.to_agent.send(message).await.is_err()
                    {
                        // The command has ended; its end is on the way.
                        continue;
                    }
                }
                Some(Ok(Message::Ping(payload))) => {
                    if sink.send(Message::Pong(payload)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            outgoing = stream.from_agent.recv() => {
                let message = outgoing.and_then(|request| request.message);
                match message {
                    Some(stream_request::Message::Data(data)) => {
                        let channel = if data.channel() == Channel::Stderr { STDERR } else { STDOUT };
                        if sink.send(frame(channel, &data.bytes)).await.is_err() {
                            return;
                        }
                    }
                    Some(stream_request::Message::Open(_)) => {}
                    Some(stream_request::Message::End(end)) => {
                        finish(&mut sink, &end).await;
                        return;
                    }
                    None => {
                        let error = "the node's agent broke the stream off".to_owned();
                        finish(&mut sink, &End { exit_code: 0, error, reason: String::new() }).await;
                        return;
                    }
                }
            }
        }
    }
}

async fn finish(sink: &mut futures::stream::SplitSink<Socket, Message>, end: &End) {
    let status = status(end).to_string();
    let _ = sink.send(frame(STATUS, status.as_bytes())).await;
    // Without a code kubectl takes the end for a failure, whatever the status says.
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(normal))).await;
    let _ = sink.close().await;
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u32,
    height: u32,
}

/// What a message of the client's means to the agent; `None` for what means nothing.
fn to_agent(bytes: &Bytes, half_close: bool) -> Option<StreamResponse> {
    let (channel, payload) = bytes.split_first()?;
    let message = match *channel {
        STDIN if payload.is_empty() => return None,
        STDIN => {
            stream_response::Message::Data(Data { channel: Channel::Stdin.into(), bytes: bytes.slice(1..) })
        }
        RESIZE => {
            let size: Size = serde_json::from_slice(payload).ok()?;
            stream_response::Message::Resize(stream_response::Size { width: size.width, height: size.height })
        }
        CLOSE if half_close && payload == [STDIN] => stream_response::Message::Close(Channel::Stdin.into()),
        _ => return None,
    };
    Some(StreamResponse { message: Some(message) })
}

/// The Status in which a stream ends.
fn status(end: &End) -> serde_json::Value {
    if !end.error.is_empty() {
        let reason = Reason::parse(&end.reason).unwrap_or(Reason::InternalError);
        return json!({
            "metadata": {}, "status": "Failure", "message": end.error, "reason": reason.as_str(), "code": reason.code(),
        });
    }
    if end.exit_code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure",
        "message": format!("command terminated with exit code {}", end.exit_code),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": end.exit_code.to_string()}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_client() {
        let data = to_agent(&Bytes::from_static(b"\x00ls\n"), true).unwrap();
        assert!(matches!(data.message, Some(stream_response::Message::Data(d)) if d.bytes == "ls\n"));
        let size = to_agent(&Bytes::from_static(b"\x04{\"Width\":80,\"Height\":24}"), true).unwrap();
        assert!(matches!(size.message, Some(stream_response::Message::Resize(s)) if s.width == 80));
        let close = to_agent(&Bytes::from_static(b"\xff\x00"), true).unwrap();
        assert!(matches!(close.message, Some(stream_response::Message::Close(_))));
        assert!(to_agent(&Bytes::from_static(b"\xff\x00"), false).is_none(), "v4 cannot half-close");
        assert!(to_agent(&Bytes::new(), true).is_none());
        assert!(to_agent(&Bytes::from_static(b"\x04nonsense"), true).is_none());
    }

    #[test]
    fn the_exit_code_is_a_cause() {
        let status = status(&End { exit_code: 7, ..End::default() });
        assert_eq!(status["details"]["causes"][0]["message"], "7");
    }
}
