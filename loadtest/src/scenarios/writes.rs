//! Writes per second: a cluster's objects through REST or gRPC, or an etcd's values.

use anyhow::Context as _;
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::pipeline_request::Call;
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tonic::transport::Channel;

use super::load::{Caller, Load, connect, etcd, etcd_endpoints, grpc_endpoint, measure};
use super::pipeline;
use crate::kubeconfig::Kubeconfig;
use crate::rest::{Connection, Target};

/// A ConfigMap of 1 KiB with a name of its own.
fn object(client: usize, i: usize) -> Bytes {
    let filling = "x".repeat(1024);
    format!("{{\"metadata\":{{\"name\":\"c{client}-{i}\"}},\"data\":{{\"payload\":\"{filling}\"}}}}").into()
}

struct RestWriter {
    client: usize,
    connection: Connection,
    path: String,
}

impl Caller for RestWriter {
    async fn call(&mut self, i: usize) -> anyhow::Result<()> {
        self.connection.call(Method::POST, &self.path, object(self.client, i)).await.map(drop)
    }
}

/// Creates ConfigMaps through REST; clients take the servers in turn.
pub(crate) async fn rest(servers: &[Target], namespace: &str, load: &Load) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut writers = Vec::new();
    for client in 0..load.clients {
        let connection = servers[client % servers.len()].connect().await?;
        writers.push(RestWriter { client, connection, path: path.clone() });
    }
    told("rest", measure(load, writers).await)
}

struct GrpcWriter {
    client: usize,
    service: ObjectServiceClient<Channel>,
    namespace: String,
}

impl Caller for GrpcWriter {
    async fn call(&mut self, i: usize) -> anyhow::Result<()> {
        self.service.create(creation(&self.namespace, self.client, i)).await?;
        Ok(())
    }
}

fn creation(namespace: &str, client: usize, i: usize) -> v1::CreateRequest {
    v1::CreateRequest {
        resource: Some(v1::Resource { plural: "configmaps".to_owned(), ..Default::default() }),
        namespace: namespace.to_owned(),
        json: object(client, i),
        options: None,
    }
}

/// Creates ConfigMaps through gRPC; connections take the servers in turn.
pub(crate) async fn grpc(servers: &[Kubeconfig], namespace: &str, load: &Load) -> anyhow::Result<Value> {
    let endpoints = servers.iter().map(grpc_endpoint).collect::<anyhow::Result<Vec<_>>>()?;
    let channels = connect(&endpoints, load).await?;
    let writers = (0..load.clients).map(|client| GrpcWriter {
        client,
        service: ObjectServiceClient::new(channels[client % channels.len()].clone()),
        namespace: namespace.to_owned(),
    });
    told("grpc", measure(load, writers.collect()).await)
}

/// Creates ConfigMaps through streams of calls; their connections take the servers in turn.
pub(crate) async fn pipeline(servers: &[Kubeconfig], namespace: &str, load: &Load) -> anyhow::Result<Value> {
    let endpoints = servers.iter().map(grpc_endpoint).collect::<anyhow::Result<Vec<_>>>()?;
    let namespace = namespace.to_owned();
    let request = move |client, i| {
        let call = Some(Call::Create(creation(&namespace, client, i)));
        // As much as etcd answers.
        v1::PipelineRequest { id: 0, call, revision_only: true }
    };
    told("pipeline", pipeline::measure(load, &endpoints, request).await)
}

struct EtcdWriter {
    client: usize,
    kv: etcd::kv_client::KvClient<Channel>,
}

impl Caller for EtcdWriter {
    async fn call(&mut self, i: usize) -> anyhow::Result<()> {
        let key = format!("/registry/configmaps/loadtest/c{}-{i}", self.client).into();
        self.kv.put(etcd::PutRequest { key, value: object(self.client, i) }).await?;
        Ok(())
    }
}

/// Puts values into an etcd; connections take the members in turn.
pub(crate) async fn etcd(endpoints: &[String], load: &Load) -> anyhow::Result<Value> {
    let channels = connect(&etcd_endpoints(endpoints)?, load).await;
    let channels = channels.with_context(|| format!("{}: start etcd there", endpoints.join(", ")))?;
    let writers = (0..load.clients).map(|client| {
        let kv = etcd::kv_client::KvClient::new(channels[client % channels.len()].clone());
        EtcdWriter { client, kv }
    });
    told("etcd", measure(load, writers.collect()).await)
}

fn told(api: &str, line: anyhow::Result<Value>) -> anyhow::Result<Value> {
    let mut line = line?;
    line["scenario"] = "writes".into();
    line["api"] = api.into();
    Ok(line)
}
