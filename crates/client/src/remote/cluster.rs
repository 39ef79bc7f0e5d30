//! `balsa.v1.ClusterService`.

use balsa_model::Failure;
use balsa_proto::v1;
use balsa_proto::v1::cluster_service_client::ClusterServiceClient;

use super::RemoteBackend;
use super::channels::{Repeat, unary};

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
}
