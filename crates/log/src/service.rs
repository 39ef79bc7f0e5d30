//! The server side of the peer protocol.
//!
//! It trusts its callers to be servers of this cluster: whoever mounts it lets nobody else in.

use std::future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use balsa_rt::TaskKind;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::{self, CodecError, pb};
use crate::error::{ProposeError, ReadError};
use crate::handle::Shared;
use crate::snapshot::SnapshotData;
use crate::transport::MAX_MESSAGE;
use crate::types::{Raft, Snapshot, Types, Vote};

/// Mount this on the server's port.
pub type PeerServer = pb::raft_service_server::RaftServiceServer<PeerService>;

/// Answers other servers.
#[derive(Clone)]
pub struct PeerService {
    shared: Arc<Shared>,
}

pub(crate) fn serve(shared: Arc<Shared>) -> PeerServer {
    PeerServer::new(PeerService { shared })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

impl PeerService {
    fn raft(&self) -> &Raft {
        &self.shared.raft
    }

    /// A server that moved, or an address that now belongs to another one, must not be mistaken.
    fn check_target(&self, to: u64) -> Result<(), Status> {
        let me = self.shared.config.node_id;
        if to == me {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is server {me}, not {to}")))
    }
}

impl PeerService {
    fn read_append(&self, request: pb::AppendEntriesRequest) -> Result<AppendEntriesRequest<Types>, Status> {
        self.check_target(request.to)?;
        let vote = codec::require_vote(request.vote.as_ref()).map_err(|error| invalid(&error))?;
        self.shared.heard.note(vote.leader_id.term);
        let entries = request.entries.into_iter().map(codec::read_entry).collect::<Result<Vec<_>, _>>();
        Ok(AppendEntriesRequest {
            vote,
            prev_log_id: request.prev_log_id.as_ref().map(codec::read_log_id),
            entries: entries.map_err(|error| invalid(&error))?,
            leader_commit: request.leader_commit.as_ref().map(codec::read_log_id),
        })
    }

    /// Takes a piece of a snapshot; after the last one installs it, and what its sender is told then.
    async fn receive(&self, request: pb::InstallSnapshotRequest) -> Result<Option<Vote>, Status> {
        let vote = codec::require_vote(request.vote.as_ref()).map_err(|error| invalid(&error))?;
        self.shared.heard.note(vote.leader_id.term);
        let mut incoming = self.shared.incoming.lock().await;
        if !request.chunk.is_empty() {
            return incoming.take(&self.shared.store.snapshots(), vote, &request).map(|()| None);
        }
        if let Some(vote) = incoming.installed(&request.transfer) {
            return Ok(Some(vote));
        }
        let (meta, file) = incoming.finish(&request).await?;
        if meta.last_log_id.is_some_and(|last| last.leader_id.term > vote.leader_id.term) {
            return Err(Status::invalid_argument("the snapshot is newer than the leader that sent it"));
        }
        let snapshot = Snapshot { meta, snapshot: SnapshotData::File(file) };
        let answer =
            self.raft().install_full_snapshot(vote, snapshot).await.map_err(|error| stopped(&error))?;
        incoming.remember(request.transfer, answer.vote);
        Ok(Some(answer.vote))
    }
}

#[tonic::async_trait]
impl pb::raft_service_server::RaftService for PeerService {
    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let request = request.into_inner();
        self.check_target(request.to)?;
        let vote = codec::require_vote(request.vote.as_ref()).map_err(|error| invalid(&error))?;
        let mut rpc = VoteRequest::new(vote, request.last_log_id.as_ref().map(codec::read_log_id));
        rpc.leadership_transfer = request.leadership_transfer;
        let answer =
            if request.pre_vote { self.raft().pre_vote(rpc).await } else { self.raft().vote(rpc).await };
        let answer = answer.map_err(|error| stopped(&error))?;
        Ok(Response::new(pb::VoteResponse {
            vote: Some(codec::vote(&answer.vote)),
            vote_granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id),
        }))
    }

    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesResponse>, Status> {
        let rpc = self.read_append(request.into_inner())?;
        let answer = self.raft().append_entries(rpc).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(append_response(answer)))
    }

    type StreamAppendStream = BoxStream<'static, Result<pb::StreamAppendResponse, Status>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<pb::StreamAppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        // Why no more is read: told after what was read before is answered.
        let (refuse, mut refused) = oneshot::channel();
        let reading = (self.clone(), request.into_inner(), refuse);
        let rpcs = stream::unfold(reading, |(service, mut requests, refuse)| async move {
            let request = requests.message().await.transpose()?;
            match request.and_then(|request| service.read_append(request.append.unwrap_or_default())) {
                Ok(rpc) => Some((rpc, (service, requests, refuse))),
                Err(status) => {
                    let _ = refuse.send(status);
                    None
                }
            }
        });
        let answers = self.raft().stream_append(rpcs).map(|answer| match answer {
            Ok(taken) => Ok(pb::StreamAppendResponse { append: Some(append_response(taken.into())) }),
            Err(fatal) => Err(stopped(&fatal)),
        });
        let end = stream::once(async move { refused.try_recv().ok() });
        let end = end.filter_map(|status| future::ready(status.map(Err)));
        Ok(Response::new(answers.chain(end).boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<pb::InstallSnapshotRequest>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        self.check_target(request.to)?;
        // In a task of its own, which a connection that breaks does not end: what was begun is carried out, and
        // the same call, made again, waits and is told the same.
        let receiving = balsa_rt::spawn(TaskKind::Connection, async move { service.receive(request).await });
        let received = receiving.await.ok().flatten();
        let vote = received.unwrap_or_else(|| Err(Status::aborted("the snapshot was not received")))?;
        Ok(Response::new(pb::InstallSnapshotResponse { vote: vote.as_ref().map(codec::vote) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        use pb::transfer_leader_response::Result as Wire;
        let request = request.into_inner();
        let from = codec::require_vote(request.from_leader.as_ref()).map_err(|error| invalid(&error))?;
        let last = request.last_log_id.as_ref().map(codec::read_log_id);
        let rpc = TransferLeaderRequest::new(from, request.to_node_id, last);
        let answer = self.raft().handle_transfer_leader(rpc).await.map_err(|error| stopped(&error))?;
        let result = match answer {
            Ok(()) => Wire::Accepted(pb::Blank {}),
            Err(error) => Wire::Refused(error.to_string()),
        };
        Ok(Response::new(pb::TransferLeaderResponse { result: Some(result) }))
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        use pb::propose_response::Result as Wire;
        let request = request.into_inner();
        self.check_target(request.to)?;
        // Never forwarded again: two servers that each take the other for the leader would play ball.
        let result = match self.shared.propose_here(request.payload, None).await {
            Ok((index, reply)) => Wire::Applied(pb::Applied { index: index.0, reply }),
            Err(ProposeError::NotLeader { leader }) => Wire::NotLeader(pb::NotLeader { leader }),
            Err(ProposeError::Shutdown) => Wire::NotLeader(pb::NotLeader { leader: None }),
            Err(ProposeError::Unknown) => Wire::Unknown(pb::Blank {}),
            Err(ProposeError::Overloaded) => Wire::Overloaded(pb::Blank {}),
            Err(ProposeError::TooLarge { limit, .. }) => Wire::TooLarge(limit as u64),
            Err(ProposeError::Fatal(reason)) => Wire::Fatal(reason),
        };
        Ok(Response::new(pb::ProposeResponse { result: Some(result) }))
    }

    type FetchSnapshotStream = BoxStream<'static, Result<pb::FetchSnapshotResponse, Status>>;

    async fn fetch_snapshot(
        &self,
        request: Request<pb::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        self.check_target(request.into_inner().to)?;
        if self.shared.suspect.load(Ordering::Acquire) {
            return Err(Status::failed_precondition("the tables of this server are not to be trusted"));
        }
        let chunks = crate::network::chunks(SnapshotData::Tables(self.shared.store.clone()));
        let chunks = chunks.map(|chunk| Ok(pb::FetchSnapshotResponse { chunk }));
        Ok(Response::new(chunks.boxed()))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        use pb::read_index_response::Result as Wire;
        self.check_target(request.into_inner().to)?;
        let result = match crate::read_index::confirmed_index(self.raft()).await {
            Ok(index) => Wire::Index(index.0),
            Err(ReadError::NotLeader { leader }) => Wire::NotLeader(pb::NotLeader { leader }),
            Err(ReadError::Unavailable) => Wire::Unavailable(pb::Blank {}),
            Err(ReadError::Shutdown | ReadError::Distrusted) => {
                Wire::NotLeader(pb::NotLeader { leader: None })
            }
            Err(ReadError::Fatal(reason)) => Wire::Fatal(reason),
        };
        Ok(Response::new(pb::ReadIndexResponse { result: Some(result) }))
    }
}

fn append_response(answer: AppendEntriesResponse<Types>) -> pb::AppendEntriesResponse {
    use pb::append_entries_response::{Partial, Result as Wire};
    let result = match answer {
        AppendEntriesResponse::Success => Wire::Success(pb::Blank {}),
        AppendEntriesResponse::PartialSuccess(matched) => {
            Wire::Partial(Partial { matched: matched.as_ref().map(codec::log_id) })
        }
        AppendEntriesResponse::Conflict => Wire::Conflict(pb::Blank {}),
        AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(codec::vote(&vote)),
    };
    pb::AppendEntriesResponse { result: Some(result) }
}

fn invalid(error: &CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// What a forwarded proposal came to.
pub(crate) fn read_propose(
    response: pb::ProposeResponse,
    size: usize,
) -> Result<(crate::LogIndex, Bytes), ProposeError> {
    use pb::propose_response::Result as Wire;
    match response.result {
        Some(Wire::Applied(applied)) => Ok((crate::LogIndex(applied.index), applied.reply)),
        Some(Wire::NotLeader(other)) => Err(ProposeError::NotLeader { leader: other.leader }),
        Some(Wire::Overloaded(pb::Blank {})) => Err(ProposeError::Overloaded),
        Some(Wire::TooLarge(limit)) => {
            Err(ProposeError::TooLarge { size, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
        }
        // The leader stopped: what it did with the proposal is not known here.
        Some(Wire::Unknown(pb::Blank {}) | Wire::Fatal(_)) | None => Err(ProposeError::Unknown),
    }
}
