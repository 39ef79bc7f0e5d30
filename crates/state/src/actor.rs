//! The actor of one kind: the sole writer of its rows, and the teller of its changes.
//!
//! Its life is a sequence of: fold a share of a batch of entries; then, once the batch is in the tables
//! and the views are published, deliver the changes to the watchers. Invariants: a change is delivered
//! after the view that shows it was published, and in revision order; the ring holds every delivered
//! change after its floor; a watcher registered at a published revision is told every later change once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use balsa_log::Table;
use balsa_model::kind::KindRef;
use balsa_model::selector::Filter;
use balsa_model::{Object, Revision};
use balsa_rt::TaskKind;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use crate::codec::{Proposal, pb};
use crate::digest::Digest;
use crate::event::SharedChange;
use crate::fold::Table as FoldTable;
use crate::indexed::field_values;
use crate::refusal::Refusal;
use crate::state::{Published, StateConfig};
use crate::tables::{TableError, Write, object_key};
use crate::view::{KindView, Row, Rows};
use crate::watch::{Start, WatchError};
use crate::watchers::{Queue, WatcherId, Watchers};
use crate::{history, metrics};

/// Messages that wait for an actor. The applier has one share and one delivery under way at a time; the
/// rest are new watches, which wait in their own requests when the mailbox is full.
const MAILBOX: usize = 1024;

/// What the applier gives an actor: its share of a batch, in log order.
pub(crate) type Share = Vec<(usize, Revision, Proposal)>;

/// What came of a share.
pub(crate) struct Folded {
    pub(crate) judged: Vec<Judged>,
    pub(crate) writes: Vec<Write>,
    /// How much the writes add to the history.
    pub(crate) recorded: history::Extent,
    pub(crate) rows: Arc<Rows>,
}

/// What came of one Mutation.
pub(crate) struct Judged {
    pub(crate) slot: usize,
    pub(crate) verdict: Result<Revision, Refusal>,
    /// By how much it moved the digest of the state.
    pub(crate) moved: Digest,
}

/// A kind as it was rebuilt.
pub(crate) struct Restored {
    pub(crate) rows: Arc<Rows>,
    pub(crate) digest: Digest,
}

/// What a new watcher starts from.
pub(crate) struct Subscription {
    pub(crate) queue: Queue,
    pub(crate) backlog: Backlog,
}

/// What a new watcher must be told before what is in its queue.
pub(crate) enum Backlog {
    /// Nothing.
    Nothing(Revision),
    /// The objects of this view.
    Initial(KindView),
    /// These changes, and before them those of the history after the first and up to the second
    /// revision, if given.
    Changes(Vec<Arc<SharedChange>>, Option<(Revision, Revision)>),
}

/// How an actor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    /// Its kind.
    pub kind: KindRef,
    /// How many objects there are.
    pub objects: usize,
    /// How many watch them.
    pub watchers: usize,
    /// Changes in the ring.
    pub recent: usize,
    /// Messages that wait for it.
    pub mailbox: usize,
    /// The last change that watchers were told of.
    pub delivered: Revision,
}

pub(crate) enum Message {
    Restore {
        stored: Vec<Bytes>,
        revision: Revision,
        reply: oneshot::Sender<Result<Restored, TableError>>,
    },
    Fold {
        share: Share,
        reply: oneshot::Sender<Folded>,
    },
    Deliver,
    Subscribe {
        filter: Arc<Filter>,
        start: Start,
        reply: oneshot::Sender<Result<Subscription, WatchError>>,
    },
    Unsubscribe(WatcherId),
    /// What has changed after a revision, published or about to be.
    Changes {
        after: Revision,
        reply: oneshot::Sender<Result<Backlog, WatchError>>,
    },
    Observe(oneshot::Sender<KindStatus>),
}

/// The way to an actor.
#[derive(Clone)]
pub(crate) struct ActorHandle {
    messages: mpsc::Sender<Message>,
    /// The last change delivered, for bookmarks.
    delivered: Arc<AtomicU64>,
}

