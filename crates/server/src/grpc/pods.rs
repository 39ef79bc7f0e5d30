//! `balsa.v1.PodService`: logs, commands and ports.

use std::pin::Pin;

use balsa_model::kind::{Kind as _, kind_of};
use balsa_model::{Failure, Key, Reason};
use balsa_proto::agent::{
    self, Channel, StreamRequest, StreamResponse, open, stream_request, stream_response,
};
use balsa_proto::v1::pod_service_server::PodService;
use balsa_proto::{to_status, v1};
use balsa_rt::TaskKind;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{authenticate, authorize, key_of};
use crate::authorize::Attributes;
use crate::front::Front;
use crate::sessions::{LOST, PodStream};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Pods(pub(super) Front);

fn failed(failure: Failure) -> Status {
    to_status(&failure)
}

/// The error in which a stream ended, if it did in one.
fn broken(end: &agent::End) -> Option<Status> {
    let reason = Reason::parse(&end.reason).unwrap_or(Reason::InternalError);
    (!end.error.is_empty()).then(|| failed(Failure::new(reason, end.error.clone())))
}

fn pod_attributes(verb: &str, key: &Key, part: &str) -> Attributes {
    Attributes::resource(verb, &Pod::DESCRIPTOR, &key.namespace, &key.name).part(part)
}

