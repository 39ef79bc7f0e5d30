//! Writes per second: a cluster's objects through REST or gRPC, or an etcd's values.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_rt::TaskKind;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::kubeconfig::Kubeconfig;
use crate::process::processor_time;
use crate::rest::{Connection, Target};
use crate::summary::milliseconds;

mod etcd {
    #![expect(unreachable_pub, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// How many write, over how many connections, for how long.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Load {
    /// Clients that write at the same time, each waiting for its answer.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// HTTP/2 connections that gRPC clients share [default: one each]. REST clients have one each.
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// How long.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// The server's process, if it is on this machine: its processor time is told too.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// A ConfigMap of 1 KiB with a name of its own.
fn object(client: usize, i: usize) -> Bytes {
    let filling = "x".repeat(1024);
    format!("{{\"metadata\":{{\"name\":\"c{client}-{i}\"}},\"data\":{{\"payload\":\"{filling}\"}}}}").into()
}

/// One client.
trait Writer: Send + 'static {
    /// Writes its `i`th value and waits until it is acknowledged.
    fn write(&mut self, i: usize) -> impl Future<Output = anyhow::Result<()>> + Send;
}

struct RestWriter {
    client: usize,
    connection: Connection,
    path: String,
}

impl Writer for RestWriter {
    async fn write(&mut self, i: usize) -> anyhow::Result<()> {
        self.connection.call(Method::POST, &self.path, object(self.client, i)).await.map(drop)
    }
}

/// Creates ConfigMaps through REST.
pub(crate) async fn rest(target: &Target, namespace: &str, load: &Load) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut writers = Vec::new();
    for client in 0..load.clients {
        writers.push(RestWriter { client, connection: target.connect().await?, path: path.clone() });
    }
    measure("rest", load, writers).await
}

struct GrpcWriter {
    client: usize,
    service: ObjectServiceClient<Channel>,
    namespace: String,
}

impl Writer for GrpcWriter {
    async fn write(&mut self, i: usize) -> anyhow::Result<()> {
        let request = v1::CreateRequest {
            resource: Some(v1::Resource { plural: "configmaps".to_owned(), ..Default::default() }),
            namespace: self.namespace.clone(),
            json: object(self.client, i),
            options: None,
        };
        self.service.create(request).await?;
        Ok(())
    }
}

/// Creates ConfigMaps through gRPC.
pub(crate) async fn grpc(config: &Kubeconfig, namespace: &str, load: &Load) -> anyhow::Result<Value> {
    let mut tls = ClientTlsConfig::new();
    if let Some(ca) = &config.ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &config.identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let channels = connect(&Endpoint::from(config.server.clone()).tls_config(tls)?, load).await?;
    let writers = (0..load.clients).map(|client| GrpcWriter {
        client,
        service: ObjectServiceClient::new(channels[client % channels.len()].clone()),
        namespace: namespace.to_owned(),
    });
    measure("grpc", load, writers.collect()).await
}

struct EtcdWriter {
    client: usize,
    kv: etcd::kv_client::KvClient<Channel>,
}

impl Writer for EtcdWriter {
    async fn write(&mut self, i: usize) -> anyhow::Result<()> {
        let key = format!("/registry/configmaps/loadtest/c{}-{i}", self.client).into();
        self.kv.put(etcd::PutRequest { key, value: object(self.client, i) }).await?;
        Ok(())
    }
}

/// Puts values into an etcd.
pub(crate) async fn etcd(endpoint: &str, load: &Load) -> anyhow::Result<Value> {
    let parsed = Endpoint::from_shared(endpoint.to_owned())?;
    let channels = connect(&parsed, load).await.with_context(|| format!("{endpoint}: start etcd there"))?;
    let writers = (0..load.clients).map(|client| {
        let kv = etcd::kv_client::KvClient::new(channels[client % channels.len()].clone());
        EtcdWriter { client, kv }
    });
    measure("etcd", load, writers.collect()).await
}

async fn connect(endpoint: &Endpoint, load: &Load) -> anyhow::Result<Vec<Channel>> {
    let count = load.connections.unwrap_or(load.clients).clamp(1, load.clients);
    let endpoint = endpoint.clone().tcp_nodelay(true);
    futures::future::try_join_all((0..count).map(|_| endpoint.connect())).await.map_err(Into::into)
}

/// Lets every writer write one after another until the time is over. Each is a task of its own.
async fn measure<W: Writer>(api: &str, load: &Load, writers: Vec<W>) -> anyhow::Result<Value> {
    let used = load.pid.map(processor_time).transpose()?;
    let started = Instant::now();
    let end = started + Duration::from_secs(load.seconds);
    let writing = writers.into_iter().map(|mut writer| {
        balsa_rt::spawn(TaskKind::Helper, async move {
            let mut times = Vec::new();
            for i in 0.. {
                let start = Instant::now();
                if start >= end {
                    break;
                }
                writer.write(i).await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        })
    });
    let mut times = Vec::new();
    for outcome in futures::future::join_all(writing).await {
        times.append(&mut outcome?.context("a writer was stopped")??);
    }
    let took = started.elapsed();
    let mut line = json!({
        "scenario": "writes", "api": api, "clients": load.clients,
        "per_second": (times.len() as f64 / took.as_secs_f64()).round(),
    });
    if let (Some(before), Some(pid)) = (used, load.pid) {
        let used = processor_time(pid)?.saturating_sub(before);
        line["server_us_per_write"] = (used.as_secs_f64() * 1e6 / times.len() as f64).round().into();
    }
    line["latency_ms"] = milliseconds(times);
    Ok(line)
}
