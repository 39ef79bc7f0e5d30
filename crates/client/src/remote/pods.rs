//! `balsa.v1.PodService`: logs, commands and ports.

use balsa_model::{Failure, Key};
use balsa_proto::v1;
use balsa_proto::v1::pod_service_client::PodServiceClient;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::RemoteBackend;
use super::channels::{Connection, MAX_MESSAGE, Repeat};

fn client(connection: Connection) -> PodServiceClient<Connection> {
    PodServiceClient::new(connection).max_decoding_message_size(MAX_MESSAGE)
}

/// A command's output and, last, its exit code.
pub type ExecOutput = BoxStream<'static, Result<v1::exec_response::Message, Failure>>;

/// What a port of a pod says.
pub(crate) type PortOutput = BoxStream<'static, Result<Bytes, Failure>>;

impl RemoteBackend {
    /// A container's log, in pieces as they come. `request.pod` is set to `pod`.
    ///
    /// # Errors
    /// What the server says; the stream may also end in one.
    pub async fn logs(
        &self,
        pod: &Key,
        mut request: v1::LogsRequest,
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + Send + Unpin + 'static, Failure> {
        request.pod =
            Some(v1::ObjectKey { namespace: pod.namespace.to_string(), name: pod.name.to_string() });
        let make = |connection| {
            let request = request.clone();
            async move { client(connection).logs(request).await }
        };
        let messages = self.channels.call(Repeat::Always, make).await?;
        let (server, _) = self.channels.current();
        let channels = self.channels.clone();
        Ok(messages.map(move |message| match message {
            Ok(message) => Ok(message.data),
            Err(status) => Err(channels.failure(&status, server)),
        }))
    }

    /// Runs a command in a container. What is sent on the channel is its input.
    ///
    /// # Errors
    /// What the server says; the stream may also end in one.
    pub async fn exec(
        &self,
        start: v1::exec_request::Start,
    ) -> Result<(mpsc::Sender<v1::ExecRequest>, ExecOutput), Failure> {
        // Bounded: who types faster than the command reads has to wait.
        let (sender, receiver) = mpsc::channel(64);
        let first = v1::ExecRequest { message: Some(v1::exec_request::Message::Start(start)) };
        let requests = futures::stream::iter([first]).chain(ReceiverStream::new(receiver));
        let (server, connection) = self.channels.current();
        let answer = client(connection).exec(requests).await;
        let messages = answer.map_err(|status| self.channels.failure(&status, server))?.into_inner();
        let channels = self.channels.clone();
        let output = messages.filter_map(move |message| {
            let message = match message {
                Ok(message) => message.message.map(Ok),
                Err(status) => Some(Err(channels.failure(&status, server))),
            };
            std::future::ready(message)
        });
        Ok((sender, output.boxed()))
    }

    /// One connection to a port of a pod. What is sent on the channel goes there.
    ///
    /// # Errors
    /// What the server says; the stream may also end in one.
    pub async fn port_forward(
        &self,
        pod: &Key,
        port: u16,
    ) -> Result<(mpsc::Sender<v1::PortForwardRequest>, PortOutput), Failure> {
        use v1::port_forward_request::{Message, Start};
        // Bounded: who sends faster than the pod reads has to wait.
        let (sender, receiver) = mpsc::channel(16);
        let key = v1::ObjectKey { namespace: pod.namespace.to_string(), name: pod.name.to_string() };
        let start = Message::Start(Start { pod: Some(key), port: port.into() });
        let first = v1::PortForwardRequest { message: Some(start) };
        let requests = futures::stream::iter([first]).chain(ReceiverStream::new(receiver));
        let (server, connection) = self.channels.current();
        let answer = client(connection).port_forward(requests).await;
        let messages = answer.map_err(|status| self.channels.failure(&status, server))?.into_inner();
        let channels = self.channels.clone();
        let output = messages.map(move |message| match message {
            Ok(message) => Ok(message.data),
            Err(status) => Err(channels.failure(&status, server)),
        });
        Ok((sender, output.boxed()))
    }
}