#[tonic::async_trait]
impl PodService for Pods {
    type LogsStream = Messages<v1::LogsResponse>;
    type ExecStream = Messages<v1::ExecResponse>;
    type PortForwardStream = Messages<v1::PortForwardResponse>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let key = key_of(request.get_ref().pod.clone(), kind_of::<Pod>().descriptor())?;
        authorize(&self.0, &request, &pod_attributes("get", &key, "log"))?;
        let request = request.into_inner();
        // What has no node yet has said nothing: as REST answers.
        let target = self.0.container_if_placed(&key, &request.container).map_err(failed)?;
        let Some(target) = target else {
            return Ok(Response::new(futures::stream::empty().boxed()));
        };
        if !request.previous {
            target.require_started().map_err(failed)?;
        }
        let since_time = match request.since_seconds {
            Some(seconds) => {
                let now = self.0.engine.clock().now();
                now.saturating_sub(jiff::SignedDuration::from_secs(seconds))
                    .map(|t| t.to_string())
                    .unwrap_or_default()
            }
            None => request.since_time,
        };
        let logs = agent::OpenLogs {
            container: target.container.clone(),
            follow: request.follow,
            previous: request.previous,
            tail_lines: request.tail_lines,
            since_time,
            timestamps: request.timestamps,
            limit_bytes: request.limit_bytes,
        };
        let stream = self.0.open_stream(&target, open::What::Logs(logs)).await.map_err(failed)?;
        let messages = futures::stream::unfold(Some(stream), |stream| async {
            let mut stream = stream?;
            match said(&mut stream.from_agent).await {
                Err(lost) => Some((Err(lost), None)),
                Ok(stream_request::Message::Data(data)) => {
                    Some((Ok(v1::LogsResponse { data: data.bytes }), Some(stream)))
                }
                Ok(stream_request::Message::End(end)) => broken(&end).map(|status| (Err(status), None)),
                Ok(stream_request::Message::Open(_)) => None,
            }
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let user = authenticate(&self.0, &request)?;
        let mut input = request.into_inner();
        let first = input.next().await.transpose()?.and_then(|message| message.message);
        let Some(v1::exec_request::Message::Start(start)) = first else {
            return Err(failed(Failure::bad_request("the first message must be `start`")));
        };
        let key = key_of(start.pod.clone(), kind_of::<Pod>().descriptor())?;
        let part = if start.attach { "attach" } else { "exec" };
        self.0.authorize(&user, &pod_attributes("create", &key, part)).map_err(failed)?;
        let target = self.0.container(&key, &start.container).map_err(failed)?;
        target.require_started().map_err(failed)?;
        let what = opening(start, target.container.clone())?;
        let stream = self.0.open_stream(&target, what).await.map_err(failed)?;
        let PodStream { from_agent, to_agent } = stream;
        balsa_rt::spawn(TaskKind::Connection, feed(input, to_agent));
        Ok(Response::new(output(from_agent)))
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<v1::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let user = authenticate(&self.0, &request)?;
        let mut input = request.into_inner();
        let first = input.next().await.transpose()?.and_then(|message| message.message);
        let Some(v1::port_forward_request::Message::Start(start)) = first else {
            return Err(failed(Failure::bad_request("the first message must be `start`")));
        };
        let key = key_of(start.pod, kind_of::<Pod>().descriptor())?;
        self.0.authorize(&user, &pod_attributes("create", &key, "portforward")).map_err(failed)?;
        let target = self.0.pod(&key).map_err(failed)?;
        target.require_running().map_err(failed)?;
        let what = agent::OpenPortForward { port: start.port, by_address: false };
        let stream = self.0.open_stream(&target, open::What::PortForward(what)).await.map_err(failed)?;
        let PodStream { from_agent, to_agent } = stream;
        balsa_rt::spawn(TaskKind::Connection, feed_port(input, to_agent));
        let messages = futures::stream::unfold(Some(from_agent), |stream| async {
            let mut stream = stream?;
            match said(&mut stream).await {
                Err(lost) => Some((Err(lost), None)),
                Ok(stream_request::Message::Data(data)) => {
                    Some((Ok(v1::PortForwardResponse { data: data.bytes }), Some(stream)))
                }
                Ok(stream_request::Message::End(end)) => broken(&end).map(|status| (Err(status), None)),
                Ok(stream_request::Message::Open(_)) => None,
            }
        });
        Ok(Response::new(messages.boxed()))
    }
}

/// What the agent says next. An agent that says no more without having said that it was the end is lost.
async fn said(from_agent: &mut mpsc::Receiver<StreamRequest>) -> Result<stream_request::Message, Status> {
    let said = from_agent.recv().await.and_then(|request| request.message);
    said.ok_or_else(|| failed(Failure::new(Reason::ServiceUnavailable, LOST)))
}

/// Carries what the client sends to the pod's port until either ends.
async fn feed_port(mut input: Streaming<v1::PortForwardRequest>, to_agent: mpsc::Sender<StreamResponse>) {
    while let Some(Ok(message)) = input.next().await {
        let message = match message.message {
            Some(v1::port_forward_request::Message::Data(bytes)) => {
                stream_response::Message::Data(agent::Data { channel: Channel::Data.into(), bytes })
            }
            Some(v1::port_forward_request::Message::Close(_)) => {
                stream_response::Message::Close(Channel::Data.into())
            }
            Some(v1::port_forward_request::Message::Start(_)) | None => continue,
        };
        if to_agent.send(StreamResponse { message: Some(message) }).await.is_err() {
            return;
        }
    }
}

fn opening(start: v1::exec_request::Start, container: String) -> Result<open::What, Status> {
    let v1::exec_request::Start { command, stdin, tty, attach, .. } = start;
    if attach {
        return Ok(open::What::Attach(agent::OpenAttach {
            container,
            stdin,
            stdout: true,
            stderr: !tty,
            tty,
        }));
    }
    if command.is_empty() {
        return Err(super::missing("start.command"));
    }
    Ok(open::What::Exec(agent::OpenExec { container, command, stdin, stdout: true, stderr: !tty, tty }))
}

/// Carries the client's input to the agent until either ends.
async fn feed(mut input: Streaming<v1::ExecRequest>, to_agent: mpsc::Sender<StreamResponse>) {
    while let Some(Ok(message)) = input.next().await {
        let message = match message.message {
            Some(v1::exec_request::Message::Stdin(bytes)) => {
                stream_response::Message::Data(agent::Data { channel: Channel::Stdin.into(), bytes })
            }
            Some(v1::exec_request::Message::Resize(size)) => {
                stream_response::Message::Resize(stream_response::Size {
                    width: size.width,
                    height: size.height,
                })
            }
            Some(v1::exec_request::Message::CloseStdin(_)) => {
                stream_response::Message::Close(Channel::Stdin.into())
            }
            Some(v1::exec_request::Message::Start(_)) | None => continue,
        };
        if to_agent.send(StreamResponse { message: Some(message) }).await.is_err() {
            return;
        }
    }
    let close = stream_response::Message::Close(Channel::Stdin.into());
    let _ = to_agent.send(StreamResponse { message: Some(close) }).await;
}

fn output(from_agent: mpsc::Receiver<StreamRequest>) -> Messages<v1::ExecResponse> {
    use v1::exec_response::Message;
    futures::stream::unfold(Some(from_agent), |stream| async {
        let mut stream = stream?;
        let (message, rest) = match said(&mut stream).await {
            Err(lost) => return Some((Err(lost), None)),
            Ok(stream_request::Message::Data(data)) if data.channel() == Channel::Stderr => {
                (Message::Stderr(data.bytes), Some(stream))
            }
            Ok(stream_request::Message::Data(data)) => (Message::Stdout(data.bytes), Some(stream)),
            Ok(stream_request::Message::End(end)) => match broken(&end) {
                Some(status) => return Some((Err(status), None)),
                None => (Message::ExitCode(end.exit_code), None),
            },
            Ok(stream_request::Message::Open(_)) => return None,
        };
        Some((Ok(v1::ExecResponse { message: Some(message) }), rest))
    })
    .boxed()
}
