//! Watch fan-out: one writer, many watchers of one kind, each on a connection of its own or many on one.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context as _, bail};
use balsa_rt::{Scope, TaskKind};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::to_bytes;
use crate::rest::{Shared, Target};
use crate::summary::milliseconds;

/// Connections that are opened at a time.
const OPENING: usize = 32;
/// How long the last watcher of a write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many watch, and how often something happens.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Size {
    /// Watchers of one kind in one namespace.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) watchers: usize,
    /// How many writes are timed.
    #[arg(long, default_value_t = 100)]
    pub(crate) writes: usize,
    /// HTTP/2 connections that the watchers share [default: one each, of HTTP/1.1].
    #[arg(long)]
    pub(crate) connections: Option<NonZeroUsize>,
}

/// Times `writes` writes, each until the last of `watchers` watchers has seen it.
pub(crate) async fn run(target: &Target, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let Size { watchers, writes, connections } = *size;
    let connections = connections.map(NonZeroUsize::get);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut connection = target.connect().await?;
    let (_, list) = connection.call(Method::GET, &path, Bytes::new()).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0").to_owned();
    let scope = Scope::new();
    let (seen, mut sightings) = mpsc::unbounded_channel();
    let url = format!("{path}?watch=true&resourceVersion={version}");
    let shared = futures::future::try_join_all((0..connections.unwrap_or(0)).map(|_| target.share())).await?;
    let opening = (0..watchers).map(|i| {
        let shared = connections.map(|count| shared[i % count].clone());
        open(target, shared, &url, seen.clone(), &scope)
    });
    let mut opening = futures::stream::iter(opening).buffer_unordered(OPENING);
    while let Some(outcome) = opening.next().await {
        outcome?;
    }
    let mut times = Vec::new();
    for i in 0..writes {
        connection.call(Method::POST, &path, to_bytes(&config_map(i))).await?;
        let acknowledged = Instant::now();
        let mut last = acknowledged;
        for _ in 0..watchers {
            let sighting = tokio::time::timeout(PATIENCE, sightings.recv()).await;
            last = last.max(sighting.context("a watcher saw nothing")?.context("the watchers have ended")?);
        }
        times.push(last - acknowledged);
    }
    Ok(json!({
        "scenario": "watch", "watchers": watchers, "connections": connections.unwrap_or(watchers),
        "acknowledged_to_last_ms": milliseconds(times),
    }))
}

/// Opens a watch, on a connection of its own if none is given, and tells of each event when it came.
async fn open(
    target: &Target,
    shared: Option<Shared>,
    url: &str,
    seen: mpsc::UnboundedSender<Instant>,
    scope: &Scope,
) -> anyhow::Result<()> {
    let (response, own) = match shared {
        Some(mut shared) => (shared.get(url).await?, None),
        None => {
            let mut connection = target.connect().await?;
            (connection.send(Method::GET, url, Bytes::new()).await?, Some(connection))
        }
    };
    if response.status() != StatusCode::OK {
        bail!("{url}: {}", response.status());
    }
    let mut body = response.into_body();
    scope.spawn(TaskKind::Helper, async move {
        // Kept, so that the connection stays.
        let _connection = own;
        while let Some(Ok(frame)) = body.frame().await {
            let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|b| **b == b'\n').count());
            for _ in 0..lines {
                let _ = seen.send(Instant::now());
            }
        }
    });
    Ok(())
}

/// A ConfigMap of about 1 KiB.
fn config_map(i: usize) -> Value {
    json!({"metadata": {"name": format!("w{i}")}, "data": {"payload": "x".repeat(1024)}})
}
