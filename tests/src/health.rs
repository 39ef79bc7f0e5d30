//! A program with gRPC's health service, for a container to be asked by a probe: `health PORT FILE`. The server
//! itself is always well; its service `kite` is while FILE exists; it has no other.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

struct Kite {
    file: PathBuf,
}

#[tonic::async_trait]
impl Health for Kite {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            "kite" if self.file.exists() => ServingStatus::Serving,
            "kite" => ServingStatus::NotServing,
            _ => return Err(Status::not_found("unknown service")),
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("a probe does not watch"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let port: u16 = words.next().context("health PORT FILE")?.parse()?;
    let file = words.next().context("health PORT FILE")?.into();
    let server = tonic::transport::Server::builder().add_service(HealthServer::new(Kite { file }));
    Ok(server.serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?)
}
