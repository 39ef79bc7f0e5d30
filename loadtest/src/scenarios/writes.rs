//! Writes per second, of a cluster's objects and of an etcd's values.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{config_map, to_bytes};
use crate::rest::Target;
use crate::summary::milliseconds;

mod etcd {
    #![expect(unreachable_pub, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// Creates ConfigMaps of 1 KiB.
pub(crate) async fn rest(
    target: &Target,
    namespace: &str,
    clients: usize,
    seconds: u64,
) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let end = Instant::now() + Duration::from_secs(seconds);
    let workers = (0..clients).map(|client| {
        let (target, path) = (target.clone(), path.clone());
        async move {
            let mut connection = target.connect().await?;
            let mut times = Vec::new();
            for i in 0.. {
                let start = Instant::now();
                if start >= end {
                    break;
                }
                let body = to_bytes(&config_map(&format!("c{client}-{i}")));
                connection.call(Method::POST, &path, body).await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        }
    });
    let started = Instant::now();
    let times: Vec<Duration> = futures::future::try_join_all(workers).await?.concat();
    Ok(report("writes", clients, times, started.elapsed()))
}

/// Puts values of 1 KiB.
pub(crate) async fn etcd(endpoint: &str, clients: usize, seconds: u64) -> anyhow::Result<Value> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let workers = (0..clients).map(|client| async move {
        let connecting = etcd::kv_client::KvClient::connect(endpoint.to_owned()).await;
        let mut kv = connecting.with_context(|| format!("{endpoint}: start etcd there first"))?;
        let mut times = Vec::new();
        for i in 0.. {
            let start = Instant::now();
            if start >= end {
                break;
            }
            let key = format!("/registry/configmaps/loadtest/c{client}-{i}").into_bytes();
            let value = config_map("x").to_string().into_bytes();
            kv.put(etcd::PutRequest { key, value }).await?;
            times.push(start.elapsed());
        }
        anyhow::Ok(times)
    });
    let started = Instant::now();
    let times: Vec<Duration> = futures::future::try_join_all(workers).await?.concat();
    Ok(report("etcd-writes", clients, times, started.elapsed()))
}

fn report(scenario: &str, clients: usize, times: Vec<Duration>, took: Duration) -> Value {
    let rate = (times.len() as f64 / took.as_secs_f64()).round();
    json!({"scenario": scenario, "clients": clients, "per_second": rate, "latency_ms": milliseconds(times)})
}
