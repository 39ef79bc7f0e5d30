//! `balsa.v1.ClusterService`, and the tokens that agents fetch for their pods.

use balsa_model::Failure;
use balsa_proto::agent::agent_service_client::AgentServiceClient;
use balsa_proto::v1::cluster_service_client::ClusterServiceClient;
use balsa_proto::{agent, v1};

use super::RemoteBackend;
use super::channels::{Repeat, unary};

/// What a service account's token is asked for.
pub type AccountTokenRequest = agent::CreateTokenRequest;
/// A service account's token and when it ends.
pub type AccountToken = agent::CreateTokenResponse;

impl RemoteBackend {
    /// The server's version.
    ///
    /// # Errors
    /// What the server says.
    pub async fn version(&self) -> Result<v1::GetVersionResponse, Failure> {
        let make = |connection| async move {
            ClusterServiceClient::new(connection).get_version(unary(v1::GetVersionRequest {})).await
        };
        self.channels.call(Repeat::Always, make).await
    }

    /// The state of the log on the server that was asked.
    ///
    /// # Errors
    /// What the server says.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Failure> {
        let make = |connection| async move {
            ClusterServiceClient::new(connection).get_status(unary(v1::GetStatusRequest {})).await
        };
        self.channels.call(Repeat::Always, make).await
    }

    /// A token with which an agent or a server may join.
    ///
    /// # Errors
    /// What the server says.
    pub async fn create_token(&self, ttl_seconds: u32) -> Result<v1::CreateTokenResponse, Failure> {
        let make = |connection| async move {
            let request = unary(v1::CreateTokenRequest { ttl_seconds });
            ClusterServiceClient::new(connection).create_token(request).await
        };
        // Again does no harm: a token whose answer was lost just expires.
        self.channels.call(Repeat::Always, make).await
    }

    /// A token of a service account, for one of the node's pods.
    ///
    /// # Errors
    /// What the server says.
    pub async fn create_account_token(&self, request: AccountTokenRequest) -> Result<AccountToken, Failure> {
        let make = |connection| {
            let request = unary(request.clone());
            async move { AgentServiceClient::new(connection).create_token(request).await }
        };
        self.channels.call(Repeat::Always, make).await
    }
}
