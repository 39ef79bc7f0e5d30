//! Port-forward over SPDY/3.1: for each connection the client opens a stream for errors and one for data,
//! which name the port and, as a pair, each other.

use std::collections::HashMap;
use std::time::Duration;

use balsa_proto::agent::{
    Channel, Data, End, OpenPortForward, StreamRequest, StreamResponse, open, stream_request, stream_response,
};
use balsa_rt::TaskKind;
use balsa_spdy::{Connection, Incoming, Limits, Role, Stream, StreamReader, StreamWriter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channels::broken_off;
use crate::front::Front;
use crate::pods::Target;
use crate::sessions::PodStream;

/// What is spoken inside.
pub(super) const VERSIONS: &[&str] = &["portforward.k8s.io"];

/// Two streams a connection: five hundred connections at a time.
const LIMITS: Limits = Limits { streams: 1000 };
/// How long one stream of a pair may wait for the other.
const PAIRING: Duration = Duration::from_secs(30);

/// One connection to be forwarded, while it is not whole.
struct Half {
    error: Option<Stream>,
    data: Option<Stream>,
    port: u16,
    since: Instant,
}

/// Forwards connections until the client goes.
pub(super) async fn serve<IO>(io: IO, front: Front, target: Target)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut connection, work) = balsa_spdy::connection(io, Role::Server, LIMITS);
    let work = balsa_rt::spawn(TaskKind::Connection, async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    pair_up(&mut connection, &front, &target).await;
    let _ = work.await;
}

async fn pair_up(connection: &mut Connection, front: &Front, target: &Target) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut sweep = tokio::time::interval(PAIRING);
    loop {
        let incoming = tokio::select! {
            incoming = connection.next() => incoming,
            _ = sweep.tick() => {
                // Dropped, their streams are reset.
                halves.retain(|_, half| half.since.elapsed() < PAIRING);
                continue;
            }
        };
        let Some(incoming) = incoming else { return };
        let request = incoming.headers().get("requestID").to_owned();
        if !take(incoming, &request, &mut halves).await {
            continue;
        }
        let whole = halves.remove(&request).and_then(|half| Some((half.port, half.error?, half.data?)));
        if let Some((port, error, data)) = whole {
            let (front, target) = (front.clone(), target.clone());
            balsa_rt::spawn(TaskKind::Connection, async move {
                forward(&front, &target, port, error, data).await;
            });
        }
    }
}

/// Puts a stream to its pair; true when that is whole. What makes no sense is dropped, and so refused.
async fn take(incoming: Incoming, request: &str, halves: &mut HashMap<String, Half>) -> bool {
    let headers = incoming.headers();
    let Some(port) = headers.get("port").parse::<u16>().ok().filter(|port| *port > 0) else { return false };
    let is_error = match headers.get("streamType") {
        "error" => true,
        "data" => false,
        _ => return false,
    };
    let fresh = || Half { error: None, data: None, port, since: Instant::now() };
    let half = halves.entry(request.to_owned()).or_insert_with(fresh);
    let place = if is_error { &mut half.error } else { &mut half.data };
    if half.port != port || place.is_some() {
        return false;
    }
    *place = incoming.accept().await.ok();
    half.error.is_some() && half.data.is_some()
}

/// One connection.
async fn forward(front: &Front, target: &Target, port: u16, error: Stream, data: Stream) {
    let (mut reader, mut writer) = data.split();
    let (_, mut error) = error.split();
    let what = open::What::PortForward(OpenPortForward { port: port.into(), ..OpenPortForward::default() });
    let end = match front.open_stream(target, what).await {
        Ok(stream) => {
            let PodStream { mut from_agent, to_agent } = stream;
            tokio::select! {
                end = downstream(&mut from_agent, &mut writer) => end,
                // The client wants no more of it.
                () = upstream(&mut reader, to_agent) => return,
            }
        }
        Err(failure) => Some(End { error: failure.message, ..End::default() }),
    };
    // `None`: the client has gone.
    let Some(end) = end else { return };
    if !end.error.is_empty() {
        let _ = error.write(end.error.into()).await;
    }
    let _ = error.finish().await;
    let _ = writer.finish().await;
}

async fn downstream(
    from_agent: &mut mpsc::Receiver<StreamRequest>,
    writer: &mut StreamWriter,
) -> Option<End> {
    loop {
        match from_agent.recv().await.and_then(|request| request.message) {
            Some(stream_request::Message::Data(data)) => writer.write(data.bytes).await.ok()?,
            Some(stream_request::Message::Open(_)) => {}
            Some(stream_request::Message::End(end)) => return Some(end),
            None => return Some(broken_off()),
        }
    }
}

/// Resolves only when the client has reset the stream, or has gone.
async fn upstream(reader: &mut StreamReader, to_agent: mpsc::Sender<StreamResponse>) {
    loop {
        let (message, last) = match reader.read().await {
            Ok(Some(bytes)) => {
                (stream_response::Message::Data(Data { channel: Channel::Data.into(), bytes }), false)
            }
            Ok(None) => (stream_response::Message::Close(Channel::Data.into()), true),
            Err(_) => return,
        };
        // When the pod has closed, its end is on the way.
        let taken = to_agent.send(StreamResponse { message: Some(message) }).await.is_ok();
        if last || !taken {
            std::future::pending::<()>().await;
        }
    }
}
