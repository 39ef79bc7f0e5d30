//! openraft's network: calls from this server to the others.

use std::future::{self, Future};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use balsa_rt::Backoff;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::append;
use crate::codec::pb;
use crate::codec::pb::raft_service_client::RaftServiceClient;
use crate::codec::{self, CodecError};
use crate::metrics::SnapshotWork;
use crate::snapshot::{self, SnapshotData};
use crate::transport::{Lane, TransportConfig};
use crate::types::{NodeId, Place, Snapshot, Types, Vote};

/// Bytes of one message of a snapshot stream.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks between the reader of the tables and the network: bounds the memory of a transfer.
const CHUNKS_AHEAD: usize = 4;
/// A piece that is not answered by then is sent again.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transfer waits for a server that does not answer before it is given up, with the old state of the
/// tables that it keeps.
const RESUME_PATIENCE: Duration = Duration::from_secs(60);
/// Entries are answered after the other side synced them, which takes longer than a heartbeat may.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) type RpcError = RPCError<Types>;

/// Makes a [`Peer`] for each other server.
pub(crate) struct Network {
    pub(crate) transport: TransportConfig,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, place: &Place) -> Peer {
        let (transport, address) = (self.transport.clone(), place.address.clone());
        Peer { transport, target, address, no_streams_until: None }
    }
}

/// One other server.
pub(crate) struct Peer {
    transport: TransportConfig,
    target: NodeId,
    address: String,
    /// It is of a build that knows no streams of appends; it may be of another one after this.
    no_streams_until: Option<tokio::time::Instant>,
}

impl Peer {
    pub(crate) fn target(&self) -> NodeId {
        self.target
    }

    pub(crate) fn knows_no_streams(&self) -> bool {
        self.no_streams_until.is_some_and(|until| tokio::time::Instant::now() < until)
    }

    pub(crate) fn learn_no_streams(&mut self) {
        self.no_streams_until = Some(tokio::time::Instant::now() + append::LIFE);
    }

