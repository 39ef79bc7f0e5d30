//! Lists of many pods that no node runs.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{make, to_bytes};
use crate::process::{forget_peak, peak};
use crate::rest::Target;
use crate::summary::milliseconds;

const SETTLE: Duration = Duration::from_secs(12);

/// How many pods, and how often they are listed.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Size {
    /// How many pods.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) pods: usize,
    /// How many lists are timed.
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: usize,
    /// The server's process, if it is on this machine: what its memory grows by for a list is told too.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// Makes pods of about 2 KiB and lists them some times, each time the whole list at once; then some times those
/// with one label of a hundred.
pub(crate) async fn run(target: &Target, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    make(target, &path, size.pods, pod).await?;
    let mut connection = target.connect().await?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    if size.pid.is_some() {
        // Until what was only needed for writing has been given back: it would serve the lists.
        tokio::time::sleep(SETTLE).await;
    }
    let before = size.pid.map(forget_peak).transpose()?;
    for _ in 0..size.rounds {
        let start = Instant::now();
        let (_, body) = connection.call(Method::GET, &path, Bytes::new()).await?;
        times.push(start.elapsed());
        bytes = body.len();
    }
    let total: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let rate = (bytes * size.rounds) as f64 / total / 1_000_000.0;
    let mut line = json!({
        "scenario": "list", "pods": size.pods, "bytes": bytes, "mb_per_second": rate.round(),
        "latency_ms": milliseconds(times),
    });
    if let (Some(before), Some(pid)) = (before, size.pid) {
        line["peak_extra_mib"] = (peak(pid)?.saturating_sub(before) as f64 / 1024.0).into();
    }
    let selected = format!("{path}?labelSelector=bucket%3D7");
    let mut times = Vec::new();
    for _ in 0..size.rounds {
        let start = Instant::now();
        connection.call(Method::GET, &selected, Bytes::new()).await?;
        times.push(start.elapsed());
    }
    line["selected_ms"] = milliseconds(times);
    Ok(line)
}

/// A pod that waits for a node that nobody has.
pub(super) fn pod(i: usize) -> Bytes {
    to_bytes(&json!({
        "metadata": {
            "name": format!("p{i}"),
            "labels": {"app": "loadtest", "bucket": (i % 100).to_string()},
            "annotations": {"filling": "x".repeat(400)},
        },
        "spec": {
            "nodeSelector": {"loadtest": "never"},
            "containers": [{"name": "c", "image": "none"}],
        },
    }))
}
