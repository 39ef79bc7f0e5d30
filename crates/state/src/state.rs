//! The state of one server: views to read from, watches, history. Cheap to clone, safe from anywhere.
//!
//! Invariant: what is published is one picture of all kinds at one revision, put there by one atomic
//! store; reading never waits for writing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use balsa_model::kind::KindRef;
use balsa_model::{Key, Object, Revision};
use tokio::sync::watch;

use crate::actor::{ActorHandle, Backlog, KindStatus, Message, Subscription};
use crate::codec::Kinds;
use crate::event::SharedChange;
use crate::history::{self, HistoryError, PastVersion};
use crate::metrics;
use crate::past;
use crate::pins::Pins;
use crate::replicas::{Check, Checks};
use crate::tables::{TableError, Tables};
use crate::view::{KindView, Rows};
use crate::watch::{Start, Watch, WatchError, WatchRequest};
use crate::watchers::{WatcherId, event_for};

/// Changes that are kept in the history unless told.
pub const HISTORY_CHANGES: usize = 200_000;

/// How much is kept, and how long watchers are waited for.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Changes of each kind that are kept in memory for watches that come back.
    pub recent_changes: usize,
    /// Changes that are kept in the history; somewhat more until they are trimmed.
    pub history_changes: usize,
    /// Bytes that they may have; likewise.
    pub history_bytes: u64,
    /// Resources without history, as messages name them: what changes often and tells nothing later.
    pub without_history: Vec<String>,
    /// Events that wait for a watcher before it is cut off. Bigger than what one entry can
    /// change, so that a watcher that keeps up is never cut by one.
    pub watch_queue: usize,
    /// Changes that a watch is told from the history at most: for more, listing again is cheaper.
    pub replayed_changes: usize,
    /// Views kept for the next pages of lists.
    pub pinned_views: usize,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            recent_changes: 4096,
            history_changes: HISTORY_CHANGES,
            history_bytes: 1 << 30,
            without_history: vec!["leases.coordination.k8s.io".to_owned()],
            watch_queue: 16_384,
            replayed_changes: 20_000,
            pinned_views: 256,
        }
    }
}

impl StateConfig {
    pub(crate) fn keeps_history(&self, kind: KindRef) -> bool {
        !self.without_history.contains(&kind.descriptor().resource())
    }
}

/// One picture of all kinds.
pub(crate) struct Published {
    pub(crate) revision: Revision,
    /// In the order of the state's kinds.
    pub(crate) rows: Vec<Arc<Rows>>,
}

impl Published {
    pub(crate) fn view(&self, place: usize) -> KindView {
        KindView::new(self.rows[place].clone(), self.revision)
    }
}

/// How far this server has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The index of the last entry applied.
    pub index: Option<u64>,
    /// The revision of the last Mutation in it.
    pub revision: Revision,
}

/// Reads of everything that this server has applied.
#[derive(Clone)]
pub struct State {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) kinds: Kinds,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) reached: watch::Sender<Reached>,
    pub(crate) actors: Vec<ActorHandle>,
    pins: Pins,
    pub(crate) tables: OnceLock<Arc<dyn Tables>>,
    /// The revision up to which the history was trimmed.
    pub(crate) history_floor: AtomicU64,
    pub(crate) config: StateConfig,
    pub(crate) checks: Mutex<Checks>,
}

