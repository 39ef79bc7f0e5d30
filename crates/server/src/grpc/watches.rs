//! Watches through gRPC: one in a stream, or many.

use std::time::Duration;

use balsa_model::selector::Filter;
use balsa_model::{Failure, KindRef, Reason, Revision};
use balsa_proto::{from_status, to_status, v1};
use balsa_state::{Event, Start, Watch};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::{Request, Status};

use super::calls::{Caller, failed, object};
use super::objects::{Messages, Objects, filter_of};
use super::sharing::share;
use super::{kind_of, missing};
use crate::authorize::{Attributes, Authorized};
use crate::engine::{Begin, watch_failed};
use crate::rest;

/// How often a quiet watch tells how far it is.
const BOOKMARKS: Duration = Duration::from_secs(10);
/// Watches in one stream.
const WATCHES: usize = 4096;
/// How many of them are started at a time: they share what a follower must ask the leader first.
const WATCHES_STARTING: usize = 16;
/// Messages of one stream among which those are looked for that can be shared.
const TOGETHER: usize = 256;

impl Objects {
    /// One watch.
    pub(super) async fn watch_one(
        &self,
        request: &Request<v1::WatchRequest>,
    ) -> Result<Messages<v1::WatchResponse>, Status> {
        let (kind, filter, wanted) = watch_of(request.get_ref())?;
        let (who, _seat) = self.admit(&Caller::of(request), &wanted).await?;
        self.watched(&who, kind, filter, request.get_ref().after_revision).await
    }

    /// Many watches.
    pub(super) async fn watch_all(
        &self,
        request: &Request<v1::WatchManyRequest>,
    ) -> Result<Messages<v1::WatchManyResponse>, Status> {
        let v1::WatchManyRequest { watches, shared } = request.get_ref();
        let Some(first) = watches.first() else {
            return Err(missing("watches"));
        };
        if watches.len() > WATCHES {
            return Err(failed(Failure::bad_request(format!("at most {WATCHES} watches in one stream"))));
        }
        // One call, and so one seat: that of its first watch.
        let (_, _, wanted) = watch_of(first)?;
        let (_, _seat) = self.admit(&Caller::of(request), &wanted).await?;
        let starting =
            futures::stream::iter((0..watches.len()).map(|number| self.one_of_many(request, number)));
        let streams: Vec<_> = starting.buffered(WATCHES_STARTING).try_collect().await?;
        let messages = futures::stream::select_all(streams);
        if !shared {
            return Ok(messages.map(Ok).boxed());
        }
        let shared = messages.ready_chunks(TOGETHER).map(share).flat_map(futures::stream::iter);
        Ok(shared.map(Ok).boxed())
    }

    /// One of several watches: its events, and why it ended. One that has expired is told so in the stream: it has to
    /// begin anew, and nobody could tell which if all were refused for it.
    async fn one_of_many(
        &self,
        request: &Request<v1::WatchManyRequest>,
        number: usize,
    ) -> Result<BoxStream<'static, v1::WatchManyResponse>, Status> {
        let watch = &request.get_ref().watches[number];
        let (kind, filter, wanted) = watch_of(watch)?;
        let who = self.prove(&Caller::of(request), &wanted)?;
        let messages = match self.watched(&who, kind, filter, watch.after_revision).await {
            Err(status) if from_status(&status).reason == Reason::Expired => {
                futures::stream::iter([Err(status)]).boxed()
            }
            started => started?,
        };
        let watch = u32::try_from(number).unwrap_or(u32::MAX);
        let message = move |message| match message {
            Ok(v1::WatchResponse { events }) => v1::WatchManyResponse { watch, events, ..Default::default() },
            Err(status) => {
                let error = Some(v1::ErrorDetails::from(&from_status(&status)));
                v1::WatchManyResponse { watch, error, ..Default::default() }
            }
        };
        Ok(messages.map(message).boxed())
    }

    async fn watched(
        &self,
        who: &Authorized,
        kind: KindRef,
        filter: Filter,
        after_revision: u64,
    ) -> Result<Messages<v1::WatchResponse>, Status> {
        let watching = self.front.fairness.watch(who.user()).map_err(failed)?;
        let start = match after_revision {
            0 => Start::Initial,
            revision => Start::After(Revision(revision)),
        };
        let begin = Begin::at(start, BOOKMARKS);
        let watch = self.front.engine.watch(who, kind, filter, begin).await.map_err(failed)?;
        let counted = rest::Watching::begin(kind.descriptor().plural);
        Ok(watch_messages(watch, (watching, counted)))
    }
}

/// What a watch is of, and what somebody wants who asks for it.
fn watch_of(watch: &v1::WatchRequest) -> Result<(KindRef, Filter, Attributes), Status> {
    let kind = kind_of(watch.resource.as_ref())?;
    let (filter, mut wanted) = filter_of(watch.selection.clone(), kind.descriptor())?;
    wanted.verb = "watch".to_owned();
    Ok((kind, filter, wanted))
}

/// `held` is let go when the stream ends.
fn watch_messages<T: Send + 'static>(watch: Watch, held: T) -> Messages<v1::WatchResponse> {
    futures::stream::unfold(Some((watch, held)), |watch| async {
        let (mut watch, held) = watch?;
        match watch.next_batch().await? {
            Ok(events) => {
                let events = events.iter().map(event_message).collect();
                Some((Ok(v1::WatchResponse { events }), Some((watch, held))))
            }
            Err(error) => Some((Err(to_status(&watch_failed(&error))), None)),
        }
    })
    .boxed()
}

fn event_message(event: &Event) -> v1::WatchEvent {
    use v1::watch_event::Type;
    let kind = match event {
        Event::Added(_) => Type::Added,
        Event::Modified(_) => Type::Modified,
        Event::Deleted(_) => Type::Deleted,
        Event::Bookmark(..) => Type::Bookmark,
        Event::InitialEnd(..) => Type::Synced,
    };
    v1::WatchEvent {
        r#type: kind.into(),
        revision: event.revision().0,
        object: event.object().and_then(|found| object(found)),
    }
}
