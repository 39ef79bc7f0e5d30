//! Entries on their way to one follower: one long call, on which they follow each other without waiting for answers.
//!
//! ```text
//!  openraft ── requests, WINDOW at most ──► the lane of entries ──► the follower's openraft
//!  openraft ◄── answers, in the order of the requests ◄──────────── when it has synced
//! ```
//!
//! A call of its own for each append costs both sides more than what is in it: its headers and trailers, its tasks
//! and their wake-ups. What has no entries while no stream is open (heartbeats above all) remains such a call, in the
//! lane of control; and so does everything to a follower of a build that has no streams.
//!
//! A stream ends after [`LIFE`] and is opened anew: certificates that were renewed, and members that were
//! removed, count from then on. Whatever goes wrong ends it, and openraft begins again where the follower's log ends.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::base::BoxStream;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::codec::{self, CodecError, pb};
use crate::network::{APPEND_TIMEOUT, Peer, RpcError, in_time, unreadable};
use crate::transport::Lane;
use crate::types::{LogId, NodeId, Types};

/// Requests under way at most. One is being synced while the next is being sent; what openraft has beyond that
/// collects, and goes as one.
const WINDOW: usize = 2;
/// How long a stream lasts, and how long a follower that knows none is not asked again.
pub(crate) const LIFE: Duration = Duration::from_secs(60);
/// Between two looks whether an answer is overdue.
const LOOK: Duration = Duration::from_millis(500);

/// What openraft is told of one request.
type Answer = Result<StreamAppendResult<Types>, RpcError>;

/// Has everything that `input` brings appended by the other server, until one is not taken.
pub(crate) fn stream<'s, S>(peer: &'s mut Peer, input: S, option: RPCOption) -> BoxStream<'s, Answer>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    let appending = Appending { peer, option, way: Way::Calls(input) };
    Box::pin(stream::unfold(appending, |mut appending| async move {
        let answer = appending.next().await?;
        Some((answer, appending))
    }))
}

struct Appending<'s, S> {
    peer: &'s mut Peer,
    option: RPCOption,
    way: Way<S>,
}

/// How the next request goes.
enum Way<S> {
    /// By itself, or as the first of a stream.
    Calls(S),
    Stream(Box<Call<S>>),
    /// Not at all.
    Ended,
}

impl<S> Appending<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    /// The next answer; `None` when there is none to come.
    async fn next(&mut self) -> Option<Answer> {
        let answer = match &mut self.way {
            Way::Calls(input) => {
                let request = input.next().await?;
                if request.entries.is_empty() || self.peer.knows_no_streams() {
                    Some(self.call(request).await)
                } else {
                    self.open(request).await
                }
            }
            Way::Stream(call) => call.next(self.peer).await,
            Way::Ended => None,
        };
        if !answer.as_ref().is_some_and(|answer| answer.as_ref().is_ok_and(|taken| taken.wholly)) {
            self.way = Way::Ended;
        }
        answer.map(|answer| answer.map(|taken| taken.result))
    }

    async fn call(&mut self, request: AppendEntriesRequest<Types>) -> Result<Taken, RpcError> {
        let range = Range::of(&request);
        range.taken(self.peer.append(request, &self.option).await?)
    }

    /// Opens a stream for `first` and all that follows; the answer to `first`.
    async fn open(&mut self, first: AppendEntriesRequest<Types>) -> Option<Result<Taken, RpcError>> {
        let (requests, sent) = mpsc::channel(WINDOW);
        let mut client = match self.peer.client(Lane::Entries) {
            Ok(client) => client,
            Err(error) => return Some(Err(error)),
        };
        match in_time(APPEND_TIMEOUT, client.stream_append(ReceiverStream::new(sent))).await {
            Ok(opened) => {
                let Way::Calls(input) = std::mem::replace(&mut self.way, Way::Ended) else { return None };
                let mut call = Call {
                    to: self.peer.target(),
                    input,
                    requests: Some(requests),
                    unanswered: VecDeque::with_capacity(WINDOW),
                    responses: opened.into_inner(),
                    opened: Instant::now(),
                    look: tokio::time::interval_at(Instant::now() + LOOK, LOOK),
                };
                call.send(&first);
                let answer = call.next(self.peer).await;
                self.way = Way::Stream(Box::new(call));
                answer
            }
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::info!(
                    to = self.peer.target(),
                    "a server of an older build is sent entries call by call"
                );
                self.peer.learn_no_streams();
                Some(self.call(first).await)
            }
            Err(status) => Some(Err(self.peer.failed(&status))),
        }
    }
}

