//! Lists of many pods that no node runs.

use bytes::Bytes;
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::to_bytes;
use crate::rest::Target;
use crate::summary::milliseconds;

/// Connections that make the pods.
const MAKERS: usize = 32;

/// Makes `pods` pods of about 2 KiB and lists them `rounds` times.
pub(crate) async fn run(
    target: &Target,
    namespace: &str,
    pods: usize,
    rounds: usize,
) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let shares = (0..MAKERS).map(|maker| {
        let (target, path) = (target.clone(), path.clone());
        async move {
            let mut connection = target.connect().await?;
            for i in (maker..pods).step_by(MAKERS) {
                connection.call(Method::POST, &path, to_bytes(&pod(i))).await?;
            }
            anyhow::Ok(())
        }
    });
    let mut making = futures::stream::iter(shares).buffer_unordered(MAKERS);
    while let Some(outcome) = making.next().await {
        outcome?;
    }
    let mut connection = target.connect().await?;
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let (_, body) = connection.call(Method::GET, &path, Bytes::new()).await?;
        times.push(start.elapsed());
        size = body.len();
    }
    let total: f64 = times.iter().map(std::time::Duration::as_secs_f64).sum();
    let rate = (size * rounds) as f64 / total / 1_000_000.0;
    Ok(json!({
        "scenario": "list", "pods": pods, "bytes": size, "mb_per_second": rate.round(),
        "latency_ms": milliseconds(times),
    }))
}

/// A pod that waits for a node that nobody has.
fn pod(i: usize) -> Value {
    json!({
        "metadata": {
            "name": format!("p{i}"),
            "labels": {"app": "loadtest", "bucket": (i % 100).to_string()},
            "annotations": {"filling": "x".repeat(700)},
        },
        "spec": {
            "nodeSelector": {"loadtest": "never"},
            "containers": [{"name": "c", "image": "none"}],
        },
    })
}
