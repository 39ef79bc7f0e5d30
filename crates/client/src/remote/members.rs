//! The servers of the cluster over gRPC: who they are, changes, backups, certificates.

use balsa_model::Failure;
use balsa_proto::v1::member_service_client::MemberServiceClient;
use balsa_proto::{from_status, v1};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::RemoteBackend;
use super::channels::{MAX_MESSAGE, Repeat, unary};

/// A backup on its way: about how many bytes it will have, and its pieces.
pub type Backup = (u64, BoxStream<'static, Result<Bytes, Failure>>);

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident, $repeat:ident;)*) => {
        impl RemoteBackend {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the server says.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Failure> {
                    let make = |connection| {
                        let request = unary(request.clone());
                        async move { MemberServiceClient::new(connection).$name(request).await }
                    };
                    self.channels.call(Repeat::$repeat, make).await
                }
            )*
        }
    };
}

calls! {
    /// All servers, and how they are.
    list_members(ListMembersRequest) -> ListMembersResponse, Always;
    /// A token with which a machine may become a server.
    add_member(AddMemberRequest) -> AddMemberResponse, Always;
    /// Gives a learner a vote.
    promote_member(PromoteMemberRequest) -> PromoteMemberResponse, Unsent;
    /// Takes a server out of the cluster.
    remove_member(RemoveMemberRequest) -> RemoveMemberResponse, Unsent;
    /// Has another server lead.
    transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse, Unsent;
    /// The certificates of the server that is asked.
    get_certificates(GetCertificatesRequest) -> GetCertificatesResponse, Always;
}

impl RemoteBackend {
    /// Everything that is stored, as one stream that ends with its checksum.
    ///
    /// # Errors
    /// What the server says.
    pub async fn save_backup(&self) -> Result<Backup, Failure> {
        let make = |connection| async move {
            let client = MemberServiceClient::new(connection).max_decoding_message_size(MAX_MESSAGE);
            // No deadline: it takes as long as it takes.
            { client }.save_backup(v1::SaveBackupRequest {}).await
        };
        let mut stream = self.channels.call(Repeat::Always, make).await?;
        let failed = |status| from_status(&status);
        let first = stream.message().await.map_err(failed)?;
        let first = first.ok_or_else(|| super::incomplete("first message of the backup"))?;
        let chunks = stream.map_ok(|message| message.chunk).map_err(|status| from_status(&status));
        Ok((first.expected_bytes, chunks.boxed()))
    }
}
