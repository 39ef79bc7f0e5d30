//! `balsa.v1.ClusterService`: the cluster itself.

use balsa_client::Client;
use balsa_model::{Failure, KUBERNETES_VERSION};
use balsa_proto::v1::cluster_service_server::ClusterService;
use balsa_proto::{to_status, v1};
use tonic::{Request, Response, Status};

use super::authorize;
use crate::authorize::Attributes;
use crate::engine::LocalBackend;
use crate::front::Front;
use crate::identity::{Usage, create_token};

/// A token that names no life is good for a day.
const DAY: u32 = 86_400;

pub(super) struct Cluster(pub(super) Front);

fn path(verb: &str, path: &str) -> Attributes {
    Attributes { verb: verb.to_owned(), path: path.to_owned(), ..Attributes::default() }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_version(
        &self,
        request: Request<v1::GetVersionRequest>,
    ) -> Result<Response<v1::GetVersionResponse>, Status> {
        authorize(&self.0, &request, &path("get", "/version"))?;
        let (major, minor, patch) = KUBERNETES_VERSION;
        Ok(Response::new(v1::GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kubernetes_version: format!("v{major}.{minor}.{patch}"),
            commit: option_env!("BALSA_COMMIT").unwrap_or_default().to_owned(),
            platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let wanted = Attributes {
            verb: "create".to_owned(),
            resource: "secrets".to_owned(),
            namespace: "kube-system".to_owned(),
            ..Attributes::default()
        };
        let who = authorize(&self.0, &request, &wanted)?;
        let seconds = match request.into_inner().ttl_seconds {
            0 => DAY,
            seconds => seconds,
        };
        let internal = |error: &dyn std::fmt::Display| to_status(&Failure::internal(error));
        let fingerprint = self.0.authority.fingerprint().map_err(|error| internal(&error))?;
        let (token, secret) = create_token(&fingerprint, Usage::Agents, self.0.engine.clock().now(), seconds);
        let client = Client::new(LocalBackend::new(self.0.engine.clone(), who), "balsa");
        client.api().create(&secret).await.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(v1::CreateTokenResponse { token: token.text, expires: token.expires.to_string() }))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        authorize(&self.0, &request, &path("get", "/readyz"))?;
        let status = self.0.engine.store().log().status();
        Ok(Response::new(v1::GetStatusResponse {
            node_id: status.node_id,
            role: format!("{:?}", status.role).to_lowercase(),
            term: status.term,
            last_index: status.last_index.map_or(0, |index| index.0),
            applied_index: status.applied.map_or(0, |index| index.0),
            revision: self.0.engine.state().revision().0,
            leader_id: status.leader.unwrap_or(0),
        }))
    }
}
