//! Clients that share streams of calls (`ObjectService.Pipeline`), one stream a connection. Each still waits for its answer
//! before it calls again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::pipeline_request::Call;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::load::{Load, connect, together};

/// Lets every client make one call after another until the time is over; `request` is the `i`th of a client.
pub(super) async fn measure(
    load: &Load,
    endpoints: &[Endpoint],
    request: impl Fn(usize, usize) -> v1::PipelineRequest + Clone + Send + Sync + 'static,
) -> anyhow::Result<Value> {
    let channels = connect(endpoints, load).await?;
    let count = channels.len();
    together(load, |end| {
        let stream = |(n, channel)| {
            let clients = (n..load.clients).step_by(count).collect();
            share(channel, clients, request.clone(), end)
        };
        channels.into_iter().enumerate().map(stream).collect()
    })
    .await
}

/// A stream of calls, and of their answers.
pub(super) struct Calls {
    asking: mpsc::UnboundedSender<v1::PipelineRequest>,
    answers: Streaming<v1::PipelineResponse>,
}

impl Calls {
    pub(super) async fn open(mut service: ObjectServiceClient<Channel>) -> anyhow::Result<Self> {
        let (asking, asked) = mpsc::unbounded_channel();
        let answers = service.pipeline(UnboundedReceiverStream::new(asked)).await?.into_inner();
        Ok(Self { asking, answers })
    }

    /// One write, waited for: for whoever has the stream alone.
    pub(super) async fn write(&mut self, call: Call) -> anyhow::Result<()> {
        self.asking.send(v1::PipelineRequest { id: 0, call: Some(call), revision_only: true })?;
        let answer = self.answers.message().await?.context("the stream has ended")?;
        ensure!(answer.error.is_none(), "{:?}", answer.error);
        Ok(())
    }
}

/// One stream, and the clients that share it: how long each of their calls took.
async fn share(
    channel: Channel,
    clients: Vec<usize>,
    request: impl Fn(usize, usize) -> v1::PipelineRequest,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let Calls { asking, mut answers } = Calls::open(ObjectServiceClient::new(channel)).await?;
    // Of each client: how many calls it has made, and when the last one was.
    let mut made: Vec<_> = clients.iter().map(|_| (0, Instant::now())).collect();
    let ask = |made: &mut [(usize, Instant)], place: usize| {
        let (calls, at) = &mut made[place];
        (*calls, *at) = (*calls + 1, Instant::now());
        asking.send(v1::PipelineRequest { id: place as u64, ..request(clients[place], *calls) })
    };
    for place in 0..clients.len() {
        ask(&mut made, place)?;
    }
    let (mut waiting, mut times) = (clients.len(), Vec::new());
    while waiting > 0 {
        let answer = answers.message().await?.context("the stream has ended")?;
        ensure!(answer.error.is_none(), "{:?}", answer.error);
        let place = usize::try_from(answer.id)?;
        times.push(made[place].1.elapsed());
        if Instant::now() < end {
            ask(&mut made, place)?;
        } else {
            waiting -= 1;
        }
    }
    Ok(times)
}