impl ActorHandle {
    /// Starts the actor of `kind`, the `place`-th of those published.
    pub(crate) fn start(
        kind: KindRef,
        place: usize,
        config: &StateConfig,
        published: Arc<ArcSwap<Published>>,
    ) -> Self {
        let (sender, messages) = mpsc::channel(MAILBOX);
        let delivered = Arc::new(AtomicU64::new(0));
        let actor = Actor {
            table: FoldTable::new(Rows::new(kind)),
            pending: Vec::new(),
            ring: VecDeque::new(),
            ring_capacity: config.recent_changes,
            ring_floor: Revision(0),
            keeps_history: config.keeps_history(kind),
            watchers: Watchers::new(kind, config.watch_queue),
            published,
            place,
            delivered: delivered.clone(),
            labels: metrics::Labels::new(kind),
        };
        drop(balsa_rt::spawn(TaskKind::KindActor, actor.run(messages)));
        Self { messages: sender, delivered }
    }

    /// Sends a message; `None` when the actor is gone.
    pub(crate) async fn send(&self, message: Message) -> Option<()> {
        self.messages.send(message).await.ok()
    }

    /// Asks and waits for the answer; `None` when the actor is gone.
    pub(crate) async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply)).await?;
        answer.await.ok()
    }

    /// Removes a watcher, now or when it next would be told something.
    pub(crate) fn unsubscribe(&self, id: WatcherId) {
        let _ = self.messages.try_send(Message::Unsubscribe(id));
    }

    /// The last change that is in the watchers' queues.
    pub(crate) fn delivered(&self) -> Revision {
        Revision(self.delivered.load(Ordering::Acquire))
    }
}

struct Actor {
    table: FoldTable,
    /// Folded and not yet delivered.
    pending: Vec<Arc<SharedChange>>,
    ring: VecDeque<Arc<SharedChange>>,
    ring_capacity: usize,
    /// Delivered changes after this one are in the ring.
    ring_floor: Revision,
    keeps_history: bool,
    watchers: Watchers,
    published: Arc<ArcSwap<Published>>,
    place: usize,
    delivered: Arc<AtomicU64>,
    labels: metrics::Labels,
}

