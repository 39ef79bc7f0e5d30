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
use tonic::transport::{Channel, Endpoint};

use super::load::{Load, connect, together};

/// Lets every client make one call after another until the time is over; `call` is the `i`th of a client.
pub(super) async fn measure(
    load: &Load,
    endpoints: &[Endpoint],
    call: impl Fn(usize, usize) -> Call + Clone + Send + Sync + 'static,
) -> anyhow::Result<Value> {
    let channels = connect(endpoints, load).await?;
    let count = channels.len();
    together(load, |end| {
        let stream = |(n, channel)| {
            let clients = (n..load.clients).step_by(count).collect();
            share(channel, clients, call.clone(), end)
        };
        channels.into_iter().enumerate().map(stream).collect()
    })
    .await
}

/// One stream, and the clients that share it: how long each of their calls took.
async fn share(
    channel: Channel,
    clients: Vec<usize>,
    call: impl Fn(usize, usize) -> Call,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let (asking, asked) = mpsc::unbounded_channel();
    let mut stream =
        ObjectServiceClient::new(channel).pipeline(UnboundedReceiverStream::new(asked)).await?.into_inner();
    // Of each client: how many calls it has made, and when the last one was.
    let mut made: Vec<_> = clients.iter().map(|_| (0, Instant::now())).collect();
    let ask = |made: &mut [(usize, Instant)], place: usize| {
        let (calls, at) = &mut made[place];
        (*calls, *at) = (*calls + 1, Instant::now());
        asking.send(v1::PipelineRequest { id: place as u64, call: Some(call(clients[place], *calls)) })
    };
    for place in 0..clients.len() {
        ask(&mut made, place)?;
    }
    let (mut waiting, mut times) = (clients.len(), Vec::new());
    while waiting > 0 {
        let answer = stream.message().await?.context("the stream has ended")?;
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