/// A stream that is open. What openraft brings is taken here, and not by the task that sends: openraft begins anew
/// as soon as this is dropped, and the old `input` must be gone then.
struct Call<S> {
    to: NodeId,
    input: S,
    /// `None` when no more is to be sent.
    requests: Option<mpsc::Sender<pb::StreamAppendRequest>>,
    /// Requests under way, in their order.
    unanswered: VecDeque<(Range, Instant)>,
    responses: Streaming<pb::StreamAppendResponse>,
    opened: Instant,
    look: Interval,
}

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Call<S> {
    /// Sends what there is, as far as there is room, until there is an answer.
    async fn next(&mut self, peer: &Peer) -> Option<Result<Taken, RpcError>> {
        let response = loop {
            let sends = self.requests.is_some() && self.unanswered.len() < WINDOW;
            tokio::select! {
                biased;
                response = self.responses.message() => break response,
                request = self.input.next(), if sends => match request {
                    Some(request) => self.send(&request),
                    None => self.requests = None,
                },
                _ = self.look.tick() => if let Err(late) = self.look() {
                    break Err(late);
                },
            }
        };
        match response {
            Ok(Some(response)) => Some(self.answered(&response)),
            Ok(None) => None,
            Err(status) => Some(Err(peer.failed(&status))),
        }
    }

    fn send(&mut self, rpc: &AppendEntriesRequest<Types>) {
        self.unanswered.push_back((Range::of(rpc), Instant::now()));
        let request = pb::StreamAppendRequest { append: Some(request(self.to, rpc)) };
        // There is room for as many as may be under way. When the call has ended, its answers say how.
        let _ = self.requests.as_ref().map(|requests| requests.try_send(request));
    }

    /// `response` is to the oldest request.
    fn answered(&mut self, response: &pb::StreamAppendResponse) -> Result<Taken, RpcError> {
        let missing = |what| unreadable(&CodecError::Missing(what));
        let oldest = self.unanswered.pop_front();
        let (range, _) = oldest.ok_or_else(|| missing("the request"))?;
        range.taken(read_response(response.append.as_ref().ok_or_else(|| missing("append"))?)?)
    }

    fn look(&mut self) -> Result<(), Status> {
        if self.unanswered.front().is_some_and(|(_, sent)| sent.elapsed() > APPEND_TIMEOUT) {
            return Err(Status::deadline_exceeded("no answer in time"));
        }
        if self.opened.elapsed() >= LIFE {
            // It ends when what is under way is answered.
            self.requests = None;
        }
        Ok(())
    }
}

/// The part of the log that a request carries: what is after `prev`, up to `last`.
struct Range {
    prev: Option<LogId>,
    last: Option<LogId>,
}

/// What became of a request, and whether the next one follows upon it.
struct Taken {
    result: StreamAppendResult<Types>,
    wholly: bool,
}

impl Range {
    fn of(request: &AppendEntriesRequest<Types>) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Self { prev: request.prev_log_id, last }
    }

    fn taken(self, response: AppendEntriesResponse<Types>) -> Result<Taken, RpcError> {
        let result = match response {
            AppendEntriesResponse::Success => Ok(self.last),
            AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
            AppendEntriesResponse::Conflict => {
                let nothing_before = || unreadable(&CodecError::Missing("what conflicts"));
                Err(StreamAppendError::Conflict(self.prev.ok_or_else(nothing_before)?))
            }
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        };
        let wholly = result.as_ref().is_ok_and(|matched| *matched == self.last);
        Ok(Taken { result, wholly })
    }
}

/// A request as it is sent.
pub(crate) fn request(to: NodeId, rpc: &AppendEntriesRequest<Types>) -> pb::AppendEntriesRequest {
    pb::AppendEntriesRequest {
        to,
        vote: Some(codec::vote(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(codec::log_id),
        entries: rpc.entries.iter().map(codec::entry).collect(),
        leader_commit: rpc.leader_commit.as_ref().map(codec::log_id),
    }
}

/// A response as openraft has it.
pub(crate) fn read_response(
    response: &pb::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<Types>, RpcError> {
    use pb::append_entries_response::Result as Wire;
    match &response.result {
        Some(Wire::Success(pb::Blank {})) => Ok(AppendEntriesResponse::Success),
        Some(Wire::Partial(partial)) => {
            Ok(AppendEntriesResponse::PartialSuccess(partial.matched.as_ref().map(codec::read_log_id)))
        }
        Some(Wire::Conflict(pb::Blank {})) => Ok(AppendEntriesResponse::Conflict),
        Some(Wire::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(codec::read_vote(vote))),
        None => Err(unreadable(&CodecError::Missing("result"))),
    }
}

#[cfg(test)]
mod tests;