impl State {
    /// Starts the actors of `kinds`, all of them empty.
    pub(crate) fn start(kinds: &[KindRef], config: StateConfig) -> Self {
        metrics::describe();
        let rows = kinds.iter().map(|kind| Arc::new(Rows::new(*kind))).collect();
        let published = Arc::new(ArcSwap::from_pointee(Published { revision: Revision(0), rows }));
        let start =
            |(place, kind): (usize, &KindRef)| ActorHandle::start(*kind, place, &config, published.clone());
        let shared = Shared {
            kinds: Kinds::new(kinds),
            actors: kinds.iter().enumerate().map(start).collect(),
            published,
            reached: watch::Sender::new(Reached::default()),
            pins: Pins::new(config.pinned_views),
            tables: OnceLock::new(),
            history_floor: AtomicU64::new(0),
            config,
            checks: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The kinds that are served.
    pub fn kinds(&self) -> &[KindRef] {
        self.shared.kinds.all()
    }

    /// The current picture of a kind: one atomic load. Empty for a kind that is not served.
    pub fn view(&self, kind: KindRef) -> KindView {
        let published = self.shared.published.load();
        match self.place(kind) {
            Some(place) => published.view(place),
            None => KindView::new(Arc::new(Rows::new(kind)), published.revision),
        }
    }

    /// The current pictures of several kinds, all at one revision.
    pub fn views(&self, kinds: &[KindRef]) -> Vec<KindView> {
        let published = self.shared.published.load();
        kinds.iter().filter_map(|kind| self.place(*kind)).map(|place| published.view(place)).collect()
    }

    /// One object as it is now.
    pub fn get(&self, kind: KindRef, key: &Key) -> Option<Arc<Object>> {
        let place = self.place(kind)?;
        self.shared.published.load().rows[place].get(key).map(|row| row.object.clone())
    }

    /// Bytes of the JSON of all objects: the same on every server at the same revision.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.published.load().rows.iter().map(|rows| rows.bytes() as u64).sum()
    }

    /// The revision that the views show.
    pub fn revision(&self) -> Revision {
        self.shared.published.load().revision
    }

    /// How far this server has come, and a way to wait for more.
    pub fn reached(&self) -> watch::Receiver<Reached> {
        self.shared.reached.subscribe()
    }

    /// Waits until the views show `revision`. It may be for ever: set a time limit.
    pub async fn wait_for(&self, revision: Revision) {
        self.wait_until(|reached| reached.revision >= revision).await;
    }

    /// Waits until the views show the entry at `index`. It may be for ever: set a time limit.
    pub async fn wait_for_index(&self, index: u64) {
        self.wait_until(|reached| reached.index.is_some_and(|reached| reached >= index)).await;
    }

    async fn wait_until(&self, condition: impl FnMut(&Reached) -> bool) {
        // The sender lives as long as this state: there is no error to come.
        let _ = self.reached().wait_for(condition).await;
    }

    /// Keeps `view` for the next page of a list.
    pub fn pin(&self, view: &KindView) {
        self.shared.pins.pin(view);
    }

    /// The picture of a kind at exactly `revision`, as long as the changes since then are kept.
    ///
    /// # Errors
    /// `Expired` when they are not.
    pub async fn list_at(&self, kind: KindRef, revision: Revision) -> Result<KindView, WatchError> {
        let current = self.view(kind);
        if current.changed() <= revision && revision <= current.revision() {
            return Ok(KindView::new(current.rows().clone(), revision));
        }
        if let Some(pinned) = self.shared.pins.get(kind, revision) {
            return Ok(pinned);
        }
        if revision > current.revision() {
            return Err(WatchError::Expired { requested: revision, oldest: current.revision() });
        }
        self.check_floor(revision)?;
        let changes = self.changes_after(kind, revision).await?;
        let view = past::before(&current, &changes, revision);
        // Whoever asks for an old picture asks for its next page too.
        self.pin(&view);
        Ok(view)
    }

    /// The changes of a kind after a revision that have a part in what is published, and maybe newer ones.
    async fn changes_after(
        &self,
        kind: KindRef,
        after: Revision,
    ) -> Result<Vec<Arc<SharedChange>>, WatchError> {
        let place =
            self.place(kind).ok_or_else(|| WatchError::NotServed(kind.descriptor().qualified_kind()))?;
        let ask = |reply| Message::Changes { after, reply };
        match self.shared.actors[place].ask(ask).await.ok_or(WatchError::Closed)?? {
            Backlog::Changes(recent, before) => {
                let mut changes = match before {
                    Some((after, to)) => self.older_changes(kind, after, to).await?,
                    None => Vec::new(),
                };
                changes.extend(recent);
                Ok(changes)
            }
            Backlog::Nothing(_) | Backlog::Initial(_) => Ok(Vec::new()),
        }
    }

    /// Starts a watch.
    ///
    /// # Errors
    /// `Expired` when the changes since the start are kept no longer.
    pub async fn watch(&self, request: WatchRequest) -> Result<Watch, WatchError> {
        let kind = request.kind.stored();
        let place =
            self.place(kind).ok_or_else(|| WatchError::NotServed(kind.descriptor().qualified_kind()))?;
        let (filter, start) = (Arc::new(request.filter.clone()), request.start);
        let subscribe = |reply| Message::Subscribe { filter: filter.clone(), start, reply };
        let subscription = self.shared.actors[place].ask(subscribe).await.ok_or(WatchError::Closed)?;
        let Subscription { queue, backlog } = subscription?;
        let position = if let Start::After(after) = start { after } else { self.revision() };
        let mut watch = Watch::new(self.clone(), request, filter.clone(), queue, position);
        match backlog {
            Backlog::Nothing(position) => watch.set_position(position),
            Backlog::Initial(view) => watch.begin_with(view),
            Backlog::Changes(recent, before) => {
                let older = match before {
                    Some((after, to)) => self.older_changes(kind, after, to).await?,
                    None => Vec::new(),
                };
                watch.tell_first(older.iter().chain(&recent).filter_map(|change| event_for(&filter, change)));
            }
        }
        Ok(watch)
    }

    async fn older_changes(
        &self,
        kind: KindRef,
        after: Revision,
        to: Revision,
    ) -> Result<Vec<Arc<SharedChange>>, WatchError> {
        let limit = self.shared.config.replayed_changes;
        let found = self.read(move |tables| history::changes(tables, kind, after, to, limit)).await;
        // Trimmed while it was read: what was found may have holes, or fail for them.
        self.check_floor(after)?;
        found?.ok_or(WatchError::Expired { requested: after, oldest: to })
    }

    fn check_floor(&self, requested: Revision) -> Result<(), WatchError> {
        let oldest = self.oldest();
        if requested < oldest { Err(WatchError::Expired { requested, oldest }) } else { Ok(()) }
    }

    /// The versions of an object that are kept, oldest first.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub async fn history(&self, kind: KindRef, key: &Key) -> Result<Vec<PastVersion>, HistoryError> {
        let key = key.clone();
        let read = self.read(move |tables| history::versions(tables, kind, &key));
        Ok(read.await?)
    }

