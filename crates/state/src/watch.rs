//! A watch: what is there, what changed since, what changes from now on — each once, in revision order.
//!
//! A watch reads from three sources, one after the other: the objects of a view (or the changes since an
//! older revision), then its queue, which the actor fills from the moment the watch was registered. The
//! queue was registered at the revision where the first source ends, so nothing is lost and
//! nothing told twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use balsa_model::kind::KindRef;
use balsa_model::selector::Filter;
use balsa_model::{Key, Revision};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::event::{Event, Version};
use crate::state::State;
use crate::view::KindView;
use crate::watchers::Queue;

/// Events that are handed out at once at most.
const BATCH: usize = 256;

/// From where a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Changes from now on.
    Now,
    /// Changes after this revision.
    After(Revision),
    /// What is there, as `Added`; then `InitialEnd`; then changes.
    Initial,
}

/// What somebody wants to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Objects of this kind; of a face, those that are stored behind it, shown as it has them.
    pub kind: KindRef,
    /// Only these, by the stored kind's fields.
    pub filter: Filter,
    /// From where on.
    pub start: Start,
    /// How often to tell how far the watch has come.
    pub bookmarks: Option<Duration>,
}

/// Why a watch does not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The changes since then are no longer known, or the watcher did not keep up: list again.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// Where the watch wanted to start or had come to.
        requested: Revision,
        /// The oldest revision from which a watch of this kind can start.
        oldest: Revision,
    },
    /// This server does not serve the kind.
    #[error("{0} is not served here")]
    NotServed(String),
    /// The server shuts down.
    #[error("the server is shutting down")]
    Closed,
    /// The history cannot be read.
    #[error(transparent)]
    Table(#[from] crate::tables::TableError),
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    state: State,
    /// What is stored.
    kind: KindRef,
    /// As what it is told.
    shown: KindRef,
    filter: Arc<Filter>,
    initial: Option<Initial>,
    ready: VecDeque<Event>,
    queue: Queue,
    /// Everything up to here has been put into `ready`.
    position: Revision,
    bookmarks: Option<Interval>,
    ended: bool,
}

/// Where the telling of a view has come to.
struct Initial {
    view: KindView,
    cursor: Option<Key>,
}

impl Watch {
    pub(crate) fn new(
        state: State,
        request: WatchRequest,
        filter: Arc<Filter>,
        queue: Queue,
        position: Revision,
    ) -> Self {
        let bookmarks = request.bookmarks.map(|period| {
            let mut interval = interval_at(Instant::now() + period, period.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self {
            state,
            kind: request.kind.stored(),
            shown: request.kind,
            filter,
            initial: None,
            ready: VecDeque::new(),
            queue,
            position,
            bookmarks,
            ended: false,
        }
    }

    pub(crate) fn set_position(&mut self, position: Revision) {
        self.position = position;
    }

    pub(crate) fn begin_with(&mut self, view: KindView) {
        self.position = view.revision();
        self.initial = Some(Initial { view, cursor: None });
    }

    pub(crate) fn tell_first(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.take(event));
    }

    /// The next event; `None` when the server shuts down. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        if self.ready.is_empty()
            && let Err(end) = self.fill().await
        {
            return end.map(Err);
        }
        self.ready.pop_front().map(|event| Ok(self.told(event)))
    }

    /// The next events: all that are there, up to some hundred, at least one.
    pub async fn next_batch(&mut self) -> Option<Result<Vec<Event>, WatchError>> {
        if self.ready.is_empty()
            && let Err(end) = self.fill().await
        {
            return end.map(Err);
        }
        let count = self.ready.len().min(BATCH);
        let batch: Vec<Event> = self.ready.drain(..count).collect();
        if self.shown == self.kind {
            return Some(Ok(batch));
        }
        Some(Ok(batch.into_iter().map(|event| self.told(event)).collect()))
    }

    fn told(&self, event: Event) -> Event {
        if self.shown == self.kind { event } else { event.shown_as(self.shown) }
    }

    /// How far the watch has come, if nothing waits to be told before: to be sent before a stream ends.
    pub fn bookmark(&mut self) -> Option<Event> {
        if self.initial.is_some() || !self.ready.is_empty() || self.ended {
            return None;
        }
        // The order is the proof: what was published up to `revision` was delivered, so it was in the
        // queue before the look into the queue.
        let view = self.state.view(self.kind);
        if self.state.delivered(self.kind) < view.changed() {
            return None;
        }
        match self.queue.events.try_recv() {
            Ok(event) => {
                self.take(event);
                None
            }
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                self.position = self.position.max(view.revision());
                Some(Event::Bookmark(self.shown, self.position))
            }
        }
    }

    fn take(&mut self, event: Event) {
        self.position = event.revision();
        self.ready.push_back(event);
    }

    /// Puts at least one event into `ready`, or says how the watch ends.
    async fn fill(&mut self) -> Result<(), Option<WatchError>> {
        if self.initial.is_some() {
            self.fill_from_view();
            return Ok(());
        }
        let mut events = Vec::new();
        while self.ready.is_empty() {
            if self.ended {
                return Err(None);
            }
            tokio::select! {
                biased;
                count = self.queue.events.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return Err(self.end());
                    }
                    events.drain(..).for_each(|event| self.take(event));
                }
                () = tick(&mut self.bookmarks) => {
                    let bookmark = self.bookmark();
                    self.ready.extend(bookmark);
                }
            }
        }
        Ok(())
    }

    fn fill_from_view(&mut self) {
        let Some(mut initial) = self.initial.take() else { return };
        let page = initial.view.select(&self.filter, initial.cursor.as_ref()).take(BATCH);
        self.ready.extend(page.map(|object| Event::Added(Version::new(object.clone()))));
        let last = self.ready.back().and_then(Event::object).map(|object| object.key().clone());
        if self.ready.len() < BATCH {
            self.ready.push_back(Event::InitialEnd(self.kind, initial.view.revision()));
        } else {
            initial.cursor = last;
            self.initial = Some(initial);
        }
    }

    fn end(&mut self) -> Option<WatchError> {
        self.ended = true;
        let cut = self.queue.cut.load(Ordering::Acquire);
        cut.then(|| WatchError::Expired { requested: self.position, oldest: self.state.oldest() })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.state.unsubscribe(self.kind, self.queue.id);
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
