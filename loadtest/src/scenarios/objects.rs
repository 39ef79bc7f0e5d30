//! Memory: what the server grows by for each object of 2 KiB that is stored.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{list, make};
use crate::process::resident;
use crate::rest::Target;

/// Until what was only needed for writing has been given back.
const SETTLE: Duration = Duration::from_secs(5);

/// How many objects, and whose memory.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Size {
    /// How many objects.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) objects: usize,
    /// Pods that no node runs, instead of ConfigMaps.
    #[arg(long)]
    pub(crate) as_pods: bool,
    /// The server's process.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// Makes as many objects twice; the second time nothing grows but what is stored: logs, write buffers and
/// recent changes have had their share.
pub(crate) async fn run(target: &Target, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let pid = size.pid.context("whose memory? name the server's process with --pid")?;
    let kind = if size.as_pods { "pods" } else { "configmaps" };
    let object = if size.as_pods { list::pod } else { config_map };
    let path = format!("/api/v1/namespaces/{namespace}/{kind}");
    make(target, &path, size.objects, object).await?;
    tokio::time::sleep(SETTLE).await;
    let before = resident(pid)?.own;
    make(target, &path, size.objects, |i| object(size.objects + i)).await?;
    tokio::time::sleep(SETTLE).await;
    let after = resident(pid)?.own;
    let grown = (after.saturating_sub(before) * 1024) as f64 / size.objects as f64;
    Ok(json!({
        "scenario": "objects", "kind": kind, "objects": 2 * size.objects, "bytes_per_object": grown.round(),
        "resident_mib": after / 1024,
    }))
}

fn config_map(i: usize) -> Bytes {
    let filling = "x".repeat(1800);
    format!("{{\"metadata\":{{\"name\":\"o{i}\"}},\"data\":{{\"payload\":\"{filling}\"}}}}").into()
}
