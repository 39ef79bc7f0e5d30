//! Fan-out beside etcd's: one writer, many watches, as many in one stream as both allow, on a few connections. All watches are
//! of everything, or each is of an object of its own. The next write waits until all that it is for have heard of the last
//! one, so nobody falls behind, and a slow watcher counts.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, bail};
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::pipeline_request::Call;
use balsa_rt::{Scope, TaskKind};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::load::{etcd, etcd_endpoints, grpc_endpoint};
use super::pipeline::Calls;
use crate::kubeconfig::Kubeconfig;
use crate::process::processor_time;
use crate::summary::milliseconds;

/// Connections with one stream each, which the watches share.
const CONNECTIONS: usize = 8;
/// How long the last watcher of a write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many watch, for how long.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) watches: usize,
    /// Each watches one object of its own; otherwise all watch everything.
    pub(crate) apart: bool,
    /// An event comes once for all watches of a stream, where the server can do that.
    pub(crate) shared: bool,
    pub(crate) seconds: u64,
    /// The server's process.
    pub(crate) pid: u32,
}

/// A cluster's ConfigMaps, watched and written through gRPC.
pub(crate) async fn grpc(config: &Kubeconfig, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let (endpoint, scope, (seen, sightings)) =
        (grpc_endpoint(config)?, Scope::new(), mpsc::unbounded_channel());
    let resource = || Some(v1::Resource { plural: "configmaps".to_owned(), ..Default::default() });
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
    let watch = |i: usize| {
        let field_selector = if size.apart { format!("metadata.name={}", name(i)) } else { String::new() };
        let selection =
            v1::Selection { namespace: namespace.to_owned(), field_selector, ..Default::default() };
        v1::WatchRequest { resource: resource(), selection: Some(selection), after_revision: 0 }
    };
    for (channel, share) in connections(&endpoint, size.watches).await? {
        let watches = share.map(&watch).collect::<Vec<_>>();
        let count = watches.len();
        let mut stream = ObjectServiceClient::new(channel)
            .watch_many(v1::WatchManyRequest { watches, shared: size.shared })
            .await?
            .into_inner();
        synced(&mut stream, count).await?;
        let mut eyes = Eyes::new(size, count, &seen);
        scope.spawn(TaskKind::Helper, async move {
            while let Ok(Some(response)) = stream.message().await {
                let events = response.events.iter().filter(|event| event.object.is_some()).count();
                eyes.see(events * told(&response));
            }
        });
    }
    let mut writer = Calls::open(service).await?;
    let write = async |i: usize| {
        let (json, namespace) = (object(size.object(i), i).into(), namespace.to_owned());
        if i < size.watches || !size.apart {
            let create = v1::CreateRequest { resource: resource(), namespace, json, options: None };
            return writer.write(Call::Create(create)).await;
        }
        let key = Some(v1::ObjectKey { namespace, name: name(size.object(i)) });
        let update = v1::UpdateRequest { resource: resource(), key, json, ..Default::default() };
        writer.write(Call::Update(update)).await
    };
    measure(if size.shared { "shared" } else { "grpc" }, size, sightings, write).await
}

/// Reads up to the end of what was there when the watches began: nothing is, but what every namespace has.
async fn synced(stream: &mut Streaming<v1::WatchManyResponse>, watches: usize) -> anyhow::Result<()> {
    let mut begun = 0;
    while begun < watches {
        let response = stream.message().await?.context("watches ended before they had begun")?;
        let synced = |event: &&v1::WatchEvent| event.r#type() == v1::watch_event::Type::Synced;
        begun += response.events.iter().filter(synced).count() * told(&response);
    }
    Ok(())
}

/// How many watches a message is for.
fn told(response: &v1::WatchManyResponse) -> usize {
    1 + response.also.len()
}

/// An etcd's values. One stream a connection carries its watches, as etcd's own clients have it.
pub(crate) async fn etcd(endpoint: &str, size: &Size) -> anyhow::Result<Value> {
    let [endpoint] = &etcd_endpoints(&[endpoint.to_owned()])?[..] else { bail!("one member is watched") };
    let (scope, (seen, sightings)) = (Scope::new(), mpsc::unbounded_channel());
    for (channel, share) in connections(endpoint, size.watches).await? {
        let watches = share.len();
        let (asking, asked) = mpsc::unbounded_channel();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(asked);
        let mut watching = etcd::watch_client::WatchClient::new(channel);
        for i in share {
            asking.send(if size.apart { watch_one(i) } else { watch_all() })?;
        }
        let mut stream = watching.watch(stream).await?.into_inner();
        let mut created = 0;
        while created < watches {
            created += usize::from(stream.message().await?.context("etcd ended a watch")?.created);
        }
        let mut eyes = Eyes::new(size, watches, &seen);
        scope.spawn(TaskKind::Helper, async move {
            // Kept, so that the watches stay.
            let _asking = asking;
            while let Ok(Some(response)) = stream.message().await {
                eyes.see(response.events.len());
            }
        });
    }
    let mut kv = etcd::kv_client::KvClient::new(endpoint.connect().await?);
    let write = async |i: usize| {
        let key = format!("{PREFIX}{}", name(size.object(i))).into();
        let put = etcd::PutRequest { key, value: object(size.object(i), i).into() };
        kv.put(put).await?;
        Ok(())
    };
    measure("etcd", size, sightings, write).await
}

