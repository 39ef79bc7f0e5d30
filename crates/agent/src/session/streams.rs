//! Streams into pods: logs, exec, attach, port-forward. Each is a call of its own that the agent makes.

use std::sync::Arc;
use std::time::Duration;

use balsa_net::Netns;
use balsa_proto::agent::agent_service_client::AgentServiceClient;
use balsa_proto::agent::{
    Channel as Lane, Data, End, Open, OpenAttach, OpenExec, OpenLogs, OpenPortForward, StreamRequest,
    StreamResponse, open, stream_request, stream_response,
};
use balsa_runtime::{AttachOptions, ContainerId, ExecConfig, ExecSession, StreamKind};
use bytes::Bytes;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::context::NodeContext;
use crate::logs::LogQuery;
use crate::pod::actor::Running;
use crate::pod::manager::Pods;
use crate::pod::sandbox::is_host_network;

/// How long a stream that has ended waits for the server to take its last words.
const LINGER: Duration = Duration::from_secs(10);

/// Why a stream cannot be had, with Kubernetes' reason.
struct Refusal {
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { reason: "BadRequest", message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self { reason: "NotFound", message: message.into() }
    }
}

impl From<balsa_runtime::Error> for Refusal {
    fn from(error: balsa_runtime::Error) -> Self {
        let reason = if error.is_not_found() { "NotFound" } else { "InternalError" };
        let reason = if error.is_conflict() { "BadRequest" } else { reason };
        Self { reason, message: error.to_string() }
    }
}

/// The agent's half of a stream.
struct Out(mpsc::Sender<StreamRequest>);

impl Out {
    /// False when nobody listens any more.
    async fn data(&self, lane: Lane, bytes: Bytes) -> bool {
        let data = Data { channel: lane.into(), bytes };
        self.send(stream_request::Message::Data(data)).await
    }

    async fn send(&self, message: stream_request::Message) -> bool {
        self.0.send(StreamRequest { message: Some(message) }).await.is_ok()
    }
}

/// Serves one stream to its end.
pub(super) async fn serve(channel: Channel, node: Arc<NodeContext>, pods: Arc<Pods>, open: Open) {
    // A few pieces of at most 64 KiB wait for a slow reader.
    let (sender, receiver) = mpsc::channel(8);
    let out = Out(sender);
    let _ = out.send(stream_request::Message::Open(open.id.clone())).await;
    let answer = AgentServiceClient::new(channel).stream(ReceiverStream::new(receiver)).await;
    let mut input = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return tracing::info!(error = status.message(), "stream not taken"),
    };
    let end = match serve_open(&node, &pods, open, &mut input, &out).await {
        Ok(exit_code) => End { exit_code, ..End::default() },
        Err(refusal) => End { exit_code: 0, error: refusal.message, reason: refusal.reason.to_owned() },
    };
    let _ = out.send(stream_request::Message::End(end)).await;
    // Dropping the answer resets the call, and with it what is still on its way: the server closes first.
    drop(out);
    let closed = async { while let Ok(Some(_)) = input.message().await {} };
    let _ = tokio::time::timeout(LINGER, closed).await;
}

async fn serve_open(
    node: &Arc<NodeContext>,
    pods: &Pods,
    open: Open,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let reference = open.pod.unwrap_or_default();
    let found = pods.find(&reference.namespace, &reference.name, &reference.uid);
    let missing = || Refusal::not_found(format!("pods \"{}\" not found", reference.name));
    let (pod, running) = found.ok_or_else(missing)?;
    match open.what {
        Some(open::What::Logs(wanted)) => logs(node, &pod, &wanted, input, out).await,
        Some(open::What::Exec(wanted)) => exec(node, &pod, &running, wanted, input, out).await,
        Some(open::What::Attach(wanted)) => attach(node, &pod, &running, &wanted, input, out).await,
        Some(open::What::PortForward(wanted)) => port_forward(&pod, &running, &wanted, input, out).await,
        None => Err(Refusal::bad_request("this node does not know that kind of stream")),
    }
}

/// The container that is named, or the only one.
fn container_name(pod: &Pod, named: &str) -> Result<String, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let members: Vec<&str> = crate::pod::observed::members(pod).map(|(_, c)| c.name.as_str()).collect();
    if named.is_empty() {
        let apps = crate::pod::observed::app_containers(pod);
        return match apps {
            [only] => Ok(only.name.clone()),
            _ => Err(Refusal::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                members.join(" ")
            ))),
        };
    }
    if members.contains(&named) || crate::pod::ephemeral::find(pod, named).is_some() {
        return Ok(named.to_owned());
    }
    Err(Refusal::bad_request(format!("container {named} is not valid for pod {name}")))
}