    pub(crate) fn client(&self, lane: Lane) -> Result<RaftServiceClient<Channel>, RpcError> {
        self.transport
            .client(self.target, &self.address, lane)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// Appends with a call of its own.
    pub(crate) async fn append(
        &self,
        rpc: AppendEntriesRequest<Types>,
        option: &RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let (timeout, lane) = match rpc.entries.is_empty() {
            true => (option.hard_ttl(), Lane::Control),
            false => (APPEND_TIMEOUT, Lane::Entries),
        };
        let mut client = self.client(lane)?;
        let call = client.append_entries(append::request(self.target, &rpc));
        append::read_response(&self.within(timeout, call).await?)
    }

    async fn vote_call(
        &self,
        rpc: VoteRequest<Types>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let request = pb::VoteRequest {
            to: self.target,
            vote: Some(codec::vote(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let mut client = self.client(Lane::Control)?;
        let response = self.within(option.hard_ttl(), client.vote(request)).await?;
        let vote = codec::require_vote(response.vote.as_ref()).map_err(|error| unreadable(&error))?;
        let last_log_id = response.last_log_id.as_ref().map(codec::read_log_id);
        Ok(VoteResponse::new(vote, last_log_id, response.vote_granted))
    }
}

impl Peer {
    /// Waits for an answer, at most `timeout`. Only what never arrived, and who does not know us,
    /// counts as unreachable: openraft then backs off.
    async fn within<T>(
        &self,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        let answer = in_time(timeout, call).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    pub(crate) fn failed(&self, status: &tonic::Status) -> RpcError {
        use tonic::Code;
        if status.code() == Code::PermissionDenied {
            self.transport.refused(self.target, status.message());
        }
        match status.code() {
            Code::Unavailable | Code::PermissionDenied => RPCError::Unreachable(Unreachable::new(status)),
            _ => RPCError::Network(NetworkError::new(status)),
        }
    }
}

impl Peer {
    /// Sends a snapshot piece by piece and has it installed, which may take as long as `install`. Only one piece is
    /// under way, so that the other side's pace is ours and a broken connection costs that piece.
    async fn send_snapshot(
        &self,
        vote: Vote,
        data: SnapshotData,
        install: Duration,
    ) -> Result<Vote, RpcError> {
        let mut pieces = chunks(data);
        let mut request = pb::InstallSnapshotRequest {
            to: self.target,
            vote: Some(codec::vote(&vote)),
            chunk: Bytes::new(),
            transfer: balsa_rt::new_uid(),
            offset: 0,
        };
        while let Some(chunk) = pieces.next().await {
            request.chunk = chunk;
            self.send_piece(&request, PIECE_TIMEOUT).await?;
            request.offset += request.chunk.len() as u64;
        }
        request.chunk = Bytes::new();
        let installed = self.send_piece(&request, install).await?;
        codec::require_vote(installed.vote.as_ref()).map_err(|error| unreadable(&error))
    }

    /// Sends one piece, again and again while the other server cannot be reached.
    async fn send_piece(
        &self,
        request: &pb::InstallSnapshotRequest,
        timeout: Duration,
    ) -> Result<pb::InstallSnapshotResponse, RpcError> {
        let begun = tokio::time::Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let client = self.transport.client(self.target, &self.address, Lane::Snapshots);
            let sent = match client {
                Ok(mut client) => in_time(timeout, client.install_snapshot(request.clone())).await,
                Err(error) => Err(tonic::Status::unavailable(error.to_string())),
            };
            match sent {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if was_out_of_reach(status.code()) && begun.elapsed() < RESUME_PATIENCE => {
                    let offset = request.offset;
                    tracing::info!(to = self.target, offset, %status, "a snapshot is interrupted");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(status) => return Err(self.failed(&status)),
            }
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        self.append(rpc, &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(future::ready(Ok(append::stream(self, input, option))))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.vote_call(rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.vote_call(rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let begun = Instant::now();
        let vote = tokio::select! {
            sent = self.send_snapshot(vote, snapshot.snapshot, option.hard_ttl()) => sent?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        SnapshotWork::Send.done(begun);
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let request = pb::TransferLeaderRequest {
            from_leader: Some(codec::vote(rpc.from_leader())),
            to_node_id: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(codec::log_id),
        };
        let mut client = self.client(Lane::Control)?;
        let response = self.within(option.hard_ttl(), client.transfer_leader(request)).await?;
        use pb::transfer_leader_response::Result as Wire;
        match response.result {
            Some(Wire::Accepted(pb::Blank {})) => Ok(Ok(())),
            Some(Wire::Refused(reason)) => {
                tracing::info!(to = self.target, reason, "the transfer of leadership was refused");
                let expected = *rpc.from_leader();
                Ok(Err(TransferLeaderError::VoteChanged { expected, actual: expected }))
            }
            None => Err(unreadable(&CodecError::Missing("result"))),
        }
    }
}

/// The stream of a snapshot, cut into chunks by a blocking thread that reads just ahead of the
/// network. If it fails the stream ends early, and the receiver refuses what has no checksum.
pub(crate) fn chunks(data: SnapshotData) -> impl Stream<Item = Bytes> + Send + 'static {
    // A simulation has one thread: there the reader does not wait for the network.
    let ahead = if balsa_rt::is_simulated() { 1 << 16 } else { CHUNKS_AHEAD };
    let (sender, receiver) = mpsc::channel(ahead);
    balsa_rt::spawn_blocking(move || {
        let mut out = ChunkWriter { buffer: BytesMut::new(), sender };
        let sent = match data {
            SnapshotData::Tables(store) => snapshot::write(&store, &mut out).map(|_| ()),
            SnapshotData::File(file) => file.copy_to(&mut out).map_err(Into::into),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "sending a snapshot ended early");
        }
    });
    ReceiverStream::new(receiver)
}

struct ChunkWriter {
    buffer: BytesMut,
    sender: mpsc::Sender<Bytes>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        if balsa_rt::is_simulated() {
            return self.sender.try_send(chunk).map_err(|_| gone);
        }
        self.sender.blocking_send(chunk).map_err(|_| gone)
    }
}

/// The answer to a call, if it comes in time.
pub(crate) async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let late = |_| Err(tonic::Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

/// Whether a call that ended like this may do better if it is made again: the other server was out of reach. Connections
/// that break end calls with these; what a server itself says of a piece has other codes, and is final.
fn was_out_of_reach(code: tonic::Code) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(code, Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
}

pub(crate) fn unreadable(error: &CodecError) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}