const PREFIX: &str = "/registry/configmaps/fanout/";

/// A watch of all keys that begin like ours.
fn watch_all() -> etcd::WatchRequest {
    let (key, mut range_end) = (PREFIX.as_bytes().to_vec(), PREFIX.as_bytes().to_vec());
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    asked(etcd::WatchCreateRequest { key: key.into(), range_end: range_end.into() })
}

/// A watch of one key.
fn watch_one(i: usize) -> etcd::WatchRequest {
    let key = format!("{PREFIX}{}", name(i)).into();
    asked(etcd::WatchCreateRequest { key, ..Default::default() })
}

fn asked(create: etcd::WatchCreateRequest) -> etcd::WatchRequest {
    etcd::WatchRequest { request_union: Some(etcd::watch_request::RequestUnion::CreateRequest(create)) }
}

/// Connections, and which of the watches each is to carry.
async fn connections(endpoint: &Endpoint, watches: usize) -> anyhow::Result<Vec<(Channel, Range<usize>)>> {
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        let share = watches * n / CONNECTIONS..watches * (n + 1) / CONNECTIONS;
        connections.push((endpoint.clone().tcp_nodelay(true).connect().await?, share));
    }
    Ok(connections)
}

/// What one stream has seen of a write. It tells of it when its watches have all had it: a word for each event would cost
/// more than the event.
struct Eyes {
    expected: usize,
    seen: Vec<Instant>,
    teller: UnboundedSender<Vec<Instant>>,
}

impl Eyes {
    fn new(size: &Size, watches: usize, teller: &UnboundedSender<Vec<Instant>>) -> Self {
        Self { expected: if size.apart { 1 } else { watches }, seen: Vec::new(), teller: teller.clone() }
    }

    fn see(&mut self, events: usize) {
        self.seen.extend(std::iter::repeat_n(Instant::now(), events));
        if self.seen.len() >= self.expected {
            let _ = self.teller.send(std::mem::take(&mut self.seen));
        }
    }
}

/// Writes one after another, each when all watchers have seen the one before.
async fn measure(
    api: &str,
    size: &Size,
    mut sightings: UnboundedReceiver<Vec<Instant>>,
    mut write: impl AsyncFnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let used = processor_time(size.pid)?;
    let (begun, mut delays) = (Instant::now(), Vec::new());
    for i in 0.. {
        if begun.elapsed() >= Duration::from_secs(size.seconds) {
            break;
        }
        let written = Instant::now();
        write(i).await?;
        let mut waited_for = if size.apart { 1 } else { size.watches };
        while waited_for > 0 {
            let seen = tokio::time::timeout(PATIENCE, sightings.recv()).await;
            let seen = seen.context("a watcher saw nothing")?.context("the watchers have ended")?;
            waited_for = waited_for.saturating_sub(seen.len());
            delays.extend(seen.iter().map(|at| at.saturating_duration_since(written)));
        }
    }
    let rate = delays.len() as f64 / begun.elapsed().as_secs_f64();
    let used = processor_time(size.pid)?.saturating_sub(used).as_secs_f64() * 1e6 / delays.len() as f64;
    Ok(json!({
        "scenario": "fanout", "api": api, "apart": size.apart, "clients": size.watches, "per_second": rate.round(),
        "server_us": (used * 10.0).round() / 10.0, "latency_ms": milliseconds(delays),
    }))
}

impl Size {
    /// The object that a write is for: a new one each, or those that are watched in turn.
    fn object(&self, write: usize) -> usize {
        if self.apart { write % self.watches } else { write }
    }
}

fn name(i: usize) -> String {
    format!("f{i}")
}

/// A ConfigMap of about 1 KiB, another one with each write.
fn object(i: usize, write: usize) -> String {
    json!({"metadata": {"name": name(i)}, "data": {"payload": "x".repeat(1024), "write": write.to_string()}})
        .to_string()
}
