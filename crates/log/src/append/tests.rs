//! A follower that does as it is told, behind a pipe.
#![allow(clippy::unwrap_used)]

use std::future;
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use openraft::raft::StreamAppendError::Conflict;
use openraft::{RaftNetworkFactory as _, RaftNetworkV2 as _};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response};

use super::*;
use crate::codec::pb::raft_service_server::{RaftService, RaftServiceServer};
use crate::error::LogError;
use crate::network::Network;
use crate::transport::{Connector, TransportConfig};
use crate::types::{Entry, EntryPayload, Payload, Place, Term, Vote};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    /// Never answers on a stream.
    Silent,
    /// Has not the entry with this index.
    Lacks(u64),
    /// Knows no streams.
    Older,
}

/// What it was asked for: with a call of its own or on a stream, and up to which entry.
type Asked = Arc<Mutex<Vec<(&'static str, u64)>>>;

#[derive(Clone)]
struct Follower {
    manner: Manner,
    asked: Asked,
}

impl Follower {
    fn answer(&self, how: &'static str, request: &pb::AppendEntriesRequest) -> pb::AppendEntriesResponse {
        use pb::append_entries_response::Result as Wire;
        let prev = request.prev_log_id.map_or(0, |prev| prev.index);
        self.asked.lock().unwrap().push((how, prev + request.entries.len() as u64));
        let result = match self.manner {
            Manner::Lacks(index) if prev == index => Wire::Conflict(pb::Blank {}),
            _ => Wire::Success(pb::Blank {}),
        };
        pb::AppendEntriesResponse { result: Some(result) }
    }
}

type Answered<T> = Result<Response<T>, Status>;

fn not_asked<T>() -> Answered<T> {
    Err(Status::unimplemented("not in these tests"))
}

#[tonic::async_trait]
impl RaftService for Follower {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Answered<pb::AppendEntriesResponse> {
        Ok(Response::new(self.answer("call", request.get_ref())))
    }

    type StreamAppendStream = BoxStream<'static, Result<pb::StreamAppendResponse, Status>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<pb::StreamAppendRequest>>,
    ) -> Answered<Self::StreamAppendStream> {
        let follower = self.clone();
        follower.asked.lock().unwrap().push(("open", 0));
        if follower.manner == Manner::Older {
            return not_asked();
        }
        let answers = request.into_inner().filter_map(move |request| {
            let answer = request.map(|request| {
                let append = Some(follower.answer("stream", &request.append.unwrap()));
                pb::StreamAppendResponse { append }
            });
            future::ready((follower.manner != Manner::Silent).then_some(answer))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(&self, _: Request<pb::VoteRequest>) -> Answered<pb::VoteResponse> {
        not_asked()
    }

    async fn install_snapshot(
        &self,
        _: Request<pb::InstallSnapshotRequest>,
    ) -> Answered<pb::InstallSnapshotResponse> {
        not_asked()
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Answered<pb::TransferLeaderResponse> {
        not_asked()
    }

    async fn propose(&self, _: Request<pb::ProposeRequest>) -> Answered<pb::ProposeResponse> {
        not_asked()
    }

    async fn read_index(&self, _: Request<pb::ReadIndexRequest>) -> Answered<pb::ReadIndexResponse> {
        not_asked()
    }

    type FetchSnapshotStream = BoxStream<'static, Result<pb::FetchSnapshotResponse, Status>>;

    async fn fetch_snapshot(
        &self,
        _: Request<pb::FetchSnapshotRequest>,
    ) -> Answered<Self::FetchSnapshotStream> {
        not_asked()
    }
}

struct Pipe(Channel);

impl Connector for Pipe {
    fn connect(&self, _: NodeId, _: &str, _: Lane) -> Result<Channel, LogError> {
        Ok(self.0.clone())
    }
}

/// A leader's way to a follower of that manner, and what that is asked for.
async fn peer(manner: Manner) -> (Peer, Asked) {
    let asked = Asked::default();
    let (connections, incoming) = mpsc::unbounded_channel();
    let service = RaftServiceServer::new(Follower { manner, asked: asked.clone() });
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(UnboundedReceiverStream::new(incoming).map(Ok::<_, std::io::Error>));
    balsa_rt::spawn(balsa_rt::TaskKind::Test, serving);
    let dial = move |_: http::Uri| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let taken = connections.send(theirs).map(|()| hyper_util::rt::TokioIo::new(ours));
        future::ready(taken.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
    };
    let channel = Endpoint::from_static("http://pipe").connect_with_connector_lazy(tower::service_fn(dial));
    let mut network = Network { transport: TransportConfig::with_connector(Arc::new(Pipe(channel))) };
    (network.new_client(2, &Place::default()).await, asked)
}

fn id(index: u64) -> LogId {
    LogId::new(Term::new(1), index)
}

/// `count` entries after `prev`.
fn append(prev: u64, count: u64) -> AppendEntriesRequest<Types> {
    let entry = |index| Entry { log_id: id(index), payload: EntryPayload::Normal(Payload("x".into())) };
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(id(prev)),
        entries: (prev + 1..=prev + count).map(entry).collect(),
        leader_commit: Some(id(prev)),
    }
}

async fn answers(
    peer: &mut Peer,
    input: impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
) -> BoxStream<'_, Answer> {
    peer.stream_append(input, RPCOption::new(Duration::from_millis(50))).await.unwrap()
}

/// What openraft sends one after another, and then nothing for a while.
fn requests(
    ranges: &[(u64, u64)],
) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static {
    let ranges: Vec<_> = ranges.iter().map(|(prev, count)| append(*prev, *count)).collect();
    stream::iter(ranges).chain(stream::pending())
}

fn is_up_to(answer: Option<Answer>, index: u64) -> bool {
    matches!(answer, Some(Ok(Ok(Some(matched)))) if matched == id(index))
}

#[tokio::test(start_paused = true)]
async fn entries_and_what_follows_them_go_on_one_stream() {
    let (mut peer, asked) = peer(Manner::Takes).await;
    let input = requests(&[(5, 0), (5, 1), (6, 0), (6, 3), (9, 1), (10, 0)]);
    let mut answers = answers(&mut peer, input).await;
    for index in [5, 6, 6, 9, 10, 10] {
        assert!(is_up_to(answers.next().await, index), "{index}");
    }
    let expected = [("call", 5), ("open", 0), ("stream", 6), ("stream", 6), ("stream", 9), ("stream", 10)];
    assert_eq!(asked.lock().unwrap()[..6], expected);
    assert!(answers.next().await.is_none(), "a stream ends in good order when it has lasted long enough");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_ends_it() {
    let (mut peer, asked) = peer(Manner::Lacks(7)).await;
    let mut answers = answers(&mut peer, requests(&[(6, 1), (7, 1), (8, 1), (9, 1), (10, 1)])).await;
    assert!(is_up_to(answers.next().await, 7));
    assert!(matches!(answers.next().await, Some(Ok(Err(Conflict(at)))) if at == id(7)));
    assert!(answers.next().await.is_none());
    assert!(asked.lock().unwrap().len() <= 2 + WINDOW, "nothing is sent for ever on a stream that has ended");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_does_not_answer_is_given_up() {
    let (mut peer, asked) = peer(Manner::Silent).await;
    let begun = Instant::now();
    let mut answers = answers(&mut peer, requests(&[(1, 1), (2, 1), (3, 1), (4, 1)])).await;
    assert!(matches!(answers.next().await, Some(Err(RpcError::Network(_)))));
    assert!((APPEND_TIMEOUT..APPEND_TIMEOUT * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(answers.next().await.is_none());
    assert_eq!(asked.lock().unwrap().len(), 1 + WINDOW, "no more is under way than the room allows");
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_an_older_build_is_called_and_asked_again_later() {
    let (mut peer, asked) = peer(Manner::Older).await;
    let mut session = answers(&mut peer, requests(&[(1, 1), (2, 1), (3, 0)])).await;
    for index in [2, 3, 3] {
        assert!(is_up_to(session.next().await, index), "{index}");
    }
    drop(session);
    assert_eq!(*asked.lock().unwrap(), [("open", 0), ("call", 2), ("call", 3), ("call", 3)]);
    tokio::time::advance(LIFE).await;
    let mut session = answers(&mut peer, requests(&[(3, 1)])).await;
    assert!(is_up_to(session.next().await, 4));
    assert_eq!(asked.lock().unwrap()[4..], [("open", 0), ("call", 4)]);
}

#[tokio::test(start_paused = true)]
async fn who_stops_listening_has_the_requests_back() {
    let (mut peer, _) = peer(Manner::Takes).await;
    let (held, mut given_back) = tokio::sync::oneshot::channel::<()>();
    let input = requests(&[(1, 1)]).inspect(move |_| assert!(!held.is_closed()));
    let mut session = answers(&mut peer, input).await;
    assert!(is_up_to(session.next().await, 2));
    assert!(
        given_back.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty)
    );
    drop(session);
    let gone = given_back.try_recv().unwrap_err();
    assert_eq!(gone, tokio::sync::oneshot::error::TryRecvError::Closed, "openraft locks what they come from");
}
