//! `exec` and `attach` over SPDY/3.1: a stream for each of standard input, output and error, one for the
//! terminal's size, and one on which the end is told.

use std::time::Duration;

use balsa_model::Reason;
use balsa_proto::agent::{Channel, Data, End, StreamResponse, stream_request, stream_response};
use balsa_rt::TaskKind;
use balsa_spdy::{Connection, Limits, Role, Stream, StreamReader, StreamWriter};
use serde_json::json;
use tokio::sync::mpsc;

use super::Wanted;
use super::channels::{Size, broken_off, last_words};
use super::upgrade::Io;
use crate::sessions::PodStream;

const V4: &str = "v4.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";

/// What is spoken inside, best first. Sizes came with v3, the Status with v4.
pub(super) const VERSIONS: &[&str] = &[V4, V3, "v2.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// More than there are; more are refused.
const LIMITS: Limits = Limits { streams: 8 };
/// The longest size that is not yet whole.
const MAX_SIZE: usize = 1024;

#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Carries everything both ways until the command ends or the client goes.
pub(super) async fn serve(io: Io, stream: PodStream, version: &'static str, wanted: Wanted) {
    let (mut connection, work) = balsa_spdy::connection(io, Role::Server, LIMITS);
    balsa_rt::spawn(TaskKind::Connection, async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    let sizes = wanted.tty && matches!(version, V4 | V3);
    let streams = tokio::time::timeout(OPENING, streams(&mut connection, wanted, sizes)).await;
    if let Ok(Some(streams)) = streams {
        relay(&mut connection, stream, streams, version == V4).await;
    }
    connection.close().await;
}

/// The streams that the client was to open; `None` when it went instead.
async fn streams(connection: &mut Connection, wanted: Wanted, sizes: bool) -> Option<Streams> {
    let mut streams = Streams::default();
    let flags = [wanted.stdin, wanted.stdout, wanted.stderr, sizes];
    let mut missing = 1 + flags.iter().filter(|flag| **flag).count();
    while missing > 0 {
        let incoming = connection.next().await?;
        let place = match incoming.headers().get("streamType") {
            "error" => &mut streams.error,
            "stdin" if wanted.stdin => &mut streams.stdin,
            "stdout" if wanted.stdout => &mut streams.stdout,
            "stderr" if wanted.stderr => &mut streams.stderr,
            "resize" if sizes => &mut streams.resize,
            // Not agreed upon: dropped, it is refused.
            _ => continue,
        };
        if place.is_none() {
            *place = Some(incoming.accept().await.ok()?);
            missing -= 1;
        }
    }
    Some(streams)
}

async fn relay(connection: &mut Connection, stream: PodStream, streams: Streams, as_status: bool) {
    let PodStream { mut from_agent, to_agent } = stream;
    let writer = |stream: Option<Stream>| stream.map(|stream| stream.split().1);
    let Some(mut error) = writer(streams.error) else { return };
    let mut outputs = [writer(streams.stdout), writer(streams.stderr)];
    let (typed, stdin) = streams.stdin.map(Stream::split).unzip();
    let (sizes, resizes) = streams.resize.map(Stream::split).unzip();
    let upward = async {
        tokio::join!(feed(typed, &to_agent), resize(sizes, &to_agent));
        // The end of the input is not the end.
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = downstream(&mut from_agent, &mut outputs) => end,
        () = upward => return,
        () = gone(connection) => return,
    };
    for output in outputs.into_iter().flatten() {
        let _ = output.finish().await;
    }
    let _ = error.write(last_words(&end, as_status)).await;
    for writer in [Some(error), stdin, resizes].into_iter().flatten() {
        let _ = writer.finish().await;
    }
}

/// Resolves when the client has gone. Streams that it opens beyond those it needs are refused.
async fn gone(connection: &mut Connection) {
    while connection.next().await.is_some() {}
}

async fn downstream(
    from_agent: &mut mpsc::Receiver<balsa_proto::agent::StreamRequest>,
    outputs: &mut [Option<StreamWriter>; 2],
) -> End {
    loop {
        match from_agent.recv().await.and_then(|request| request.message) {
            Some(stream_request::Message::Data(data)) => {
                let output = &mut outputs[usize::from(data.channel() == Channel::Stderr)];
                // A client may close one output and read the other.
                if let Some(writer) = output
                    && writer.write(data.bytes).await.is_err()
                {
                    *output = None;
                }
            }
            Some(stream_request::Message::Open(_)) => {}
            Some(stream_request::Message::End(end)) => return end,
            None => return broken_off(),
        }
    }
}

/// Standard input, to its end.
async fn feed(reader: Option<StreamReader>, to_agent: &mpsc::Sender<StreamResponse>) {
    let Some(mut reader) = reader else { return };
    loop {
        let message = match reader.read().await {
            Ok(Some(bytes)) => stream_response::Message::Data(Data { channel: Channel::Stdin.into(), bytes }),
            Ok(None) | Err(_) => stream_response::Message::Close(Channel::Stdin.into()),
        };
        let last = matches!(message, stream_response::Message::Close(_));
        if to_agent.send(StreamResponse { message: Some(message) }).await.is_err() {
            // The command has ended. Its input is still taken, so that the client's other streams move.
            return drain(&mut reader).await;
        }
        if last {
            return;
        }
    }
}

async fn drain(reader: &mut StreamReader) {
    while let Ok(Some(_)) = reader.read().await {}
}

/// Sizes of the terminal: JSON, one after the other.
async fn resize(reader: Option<StreamReader>, to_agent: &mpsc::Sender<StreamResponse>) {
    let Some(mut reader) = reader else { return };
    let mut text: Vec<u8> = Vec::new();
    while let Ok(Some(bytes)) = reader.read().await {
        text.extend_from_slice(&bytes);
        let (sizes, used) = sizes(&text);
        text.drain(..used);
        if text.len() > MAX_SIZE {
            return;
        }
        // Only the last one counts.
        if let Some(size) = sizes.last()
            && to_agent.send(StreamResponse { message: Some(size.message()) }).await.is_err()
        {
            return drain(&mut reader).await;
        }
    }
}

/// The whole sizes at the front, and how many bytes they take.
fn sizes(text: &[u8]) -> (Vec<Size>, usize) {
    let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let sizes: Vec<Size> = stream.by_ref().map_while(Result::ok).collect();
    (sizes, stream.byte_offset())
}

/// The Status in which a stream ends.
pub(super) fn status(end: &End) -> serde_json::Value {
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
    fn the_exit_code_is_a_cause() {
        let status = status(&End { exit_code: 7, ..End::default() });
        assert_eq!(status["details"]["causes"][0]["message"], "7");
    }

    #[test]
    fn sizes_come_in_pieces() {
        let (found, used) = sizes(b"{\"Width\":80,\"Height\":24}\n{\"Width\":1");
        assert_eq!((found.len(), used), (1, 25));
        let (found, used) = sizes(b"{\"Wid");
        assert_eq!((found.len(), used), (0, 0));
    }
}
