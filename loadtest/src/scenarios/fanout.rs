//! Fan-out beside etcd's: one writer, many watches of everything on a few HTTP/2 connections. The next write waits until
//! all have heard of the last one, so nobody falls behind, and a slow watcher counts.

use std::time::Duration;

use anyhow::{Context as _, bail};
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_rt::{Scope, TaskKind};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::load::{etcd, etcd_endpoints, grpc_endpoint};
use crate::kubeconfig::Kubeconfig;
use crate::process::processor_time;
use crate::summary::milliseconds;

/// Streams that one connection carries: servers allow for a thousand.
const STREAMS: usize = 900;
/// How long the last watcher of a write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many watch, for how long.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) watches: usize,
    pub(crate) seconds: u64,
    /// The server's process.
    pub(crate) pid: u32,
}

/// A cluster's ConfigMaps, watched and written through gRPC.
pub(crate) async fn grpc(config: &Kubeconfig, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let (endpoint, scope, (seen, sightings)) =
        (grpc_endpoint(config)?, Scope::new(), mpsc::unbounded_channel());
    let resource = || Some(v1::Resource { plural: "configmaps".to_owned(), ..Default::default() });
    let selection = v1::Selection { namespace: namespace.to_owned(), ..Default::default() };
    let mut service = ObjectServiceClient::new(endpoint.connect().await?);
    // The one that comes by itself must not come later.
    let key = v1::ObjectKey { namespace: namespace.to_owned(), name: "kube-root-ca.crt".to_owned() };
    let deadline = Instant::now() + PATIENCE;
    let get = v1::GetRequest { resource: resource(), key: Some(key), stale_allowed: false };
    while service.get(get.clone()).await.is_err() {
        if Instant::now() > deadline {
            bail!("the namespace got no certificates");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request = v1::WatchRequest { resource: resource(), selection: Some(selection), after_revision: 0 };
    for channel in connections(&endpoint, size.watches).await? {
        let mut watching = ObjectServiceClient::new(channel.0);
        for _ in 0..channel.1 {
            let mut stream = watching.watch(request.clone()).await?.into_inner();
            synced(&mut stream).await?;
            let seen = seen.clone();
            scope.spawn(TaskKind::Helper, async move {
                while let Ok(Some(response)) = stream.message().await {
                    tell(&seen, response.events.iter().filter(|event| event.object.is_some()).count());
                }
            });
        }
    }
    let write = async |i: usize| {
        let create = v1::CreateRequest {
            resource: resource(),
            namespace: namespace.to_owned(),
            json: object(i).into(),
            options: None,
        };
        service.create(create).await.map(drop)
    };
    measure("grpc", size, sightings, write).await
}

/// Reads up to the end of what was there when a watch began: nothing is, but what every namespace has.
async fn synced(stream: &mut Streaming<v1::WatchResponse>) -> anyhow::Result<()> {
    while let Some(response) = stream.message().await? {
        if response.events.iter().any(|event| event.r#type() == v1::watch_event::Type::Synced) {
            return Ok(());
        }
    }
    bail!("a watch ended before it had begun")
}

/// An etcd's values. One stream a connection carries its watches, as etcd's own clients have it.
pub(crate) async fn etcd(endpoint: &str, size: &Size) -> anyhow::Result<Value> {
    let [endpoint] = &etcd_endpoints(&[endpoint.to_owned()])?[..] else { bail!("one member is watched") };
    let (scope, (seen, sightings)) = (Scope::new(), mpsc::unbounded_channel());
    for (channel, watches) in connections(endpoint, size.watches).await? {
        let (asking, asked) = mpsc::unbounded_channel();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(asked);
        let mut watching = etcd::watch_client::WatchClient::new(channel);
        for _ in 0..watches {
            asking.send(watch_all())?;
        }
        let mut stream = watching.watch(stream).await?.into_inner();
        let mut created = 0;
        while created < watches {
            created += usize::from(stream.message().await?.context("etcd ended a watch")?.created);
        }
        let seen = seen.clone();
        scope.spawn(TaskKind::Helper, async move {
            // Kept, so that the watches stay.
            let _asking = asking;
            while let Ok(Some(response)) = stream.message().await {
                tell(&seen, response.events.len());
            }
        });
    }
    let mut kv = etcd::kv_client::KvClient::new(endpoint.connect().await?);
    let write = async |i: usize| {
        let put = etcd::PutRequest { key: format!("{PREFIX}{i}").into(), value: object(i).into() };
        kv.put(put).await.map(drop)
    };
    measure("etcd", size, sightings, write).await
}

const PREFIX: &str = "/registry/configmaps/fanout/f";

/// A watch of all keys that begin like ours.
fn watch_all() -> etcd::WatchRequest {
    let (key, mut range_end) = (PREFIX.as_bytes().to_vec(), PREFIX.as_bytes().to_vec());
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    let create = etcd::WatchCreateRequest { key: key.into(), range_end: range_end.into() };
    etcd::WatchRequest { request_union: Some(etcd::watch_request::RequestUnion::CreateRequest(create)) }
}

/// Connections, and how many watches each is to carry.
async fn connections(endpoint: &Endpoint, watches: usize) -> anyhow::Result<Vec<(Channel, usize)>> {
    let count = watches.div_ceil(STREAMS).max(8);
    let mut connections = Vec::new();
    for n in 0..count {
        let share = watches / count + usize::from(n < watches % count);
        connections.push((endpoint.clone().tcp_nodelay(true).connect().await?, share));
    }
    Ok(connections)
}

fn tell(seen: &UnboundedSender<Instant>, events: usize) {
    for _ in 0..events {
        let _ = seen.send(Instant::now());
    }
}

/// Writes one after another, each when all watchers have seen the one before.
async fn measure(
    api: &str,
    size: &Size,
    mut sightings: UnboundedReceiver<Instant>,
    mut write: impl AsyncFnMut(usize) -> Result<(), tonic::Status>,
) -> anyhow::Result<Value> {
    let used = processor_time(size.pid)?;
    let (begun, mut delays) = (Instant::now(), Vec::new());
    for i in 0.. {
        if begun.elapsed() >= Duration::from_secs(size.seconds) {
            break;
        }
        let written = Instant::now();
        write(i).await?;
        for _ in 0..size.watches {
            let sighting = tokio::time::timeout(PATIENCE, sightings.recv()).await;
            let at = sighting.context("a watcher saw nothing")?.context("the watchers have ended")?;
            delays.push(at.saturating_duration_since(written));
        }
    }
    let rate = delays.len() as f64 / begun.elapsed().as_secs_f64();
    let used = processor_time(size.pid)?.saturating_sub(used).as_secs_f64() * 1e6 / delays.len() as f64;
    Ok(json!({
        "scenario": "fanout", "api": api, "clients": size.watches, "per_second": rate.round(),
        "server_us": (used * 10.0).round() / 10.0, "latency_ms": milliseconds(delays),
    }))
}

/// A ConfigMap of about 1 KiB.
fn object(i: usize) -> String {
    json!({"metadata": {"name": format!("f{i}")}, "data": {"payload": "x".repeat(1024)}}).to_string()
}
