//! Reads per second of single objects of 1 KiB: linearizable ones, which say what is true when they are answered, and
//! ones that are content with what the asked server knows.

use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::pipeline_request::Call;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::load::{Caller, Load, connect, etcd, etcd_endpoints, grpc_endpoint, measure};
use super::{make, pipeline, to_bytes};
use crate::kubeconfig::Kubeconfig;
use crate::rest::{Connection, Target};

/// Objects that are read, by all clients alike.
const OBJECTS: usize = 64;

fn name(n: usize) -> String {
    format!("r{}", n % OBJECTS)
}

fn payload() -> String {
    "x".repeat(1024)
}

/// Makes what is read.
pub(crate) async fn prepare(target: &Target, namespace: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object = |i| to_bytes(&json!({"metadata": {"name": name(i)}, "data": {"payload": payload()}}));
    make(target, &path, OBJECTS, object).await
}

struct RestReader {
    connection: Connection,
    path: String,
}

impl Caller for RestReader {
    async fn call(&mut self, _: usize) -> anyhow::Result<()> {
        self.connection.call(Method::GET, &self.path, Bytes::new()).await.map(drop)
    }
}

/// Gets ConfigMaps through REST.
pub(crate) async fn rest(
    target: &Target,
    namespace: &str,
    stale: bool,
    load: &Load,
) -> anyhow::Result<Value> {
    let version = if stale { "?resourceVersion=0" } else { "" };
    let mut readers = Vec::new();
    for client in 0..load.clients {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{}{version}", name(client));
        readers.push(RestReader { connection: target.connect().await?, path });
    }
    told("rest", stale, measure(load, readers).await)
}

struct GrpcReader {
    service: ObjectServiceClient<Channel>,
    request: v1::GetRequest,
}

impl Caller for GrpcReader {
    async fn call(&mut self, _: usize) -> anyhow::Result<()> {
        self.service.get(self.request.clone()).await?;
        Ok(())
    }
}

/// Gets ConfigMaps through gRPC.
pub(crate) async fn grpc(
    config: &Kubeconfig,
    namespace: &str,
    stale: bool,
    load: &Load,
) -> anyhow::Result<Value> {
    let channels = connect(&[grpc_endpoint(config)?], load).await?;
    let readers = (0..load.clients).map(|client| GrpcReader {
        service: ObjectServiceClient::new(channels[client % channels.len()].clone()),
        request: reading(namespace, client, stale),
    });
    told("grpc", stale, measure(load, readers.collect()).await)
}

fn reading(namespace: &str, client: usize, stale: bool) -> v1::GetRequest {
    v1::GetRequest {
        resource: Some(v1::Resource { plural: "configmaps".to_owned(), ..Default::default() }),
        key: Some(v1::ObjectKey { namespace: namespace.to_owned(), name: name(client) }),
        stale_allowed: stale,
    }
}

/// Gets ConfigMaps through streams of calls.
pub(crate) async fn pipeline(
    config: &Kubeconfig,
    namespace: &str,
    stale: bool,
    load: &Load,
) -> anyhow::Result<Value> {
    let namespace = namespace.to_owned();
    let request = move |client, _| {
        let call = Some(Call::Get(reading(&namespace, client, stale)));
        v1::PipelineRequest { call, ..Default::default() }
    };
    told("pipeline", stale, pipeline::measure(load, &[grpc_endpoint(config)?], request).await)
}

struct EtcdReader {
    kv: etcd::kv_client::KvClient<Channel>,
    request: etcd::RangeRequest,
}

impl Caller for EtcdReader {
    async fn call(&mut self, _: usize) -> anyhow::Result<()> {
        let found = self.kv.range(self.request.clone()).await?.into_inner();
        anyhow::ensure!(found.kvs.len() == 1, "{found:?}");
        Ok(())
    }
}

fn key(n: usize) -> Bytes {
    format!("/registry/configmaps/loadtest/{}", name(n)).into()
}

/// Puts what is read into an etcd.
pub(crate) async fn prepare_etcd(endpoint: &str) -> anyhow::Result<()> {
    let mut kv = etcd::kv_client::KvClient::connect(endpoint.to_owned()).await?;
    for n in 0..OBJECTS {
        kv.put(etcd::PutRequest { key: key(n), value: payload().into() }).await?;
    }
    Ok(())
}

/// Reads values of an etcd.
pub(crate) async fn etcd(endpoint: &str, stale: bool, load: &Load) -> anyhow::Result<Value> {
    let channels = connect(&etcd_endpoints(&[endpoint.to_owned()])?, load).await?;
    let readers = (0..load.clients).map(|client| EtcdReader {
        kv: etcd::kv_client::KvClient::new(channels[client % channels.len()].clone()),
        request: etcd::RangeRequest { key: key(client), serializable: stale },
    });
    told("etcd", stale, measure(load, readers.collect()).await)
}

fn told(api: &str, stale: bool, line: anyhow::Result<Value>) -> anyhow::Result<Value> {
    let mut line = line?;
    line["scenario"] = "gets".into();
    line["api"] = api.into();
    line["stale"] = stale.into();
    Ok(line)
}
