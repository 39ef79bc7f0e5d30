//! Commands in containers, and containers' own streams.

use balsa_proto::agent::{Channel as Lane, OpenAttach, OpenExec, StreamResponse, stream_response};
use balsa_runtime::{AttachOptions, ContainerId, Error, ExecConfig, ExecSession, OutputStream, StreamKind};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncWriteExt as _;
use tonic::Streaming;

use super::streams::{Out, Refusal, container_name};
use crate::context::NodeContext;
use crate::pod::actor::Running;

/// The container's name, and its id if it was there a moment ago.
fn running_id(pod: &Pod, running: &Running, named: &str) -> Result<(String, ContainerId), Refusal> {
    let name = container_name(pod, named)?;
    match running.ids.get(&name).cloned() {
        Some(id) => Ok((name, id)),
        None => Err(not_found(&name)),
    }
}

/// Only who runs can be talked to. To clients it is the connection that could not be had.
fn not_found(name: &str) -> Refusal {
    Refusal::internal(format!("unable to upgrade connection: container not found (\"{name}\")"))
}

/// The engine has words of its own for a container that has ended.
fn begun(name: &str, session: Result<ExecSession, Error>) -> Result<ExecSession, Refusal> {
    session.map_err(|error| match error {
        Error::Conflict { .. } | Error::NotFound { .. } => not_found(name),
        other => other.into(),
    })
}

/// Runs a command; its exit code.
pub(super) async fn exec(
    node: &NodeContext,
    pod: &Pod,
    running: &Running,
    wanted: OpenExec,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let (name, id) = running_id(pod, running, &wanted.container)?;
    let config = ExecConfig {
        command: wanted.command,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
        ..ExecConfig::default()
    };
    let session = crate::metrics::operation("exec", node.runtime.exec(&id, &config)).await;
    let session = begun(&name, session)?;
    let control = session.control.clone();
    if !converse(session, input, out).await? {
        return Ok(0);
    }
    tokio::select! {
        code = control.exit_code() => Ok(code?),
        // It closed its output and goes on; nobody waits for its end.
        () = out.closed() => Ok(0),
    }
}

/// Joins a container's own streams. How its process ends is the pod's to tell.
pub(super) async fn attach(
    node: &NodeContext,
    pod: &Pod,
    running: &Running,
    wanted: &OpenAttach,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<i32, Refusal> {
    let (name, id) = running_id(pod, running, &wanted.container)?;
    let options =
        AttachOptions { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr && !wanted.tty };
    let session = crate::metrics::operation("attach", node.runtime.attach(&id, &options)).await;
    let session = begun(&name, session)?;
    converse(session, input, out).await?;
    Ok(0)
}

/// Both ways until the process closes its streams; false when whoever asked has gone. Each way is a loop of
/// its own: a process that does not read must not keep its own output from being read.
async fn converse(
    session: ExecSession,
    input: &mut Streaming<StreamResponse>,
    out: &Out,
) -> Result<bool, Refusal> {
    let ExecSession { stdin, mut output, control } = session;
    let typed = async {
        let mut stdin = stdin;
        while let Ok(Some(response)) = input.message().await {
            match response.message {
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
            }
        }
        drop(stdin);
        // No more input; the output goes on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        written = write(&mut output, out) => written,
        () = typed => Ok(false),
        () = out.closed() => Ok(false),
    }
}

async fn write(output: &mut OutputStream, out: &Out) -> Result<bool, Refusal> {
    while let Some(piece) = output.next().await {
        let (kind, bytes) = piece?;
        let lane = if kind == StreamKind::Stderr { Lane::Stderr } else { Lane::Stdout };
        if !out.data(lane, bytes).await {
            return Ok(false);
        }
    }
    Ok(true)
}
