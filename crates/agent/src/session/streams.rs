//! Streams into pods: logs, exec, attach, port-forward. Each is a call of its own that the agent makes.
//!
//! A stream ends with what it is about, or when the server no longer takes what is sent: then whoever asked
//! has gone, even if nothing is being said.

use std::sync::Arc;
use std::time::Duration;

use balsa_model::kinds::pod::waiting_to_start;
use balsa_proto::agent::agent_service_client::AgentServiceClient;
use balsa_proto::agent::{
    Channel as Lane, Data, End, Open, OpenLogs, StreamRequest, StreamResponse, open, stream_request,
};
use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::context::NodeContext;
use crate::logs::LogQuery;
use crate::pod::manager::Pods;
use crate::session::{console, pipes};

/// How long a stream that has ended waits for the server to take its last words.
const LINGER: Duration = Duration::from_secs(10);

/// Why a stream cannot be had, with Kubernetes' reason.
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { reason: "BadRequest", message: message.into() }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { reason: "InternalError", message: message.into() }
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
pub(super) struct Out(mpsc::Sender<StreamRequest>);

impl Out {
    /// False when nobody listens any more.
    pub(super) async fn data(&self, lane: Lane, bytes: Bytes) -> bool {
        let data = Data { channel: lane.into(), bytes };
        self.send(stream_request::Message::Data(data)).await
    }

    /// Resolves when nobody listens any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
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
    if matches!(open.what, Some(open::What::Http(_))) {
        return pipes::http(node, input, out).await;
    }
    let reference = open.pod.unwrap_or_default();
    let found = pods.find(&reference.namespace, &reference.name, &reference.uid);
    let missing = || Refusal::not_found(format!("pods \"{}\" not found", reference.name));
    let (pod, running) = found.ok_or_else(missing)?;
    match open.what {
        Some(open::What::Logs(wanted)) => logs(node, &pod, &wanted, input, out).await,
        Some(open::What::Exec(wanted)) => console::exec(node, &pod, &running, wanted, input, out).await,
        Some(open::What::Attach(wanted)) => console::attach(node, &pod, &running, &wanted, input, out).await,
        Some(open::What::PortForward(wanted)) => {
            pipes::port_forward(&pod, &running, &wanted, input, out).await
        }
        Some(open::What::Http(_)) | None => {
            Err(Refusal::bad_request("this node does not know that kind of stream"))
        }
    }
}

/// The container that is named, or the only one.
pub(super) fn container_name(pod: &Pod, named: &str) -> Result<String, Refusal> {
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
    let mut pieces = match node.logs.read(&node.log_name(pod, &container), query) {
        Ok(pieces) => pieces,
        // It was made and could not be started: that is an empty log.
        Err(_) if !wanted.previous && has_ended(pod, &container) => return Ok(0),
        Err(none) => {
            let why = why_no_log(pod, &container).filter(|_| !wanted.previous);
            return Err(Refusal::bad_request(why.unwrap_or(none.0)));
        }
    };
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
        let piece = piece.map_err(|error| Refusal::internal(format!("the log cannot be read: {error}")))?;
        if !out.data(Lane::Data, piece).await {
            return Ok(0);
        }
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// Whether it has ended, though it may be about to be started again.
fn has_ended(pod: &Pod, container: &str) -> bool {
    let Some(status) = status_of(pod, container) else { return false };
    [&status.state, &status.last_state].into_iter().flatten().any(|state| state.terminated.is_some())
}

/// A container that has not started yet says so instead of showing nothing.
fn why_no_log(pod: &Pod, container: &str) -> Option<String> {
    let reason = status_of(pod, container)?.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(waiting_to_start(name, container, reason))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(status: &serde_json::Value) -> Pod {
        let status = json!({"containerStatuses": [status]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap_or_default()
    }

    #[test]
    fn who_never_ran_says_why_or_nothing() {
        let waiting = |reason: &str| with(&json!({"name": "c", "state": {"waiting": {"reason": reason}}}));
        let why = |reason: &str| why_no_log(&waiting(reason), "c").unwrap_or_default();
        let begin = "container \"c\" in pod \"p\" is waiting to start:";
        assert_eq!(why("ErrImagePull"), format!("{begin} image can't be pulled"));
        assert_eq!(why("ImagePullBackOff"), format!("{begin} trying and failing to pull image"));
        assert_eq!(why("ContainerCreating"), format!("{begin} ContainerCreating"));
        assert!(!has_ended(&waiting("ContainerCreating"), "c"));
        let failed = json!({"terminated": {"exitCode": 128, "reason": "StartError"}});
        assert!(has_ended(&with(&json!({"name": "c", "state": failed})), "c"));
        let again = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert!(has_ended(&with(&json!({"name": "c", "state": again, "lastState": failed})), "c"));
    }
}