    /// An object as it was at `revision`; `None` if it was not there.
    ///
    /// # Errors
    /// When the history does not reach back that far, or cannot be read.
    pub async fn object_at(
        &self,
        kind: KindRef,
        key: &Key,
        revision: Revision,
    ) -> Result<Option<Arc<Object>>, HistoryError> {
        let view = self.view(kind);
        if let Some(object) = view.get(key).filter(|object| object.revision() <= revision) {
            return Ok(Some(object.clone()));
        }
        let wanted = key.clone();
        let found = self.read(move |tables| history::at(tables, kind, &wanted, revision)).await;
        let oldest = self.oldest();
        if revision < oldest || !self.shared.config.keeps_history(kind) {
            return Err(HistoryError::Expired { requested: revision, oldest });
        }
        Ok(found?)
    }

    /// Reads the tables where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Tables) -> Result<T, TableError> + Send + 'static,
    ) -> Result<T, TableError> {
        let tables = self.shared.tables.get().cloned();
        let tables = tables.ok_or_else(|| TableError("they are not open yet".to_owned()))?;
        let read = balsa_rt::spawn_blocking(move || read(tables.as_ref())).await;
        read.map_err(|_| TableError("the server is shutting down".to_owned()))?
    }

    /// The oldest revision from which a watch can start.
    pub fn oldest(&self) -> Revision {
        Revision(self.shared.history_floor.load(Ordering::Acquire))
    }

    /// The last checks of this server's state, oldest first.
    pub fn checks(&self) -> Vec<Check> {
        self.shared.checks.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// How the actors are.
    pub async fn observe(&self) -> Vec<KindStatus> {
        let ask = self.shared.actors.iter().map(|actor| actor.ask(Message::Observe));
        futures::future::join_all(ask).await.into_iter().flatten().collect()
    }

    pub(crate) fn place(&self, kind: KindRef) -> Option<usize> {
        self.shared.kinds.place(kind)
    }

    pub(crate) fn delivered(&self, kind: KindRef) -> Revision {
        self.place(kind).map_or(Revision(0), |place| self.shared.actors[place].delivered())
    }

    pub(crate) fn unsubscribe(&self, kind: KindRef, id: WatcherId) {
        if let Some(place) = self.place(kind) {
            self.shared.actors[place].unsubscribe(id);
        }
    }
}