async fn logs(
    node: &Arc<NodeContext>,
    pod: &Pod,
    wanted: &OpenLogs,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let container = container_name(pod, &wanted.container)?;
    let since = match wanted.since_time.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Refusal::bad_request(format!("invalid sinceTime {text:?}")))?),
    };
    let number = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok());
    let query = LogQuery {
        follow: wanted.follow,
        previous: wanted.previous,
        tail: number(wanted.tail_lines),
        since,
        timestamps: wanted.timestamps,
        limit: number(wanted.limit_bytes),
    };
    let mut pieces = node.logs.read(&node.log_name(pod, &container), query).map_err(|none| {
        Refusal::bad_request(why_no_log(pod, &container).filter(|_| !wanted.previous).unwrap_or(none.0))
    })?;
    loop {
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            // The reader has gone; a follower would never notice otherwise.
            message = input.message() => match message {
                Ok(Some(_)) => continue,
                _ => return Ok(0),
            },
        };
        let Some(piece) = piece else { return Ok(0) };
        if !out.data(Lane::Data, piece).await {
            return Ok(0);
        }
    }
}

/// A container that has not started yet says so instead of showing nothing.
fn why_no_log(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container)?;
    let reason = found.state.as_ref()?.waiting.as_ref()?.reason.clone()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"))
}

fn running_id(pod: &Pod, running: &Running, named: &str) -> Result<ContainerId, Refusal> {
    let name = container_name(pod, named)?;
    let missing = || Refusal::bad_request(format!("container not found (\"{name}\")"));
    running.ids.get(&name).cloned().ok_or_else(missing)
}

async fn exec(
    node: &NodeContext,
    pod: &Pod,
    running: &Running,
    wanted: OpenExec,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let id = running_id(pod, running, &wanted.container)?;
    let config = ExecConfig {
        command: wanted.command,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
        ..ExecConfig::default()
    };
    let session = crate::metrics::operation("exec", node.runtime.exec(&id, &config)).await?;
    converse(session, input, out).await
}

async fn attach(
    node: &NodeContext,
    pod: &Pod,
    running: &Running,
    wanted: &OpenAttach,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let id = running_id(pod, running, &wanted.container)?;
    let options =
        AttachOptions { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr && !wanted.tty };
    let session = crate::metrics::operation("attach", node.runtime.attach(&id, &options)).await?;
    converse(session, input, out).await
}

/// Both ways until the process closes its streams, or whoever asked has gone.
async fn converse(
    session: ExecSession,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let ExecSession { mut stdin, mut output, control } = session;
    let mut asker_left = false;
    loop {
        tokio::select! {
            piece = output.next() => match piece {
                Some(piece) => {
                    let (kind, bytes) = piece?;
                    let lane = if kind == StreamKind::Stderr { Lane::Stderr } else { Lane::Stdout };
                    if !out.data(lane, bytes).await {
                        return Ok(0);
                    }
                }
                None => break,
            },
            message = input.message(), if !asker_left => match message {
                Ok(Some(response)) => match response.message {
                    Some(stream_response::Message::Data(data)) => {
                        let written = match &mut stdin {
                            Some(stdin) => stdin.write_all(&data.bytes).await,
                            None => Ok(()),
                        };
                        // A process that reads no more is no error; it may still write.
                        if written.is_err() {
                            stdin = None;
                        }
                    }
                    Some(stream_response::Message::Close(_)) => {
                        if let Some(mut stdin) = stdin.take() {
                            let _ = stdin.shutdown().await;
                        }
                    }
                    Some(stream_response::Message::Resize(size)) => {
                        let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
                        let _ = control.resize(side(size.width), side(size.height)).await;
                    }
                    None => {}
                },
                Ok(None) => {
                    asker_left = true;
                    stdin = None;
                }
                Err(_) => return Ok(0),
            },
        }
    }
    Ok(control.exit_code().await?)
}

async fn port_forward(
    pod: &Pod,
    running: &Running,
    wanted: &OpenPortForward,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let port = u16::try_from(wanted.port).map_err(|_| Refusal::bad_request("no such port"))?;
    let stream = connect(pod, running, port).await?;
    let (mut reader, mut writer) = stream.into_split();
    let upward = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if !out.data(Lane::Data, Bytes::copy_from_slice(&buffer[..read])).await {
                        return;
                    }
                }
            }
        }
    };
    let downward = async {
        while let Ok(Some(response)) = input.message().await {
            match response.message {
                Some(stream_response::Message::Data(data))
                    if writer.write_all(&data.bytes).await.is_err() =>
                {
                    return;
                }
                Some(stream_response::Message::Close(_)) => {
                    let _ = writer.shutdown().await;
                }
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    // The pod's end decides: what was sent up after the asker's last word still counts.
    tokio::pin!(upward, downward);
    tokio::select! {
        () = &mut upward => {}
        () = &mut downward => upward.await,
    }
    Ok(0)
}

/// To the port on the pod's own loopback, as Kubernetes does, so that programs that listen on it alone
/// can be reached.
async fn connect(pod: &Pod, running: &Running, port: u16) -> Result<TcpStream, Refusal> {
    let pid = running.sandbox_pid.ok_or_else(|| Refusal::bad_request("the pod does not run"))?;
    let netns = if is_host_network(pod) { Netns::Current } else { Netns::of_pid(pid) };
    let connected = netns.run(move || Ok(std::net::TcpStream::connect(("127.0.0.1", port)))).await;
    let refused = |error: &dyn std::fmt::Display| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Refusal::bad_request(format!("error forwarding port {port} to pod {name}: {error}"))
    };
    let stream = connected.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
    stream.set_nonblocking(true).map_err(|error| refused(&error))?;
    TcpStream::from_std(stream).map_err(|error| refused(&error))
}
