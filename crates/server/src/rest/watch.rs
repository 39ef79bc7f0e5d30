//! Watches: newline-delimited events, flushed as they come, from bytes that all watchers share.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, KindRef, Reason};
use balsa_rt::Clock;
use balsa_state::{Event, Start, Watch};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accept::{self, Form};
use super::query::WatchStart;
use super::respond::Shown;
use super::{ResourceCall, counted, respond};
use crate::engine::{Begin, watch_failed};
use crate::fairness;

/// How long a watch lasts when the client names no time, in seconds: the reference server's range.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// How often a quiet watch tells how far it is.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// Serves a watch.
pub(super) async fn serve(call: ResourceCall) -> Result<Response, Failure> {
    let who = call.authorize("watch")?;
    let query = &call.call.query;
    let shown = Shown::new(accept::negotiate_watch(&call.call.headers)?, query.get("includeObject"))?;
    let filter = query.filter(call.kind.descriptor(), &call.path.namespace, &call.path.name)?;
    let WatchStart { start, at_least, marks_initial } = query.watch_start()?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let timeout = query
        .timeout()?
        .unwrap_or_else(|| Duration::from_secs(balsa_rt::Random.random_range(DEFAULT_SECONDS)));
    let watching = call.call.front.fairness.watch(&call.call.user)?;
    let held = (watching, counted::Watching::begin(call.kind.descriptor().plural));
    let engine = call.call.front.engine.clone();
    let (kind, clock, deadline) = (call.kind, engine.clock().clone(), Instant::now() + timeout);
    let lines = move |watch| Lines {
        watch,
        kind,
        shown,
        clock,
        bookmarks,
        marks_initial,
        told_columns: false,
        deadline,
        ended: false,
        _held: held,
    };
    let is_behind = matches!(start, Start::After(revision) if engine.state().revision() < revision);
    let begin = Begin { start, at_least, patience: None, bookmarks: bookmarks.then_some(BOOKMARKS) };
    let starting = async move { engine.watch(&who, kind, filter, begin).await.map(lines) };
    if is_behind {
        return Ok(late(deadline, starting));
    }
    match starting.await {
        Ok(lines) => Ok(streaming(lines.into_stream())),
        // Clients expect these refusals inside the stream.
        Err(failure) if matches!(failure.reason, Reason::Expired | Reason::Timeout) => Ok(refused(&failure)),
        Err(failure) => Err(failure),
    }
}

/// The watch of a server that is behind: it has begun, and is as silent as those that began before. What makes it end but that
/// it never can begin is no news of its own: clients come back.
fn late(
    deadline: Instant,
    starting: impl Future<Output = Result<Lines, Failure>> + Send + 'static,
) -> Response {
    let lines = async move {
        match tokio::time::timeout_at(deadline, starting).await {
            Ok(Ok(lines)) => lines.into_stream().boxed(),
            Ok(Err(failure)) if failure.reason == Reason::Expired => once(error_line(&failure)).boxed(),
            Ok(Err(_)) | Err(_) => futures::stream::empty().boxed(),
        }
    };
    streaming(lines.flatten_stream())
}

fn refused(failure: &Failure) -> Response {
    streaming(once(error_line(failure)))
}

fn once(line: Bytes) -> impl futures::Stream<Item = Bytes> + Send {
    futures::stream::iter([line])
}

fn streaming(lines: impl futures::Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>)));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error_line(failure: &Failure) -> Bytes {
    let mut line =
        serde_json::to_vec(&json!({"type": "ERROR", "object": failure.to_status()})).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// A watch on its way to lines.
struct Lines {
    watch: Watch,
    kind: KindRef,
    shown: Shown,
    clock: Clock,
    bookmarks: bool,
    marks_initial: bool,
    told_columns: bool,
    deadline: Instant,
    ended: bool,
    _held: (Option<fairness::Watching>, counted::Watching),
}

impl Lines {
    fn into_stream(self) -> impl futures::Stream<Item = Bytes> + Send {
        futures::stream::unfold(self, |mut lines| async move {
            let chunk = lines.next_chunk().await?;
            Some((chunk, lines))
        })
    }

    /// The lines of the events that are there; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            let batch = tokio::time::timeout_at(self.deadline, self.watch.next_batch()).await;
            let chunk = match batch {
                Err(_elapsed) => {
                    self.ended = true;
                    self.last_bookmark()
                }
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    self.ended = true;
                    error_line(&watch_failed(&error))
                }
                Ok(Some(Ok(events))) => self.render(&events),
            };
            if !chunk.is_empty() {
                return Some(chunk);
            }
        }
    }

    fn last_bookmark(&mut self) -> Bytes {
        let event = self.watch.bookmark().filter(|_| self.bookmarks);
        event.map(|event| self.render(&[event])).unwrap_or_default()
    }

    fn render(&mut self, events: &[Event]) -> Bytes {
        if let [event] = events
            && self.shown.form == Form::Whole
            && self.is_wanted(event)
        {
            return event.json_line();
        }
        let mut out = BytesMut::new();
        for event in events {
            if !self.is_wanted(event) {
                continue;
            }
            match self.shown.form {
                Form::Whole => out.extend_from_slice(&event.json_line()),
                Form::Table | Form::Metadata | Form::MetadataList => {
                    let object = self.transformed(event);
                    let line = json!({"type": event.type_name(), "object": object});
                    out.extend_from_slice(line.to_string().as_bytes());
                    out.extend_from_slice(b"\n");
                }
            }
        }
        out.freeze()
    }

    fn is_wanted(&self, event: &Event) -> bool {
        match event {
            Event::Bookmark(..) => self.bookmarks,
            Event::InitialEnd(..) => self.marks_initial && self.bookmarks,
            _ => true,
        }
    }

    fn transformed(&mut self, event: &Event) -> Value {
        let Some(object) = event.object() else { return self.transformed_bookmark(event) };
        if self.shown.form != Form::Table {
            return respond::partial(object, &self.shown);
        }
        let meta = json!({"resourceVersion": object.revision().to_string()});
        let with_columns = !std::mem::replace(&mut self.told_columns, true);
        respond::table(
            self.kind,
            std::slice::from_ref(object),
            &meta,
            self.clock.now(),
            &self.shown,
            with_columns,
        )
    }

    fn transformed_bookmark(&mut self, event: &Event) -> Value {
        let mut meta = json!({"resourceVersion": event.revision().to_string()});
        if matches!(event, Event::InitialEnd(..)) {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let with_columns = !std::mem::replace(&mut self.told_columns, true);
        respond::bookmark(self.kind, &meta, &self.shown, self.clock.now(), with_columns)
    }
}