impl Actor {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.handle(message, messages.len());
        }
    }

    /// Whoever asked may be gone: then nobody misses the answer.
    fn handle(&mut self, message: Message, waiting: usize) {
        match message {
            Message::Restore { stored, revision, reply } => {
                let _ = reply.send(self.on_restore(stored, revision));
            }
            Message::Fold { share, reply } => {
                let _ = reply.send(self.on_fold(share));
            }
            Message::Deliver => {
                self.on_deliver();
                self.labels.mailbox(waiting);
            }
            Message::Subscribe { filter, start, reply } => {
                if let Err(Ok(unwanted)) = reply.send(self.on_subscribe(filter, start)) {
                    self.watchers.remove(unwanted.queue.id);
                }
                self.labels.watchers(self.watchers.len());
            }
            Message::Unsubscribe(id) => {
                self.watchers.remove(id);
                self.labels.watchers(self.watchers.len());
            }
            Message::Changes { after, reply } => {
                let _ = reply.send(self.on_changes(after));
            }
            Message::Observe(reply) => {
                let _ = reply.send(self.on_observe(waiting));
            }
        }
    }

    fn on_restore(&mut self, stored: Vec<Bytes>, revision: Revision) -> Result<Restored, TableError> {
        let mut rows = Rows::new(self.table.rows.kind);
        for row in stored {
            let row = read_row(rows.kind, row)?;
            rows.changed = rows.changed.max(row.object.revision());
            rows.insert(row);
        }
        // The last change may have been a removal, of which no row tells.
        rows.changed = revision;
        self.table = FoldTable::new(rows.clone());
        self.pending.clear();
        self.ring.clear();
        self.ring_floor = revision;
        self.labels.cut(self.watchers.cut_all());
        self.labels.watchers(0);
        self.labels.objects(self.table.rows.len());
        self.delivered.store(revision.0, Ordering::Release);
        Ok(Restored { rows: Arc::new(rows), digest: self.table.digest() })
    }

    fn on_fold(&mut self, share: Share) -> Folded {
        let mut judged = Vec::with_capacity(share.len());
        let mut writes = Vec::with_capacity(share.len() * 3);
        let mut recorded = history::Extent::default();
        for (slot, revision, proposal) in share {
            let before = self.table.digest();
            let verdict = self.table.fold(&proposal, revision).map(|change| {
                writes.push(self.object_write(&change));
                if self.keeps_history {
                    recorded += history::record(&change, &mut writes);
                }
                self.pending.push(change);
                revision
            });
            judged.push(Judged { slot, verdict, moved: self.table.digest().minus(before) });
        }
        Folded { judged, writes, recorded, rows: Arc::new(self.table.rows.clone()) }
    }

    fn object_write(&self, change: &SharedChange) -> Write {
        let key = object_key(change.change.kind, &change.change.key);
        match self.table.rows.get(&change.change.key) {
            None => Write::Delete(Table::Objects, key),
            Some(row) => {
                let stored = pb::StoredObject {
                    revision: row.object.revision().0,
                    object: row.object.bytes().clone(),
                    claims: row.claims.to_vec(),
                };
                Write::Put(Table::Objects, key, stored.encode_to_vec())
            }
        }
    }

    fn on_deliver(&mut self) {
        let mut cut = 0;
        for change in self.pending.drain(..) {
            cut += self.watchers.deliver(&change);
            self.delivered.store(change.revision().0, Ordering::Release);
            self.ring.push_back(change);
        }
        while self.ring.len() > self.ring_capacity {
            if let Some(change) = self.ring.pop_front() {
                self.ring_floor = change.revision();
            }
        }
        self.labels.cut(cut);
        self.labels.objects(self.table.rows.len());
        if cut > 0 {
            self.labels.watchers(self.watchers.len());
        }
    }

    fn on_subscribe(&mut self, filter: Arc<Filter>, start: Start) -> Result<Subscription, WatchError> {
        // What is published may be ahead of what was delivered, never behind: the watcher is registered at
        // the published revision, and skips what is delivered up to it.
        let published = self.published.load_full();
        let delivered = Revision(self.delivered.load(Ordering::Acquire));
        let (after, backlog) = match start {
            // A snapshot is replacing the state: this kind has its new rows, and nobody sees them yet.
            Start::Now | Start::Initial if published.revision < self.ring_floor => {
                let (requested, oldest) = (published.revision, self.ring_floor);
                return Err(WatchError::Expired { requested, oldest });
            }
            Start::Now => (published.revision, Backlog::Nothing(published.revision)),
            Start::Initial => (published.revision, Backlog::Initial(published.view(self.place))),
            Start::After(after) if after >= delivered => (after, Backlog::Nothing(after)),
            Start::After(after) if after >= self.ring_floor => (after, self.recent(after, None)),
            Start::After(after) if self.keeps_history => {
                (after, self.recent(self.ring_floor, Some((after, self.ring_floor))))
            }
            Start::After(requested) => {
                return Err(WatchError::Expired { requested, oldest: self.ring_floor });
            }
        };
        Ok(Subscription { queue: self.watchers.add(filter, after), backlog })
    }

    /// What is published may not have been delivered yet: it waits among the pending.
    fn on_changes(&self, after: Revision) -> Result<Backlog, WatchError> {
        let backlog = if after >= self.ring_floor {
            self.recent(after, None)
        } else if self.keeps_history {
            self.recent(self.ring_floor, Some((after, self.ring_floor)))
        } else {
            return Err(WatchError::Expired { requested: after, oldest: self.ring_floor });
        };
        let Backlog::Changes(mut changes, before) = backlog else { return Ok(backlog) };
        changes.extend(self.pending.iter().filter(|change| change.revision() > after).cloned());
        Ok(Backlog::Changes(changes, before))
    }

    fn recent(&self, after: Revision, before: Option<(Revision, Revision)>) -> Backlog {
        let from = self.ring.partition_point(|change| change.revision() <= after);
        Backlog::Changes(self.ring.iter().skip(from).cloned().collect(), before)
    }

    fn on_observe(&mut self, mailbox: usize) -> KindStatus {
        self.watchers.sweep();
        self.labels.watchers(self.watchers.len());
        KindStatus {
            kind: self.table.rows.kind,
            objects: self.table.rows.len(),
            watchers: self.watchers.len(),
            recent: self.ring.len(),
            mailbox,
            delivered: Revision(self.delivered.load(Ordering::Acquire)),
        }
    }
}

fn read_row(kind: KindRef, stored: Bytes) -> Result<Row, TableError> {
    let damage = |error: String| TableError(format!("a stored {}: {error}", kind.descriptor().kind));
    let stored = pb::StoredObject::decode(stored).map_err(|error| damage(error.to_string()))?;
    let object = Object::stored(kind, stored.object, Revision(stored.revision))
        .map_err(|error| damage(error.to_string()))?;
    let object = Arc::new(object);
    Ok(Row::new(object.clone(), field_values(&object), stored.claims.into()))
}
