//! Many calls in one stream, each answered when it is done.
//!
//! A call by itself costs headers there and back, a task, and more than one turn of the connection; here it costs a
//! message each way, and messages that are there at the same time go together.
//!
//! A server that stops reads no more calls, answers those that it has read, and says that it goes: what has no answer then
//! was not begun, and can be done elsewhere.

use std::sync::Arc;
use std::time::Instant;

use balsa_model::Failure;
use balsa_proto::v1::pipeline_request::Call;
use balsa_proto::{from_status, v1};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::Extensions;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use super::calls::{Answer, Caller};
use super::missing;
use super::objects::Objects;
use crate::rest::Asked;

/// Calls of one stream that are worked on at a time; more are read when one of them is done.
const CALLS: usize = 256;

/// The answers to the calls of a stream, as they are done. It ends with the calls, when they cannot be read, or when the
/// server stops.
pub(super) fn answers(
    objects: Objects,
    request: Request<Streaming<v1::PipelineRequest>>,
) -> impl Stream<Item = Result<v1::PipelineResponse, Status>> {
    let (metadata, extensions, calls) = request.into_parts();
    let (stopping, stopped) = (objects.stopping.clone(), objects.stopping.clone());
    let shared = Arc::new(Pipeline { objects, metadata, extensions });
    let answer = move |call: Result<v1::PipelineRequest, Status>| {
        let shared = shared.clone();
        // What this may grow to is not to be moved about.
        Box::pin(async move { Ok(shared.answer(call?).await) })
    };
    let gone = || Err(Status::unavailable("the server is stopping; calls without an answer were not begun"));
    let last = futures::stream::once(async move { stopped.is_cancelled() });
    let last = last.filter_map(move |stopped| std::future::ready(stopped.then(gone)));
    calls.take_until(stopping.cancelled_owned()).map(answer).buffer_unordered(CALLS).chain(last)
}

/// What the calls of one stream share.
struct Pipeline {
    objects: Objects,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Pipeline {
    /// Does one call: who calls is asked each time, because rights and tokens end.
    async fn answer(&self, request: v1::PipelineRequest) -> v1::PipelineResponse {
        let v1::PipelineRequest { id, call, revision_only } = request;
        let (asked, started) = (Asked::default(), Instant::now());
        let caller = Caller::new(&self.metadata, &self.extensions).of_call(&asked);
        let objects = &self.objects;
        let answer = match call {
            Some(Call::Get(request)) => objects.get_one(&caller, request).await,
            Some(Call::Create(request)) => objects.create_one(&caller, request).await,
            Some(Call::Update(request)) => objects.update_one(&caller, request).await,
            Some(Call::Patch(request)) => objects.patch_one(&caller, request).await,
            Some(Call::Delete(request)) => objects.delete_one(&caller, request).await,
            None => Err(missing("call")),
        };
        let counted = &objects.front.counted;
        match answer {
            Ok(Answer { mut object, warnings }) => {
                counted.call(&asked, started, 200);
                if let Some(object) = object.as_mut().filter(|_| revision_only) {
                    object.json = Bytes::new();
                }
                v1::PipelineResponse { id, object, warnings, error: None }
            }
            Err(status) => {
                let failure: Failure = from_status(&status);
                counted.call(&asked, started, failure.reason.code());
                v1::PipelineResponse { id, error: Some((&failure).into()), ..Default::default() }
            }
        }
    }
}
