//! A load: many clients, each doing one thing after another until the time is over.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use balsa_rt::TaskKind;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::kubeconfig::Kubeconfig;
use crate::process::processor_time;
use crate::summary::milliseconds;

/// What etcd's clients say.
pub(super) mod etcd {
    #![expect(unreachable_pub, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// How many clients, over how many connections, for how long.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Load {
    /// Clients that work at the same time, each waiting for its answer.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// HTTP/2 connections that gRPC clients share [default: one each]. REST clients have one each.
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// How long.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// Processes of the servers, if they are on this machine: their processor time is told too.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
}

/// One client.
pub(super) trait Caller: Send + 'static {
    /// Does its `i`th thing and waits for the answer.
    fn call(&mut self, i: usize) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Lets every caller work until the time is over. Each is a task of its own.
pub(super) async fn measure<C: Caller>(load: &Load, callers: Vec<C>) -> anyhow::Result<Value> {
    let calling = |mut caller: C, end| async move {
        let mut times = Vec::new();
        for i in 0.. {
            let start = Instant::now();
            if start >= end {
                break;
            }
            caller.call(i).await?;
            times.push(start.elapsed());
        }
        anyhow::Ok(times)
    };
    together(load, |end| callers.into_iter().map(|caller| calling(caller, end)).collect()).await
}

/// Runs tasks that call until the time is over; each says how long its calls took.
pub(super) async fn together<F>(load: &Load, tasks: impl FnOnce(Instant) -> Vec<F>) -> anyhow::Result<Value>
where
    F: Future<Output = anyhow::Result<Vec<Duration>>> + Send + 'static,
{
    let used = used(&load.pids)?;
    let started = Instant::now();
    let tasks = tasks(started + Duration::from_secs(load.seconds));
    let calling = tasks.into_iter().map(|task| balsa_rt::spawn(TaskKind::Helper, task));
    let mut times = Vec::new();
    for outcome in futures::future::join_all(calling).await {
        times.append(&mut outcome?.context("a client was stopped")??);
    }
    let took = started.elapsed();
    let mut line = json!({
        "clients": load.clients, "per_second": (times.len() as f64 / took.as_secs_f64()).round(),
    });
    if !load.pids.is_empty() {
        let used = self::used(&load.pids)?.saturating_sub(used);
        line["server_us"] = (used.as_secs_f64() * 1e6 / times.len() as f64).round().into();
    }
    line["latency_ms"] = milliseconds(times);
    Ok(line)
}

/// Processor time of all servers.
fn used(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| processor_time(*pid)).sum()
}

/// The connections of a load to each of the `endpoints`; client `i` has the `i`th, round and round.
pub(super) async fn connect(endpoints: &[Endpoint], load: &Load) -> anyhow::Result<Vec<Channel>> {
    let count = load.connections.unwrap_or(load.clients).clamp(1, load.clients).max(endpoints.len());
    let connecting = (0..count).map(|n| endpoints[n % endpoints.len()].clone().tcp_nodelay(true));
    let connecting = connecting.map(|endpoint| async move { endpoint.connect().await });
    futures::future::try_join_all(connecting).await.map_err(Into::into)
}

/// Where the cluster of a kubeconfig answers gRPC.
pub(super) fn grpc_endpoint(config: &Kubeconfig) -> anyhow::Result<Endpoint> {
    let mut tls = ClientTlsConfig::new();
    if let Some(ca) = &config.ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &config.identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(Endpoint::from(config.server.clone()).tls_config(tls)?)
}

/// Whether a member of etcd leads.
pub(crate) async fn etcd_leads(endpoint: &str) -> anyhow::Result<bool> {
    let mut member = etcd::maintenance_client::MaintenanceClient::connect(endpoint.to_owned()).await?;
    let status = member.status(etcd::StatusRequest {}).await?.into_inner();
    Ok(status.header.is_some_and(|header| header.member_id == status.leader && status.leader != 0))
}

/// Where etcd's members answer.
pub(super) fn etcd_endpoints(endpoints: &[String]) -> anyhow::Result<Vec<Endpoint>> {
    endpoints.iter().map(|endpoint| Ok(Endpoint::from_shared(endpoint.clone())?)).collect()
}
