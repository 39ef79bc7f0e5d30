//! The applier: takes committed entries in order, numbers their Mutations, gives each kind's actor its
//! share, and gathers what came of it.
//!
//! Invariants: a Mutation's revision depends on nothing but the log before it; replies are in the order
//! of the entries; what was folded is published only by [`Applier::publish`], all kinds at once. An
//! entry whose proposal id was seen before (within a bound counted in entries) changes nothing and is
//! answered as then.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use balsa_log::{Committed, Table};
use balsa_model::Revision;
use bytes::Bytes;
use prost::Message as _;

use crate::actor::{Folded, Message, Share};
use crate::codec::{EntryError, NewerError, Proposal, ProposalId, Verdicts, decode_entry, encode_reply, pb};
use crate::digest::Digest;
use crate::refusal::Refusal;
use crate::replicas::{CHECK_EVERY, Check};
use crate::state::{Published, Reached, State};
use crate::tables::{
    DIGEST, END, OBJECTS, REVISION, TableError, Tables, Write, number_of, read_number, reply_key, resource_of,
};
use crate::view::Rows;
use crate::{history, metrics};

/// Entries whose replies are remembered. Part of the fold: it must be the same on every server. A
/// proposer gives up long before so many others have come in between.
const REMEMBERED_REPLIES: usize = 65_536;

/// Changes by which the history outgrows its size before it is trimmed.
const TRIM: usize = 1000;

/// Why a batch is not applied. This server must stop.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// A newer release wrote it.
    #[error(transparent)]
    Newer(#[from] NewerError),
    /// An actor is gone: the process is ending.
    #[error("the actor of {0} has stopped")]
    Stopped(String),
    /// The history cannot be trimmed.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Why the state cannot be rebuilt.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Newer(#[from] NewerError),
    #[error("the actor of {0} has stopped")]
    Stopped(String),
    /// Something else than the fold has changed them.
    #[error(
        "the tables are not what was folded: the digest of their objects is {found}, and should be {expected}"
    )]
    Damaged {
        /// Of the objects that are there.
        found: Digest,
        /// What was written along with them.
        expected: Digest,
    },
}

/// See the module.
pub(crate) struct Applier {
    state: State,
    revision: Revision,
    replies: Replies,
    /// What is in the history.
    recorded: history::Extent,
    /// What was folded and not yet published, by place of the kind.
    folded: BTreeMap<usize, Arc<Rows>>,
    /// Of the objects of all kinds.
    digest: Digest,
    /// The index of the last entry.
    index: u64,
}

/// A batch on its way to the actors.
#[derive(Default)]
struct Batch {
    outcomes: Vec<Outcome>,
    /// By place of the kind.
    shares: BTreeMap<usize, Share>,
    /// How many mutations there are.
    slots: usize,
}

/// What becomes of one entry of a batch.
enum Outcome {
    /// Its mutations have these slots; its reply is remembered under the id.
    Slots(Range<usize>, Option<ProposalId>),
    /// It was applied before.
    Known(Bytes),
    /// It repeats an entry of the same batch.
    Same(usize),
    /// Nobody can read it.
    Refused(Refusal),
}

impl Applier {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state,
            revision: Revision(0),
            replies: Replies::default(),
            recorded: history::Extent::default(),
            folded: BTreeMap::new(),
            digest: Digest::default(),
            index: 0,
        }
    }

    /// Applies entries in order: a reply for each, and what belongs into the tables.
    pub(crate) async fn apply(
        &mut self,
        entries: Vec<Committed>,
    ) -> Result<(Vec<Bytes>, Vec<Write>), ApplyError> {
        let started = Instant::now();
        let (before, indexes) =
            (self.revision, entries.iter().map(|entry| entry.index.0).collect::<Vec<u64>>());
        let Batch { outcomes, shares, slots } = self.share_out(entries)?;
        let recorded_before = self.recorded;
        let mut verdicts: Vec<Option<Result<Revision, Refusal>>> = vec![None; slots];
        let mut moved = vec![Digest::default(); slots];
        let mut writes = Vec::new();
        for (place, folded) in self.fold(shares).await? {
            for judged in folded.judged {
                verdicts[judged.slot] = Some(judged.verdict);
                moved[judged.slot] = judged.moved;
            }
            writes.extend(folded.writes);
            self.recorded += folded.recorded;
            self.folded.insert(place, folded.rows);
        }
        let refused = verdicts.iter().flatten().filter(|verdict| verdict.is_err()).count();
        self.check(before, &indexes, &outcomes, &moved);
        let replies = self.reply(outcomes, verdicts, &mut writes);
        self.trim(&mut writes)?;
        if self.recorded != recorded_before {
            writes.push(history::remember(self.recorded));
        }
        writes.push(Write::Put(Table::Objects, REVISION.to_vec(), self.revision.0.to_be_bytes().to_vec()));
        writes.push(Write::Put(Table::Objects, DIGEST.to_vec(), stored_digest(self.digest, self.revision)));
        metrics::folded(started.elapsed(), refused as u64, self.recorded);
        Ok((replies, writes))
    }

    /// Keeps the digest up, and remembers it where servers compare theirs.
    fn check(&mut self, before: Revision, indexes: &[u64], outcomes: &[Outcome], moved: &[Digest]) {
        let mut revision = before.0;
        for (index, outcome) in indexes.iter().zip(outcomes) {
            // The log has entries of its own, which are not seen here: what counts is that the index was passed.
            let passed = index - index % CHECK_EVERY;
            if passed > self.index {
                let check = Check { index: passed, hash: self.digest.hash(revision) };
                self.state.shared.checks.lock().unwrap_or_else(PoisonError::into_inner).add(check);
            }
            self.index = *index;
            if let Outcome::Slots(slots, _) = outcome {
                revision += slots.len() as u64;
                self.digest = moved[slots.clone()].iter().fold(self.digest, |digest, by| digest.plus(*by));
            }
        }
    }

    /// Numbers the mutations of new entries and groups them by kind.
    fn share_out(&mut self, entries: Vec<Committed>) -> Result<Batch, NewerError> {
        let mut batch = Batch::default();
        let mut in_batch = HashMap::new();
        for (i, entry) in entries.into_iter().enumerate() {
            let outcome = match decode_entry(entry.payload, &self.state.shared.kinds) {
                Err(EntryError::Newer(newer)) => return Err(newer),
                Err(EntryError::Undecodable(why)) => Outcome::Refused(Refusal::Undecodable(why)),
                Ok(entry) => match entry.id.and_then(|id| self.repeated(id, i, &mut in_batch)) {
                    Some(repeated) => repeated,
                    None => Outcome::Slots(self.number(entry.proposals, &mut batch), entry.id),
                },
            };
            batch.outcomes.push(outcome);
        }
        Ok(batch)
    }

    /// What becomes of an entry whose id was seen before.
    fn repeated(
        &self,
        id: ProposalId,
        i: usize,
        in_batch: &mut HashMap<ProposalId, usize>,
    ) -> Option<Outcome> {
        if let Some(reply) = self.replies.get(&id) {
            return Some(Outcome::Known(reply));
        }
        let first = *in_batch.entry(id).or_insert(i);
        (first != i).then_some(Outcome::Same(first))
    }

    /// Gives each mutation its revision, also those that will be refused.
    fn number(&mut self, proposals: Vec<Proposal>, batch: &mut Batch) -> Range<usize> {
        let first = batch.slots;
        for proposal in proposals {
            self.revision.0 += 1;
            let share = batch.shares.entry(proposal.place).or_default();
            share.push((batch.slots, self.revision, proposal));
            batch.slots += 1;
        }
        first..batch.slots
    }

    /// All actors that have a share fold at the same time.
    async fn fold(&self, shares: BTreeMap<usize, Share>) -> Result<Vec<(usize, Folded)>, ApplyError> {
        let fold = shares.into_iter().map(async |(place, share)| {
            let folded = self.state.shared.actors[place].ask(|reply| Message::Fold { share, reply }).await;
            folded.map(|folded| (place, folded)).ok_or_else(|| ApplyError::Stopped(self.name(place)))
        });
        futures::future::try_join_all(fold).await
    }

    fn name(&self, place: usize) -> String {
        self.state.kinds()[place].descriptor().resource()
    }

    fn reply(
        &mut self,
        outcomes: Vec<Outcome>,
        mut verdicts: Vec<Option<Result<Revision, Refusal>>>,
        writes: &mut Vec<Write>,
    ) -> Vec<Bytes> {
        let mut replies: Vec<Bytes> = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let reply = match outcome {
                Outcome::Known(reply) => reply,
                Outcome::Same(first) => replies.get(first).cloned().unwrap_or_default(),
                Outcome::Refused(refusal) => encode_reply(&[Err(refusal)]).encode_to_vec().into(),
                Outcome::Slots(range, id) => {
                    let unjudged = || Err(Refusal::Undecodable("it was not judged".to_owned()));
                    let judged: Verdicts = verdicts[range]
                        .iter_mut()
                        .map(|verdict| verdict.take().unwrap_or_else(unjudged))
                        .collect();
                    let reply = encode_reply(&judged);
                    let bytes = Bytes::from(reply.encode_to_vec());
                    if let Some(id) = id {
                        self.replies.remember(id, reply, bytes.clone(), writes);
                    }
                    bytes
                }
            };
            replies.push(reply);
        }
        replies
    }

    /// Trims the history, some changes at a time.
    fn trim(&mut self, writes: &mut Vec<Write>) -> Result<(), TableError> {
        let shared = &self.state.shared;
        let (keep, most) = (shared.config.history_changes, shared.config.history_bytes);
        // What this batch adds is not in the tables yet; the oldest, which goes, is.
        let are_many = self.recorded.changes > keep + (keep / 10).clamp(1, TRIM);
        let are_large = self.recorded.bytes > most + most / 16;
        if !are_many && !are_large {
            return Ok(());
        }
        let excess = history::Extent {
            changes: if are_many { self.recorded.changes - keep } else { 0 },
            bytes: if are_large { self.recorded.bytes - most } else { 0 },
        };
        let Some(tables) = shared.tables.get() else { return Ok(()) };
        let from = Revision(shared.history_floor.load(Ordering::Acquire));
        let (floor, gone) = history::trim(tables.as_ref(), from, excess, writes)?;
        self.recorded -= gone;
        if let Some(floor) = floor {
            // Before the rows go: who reads them now looks at the floor afterwards.
            shared.history_floor.store(floor.0, Ordering::Release);
        }
        Ok(())
    }

    /// Shows what was folded: first the views, then the changes to the watchers, then whoever waits.
    pub(crate) async fn publish(&mut self, index: u64) {
        let started = Instant::now();
        let shared = &self.state.shared;
        let mut rows = shared.published.load().rows.clone();
        let touched = std::mem::take(&mut self.folded);
        for (place, folded) in &touched {
            rows[*place] = folded.clone();
        }
        shared.published.store(Arc::new(Published { revision: self.revision, rows }));
        for place in touched.keys() {
            // An actor that is gone has ended the process, or the process is ending.
            let _ = shared.actors[*place].send(Message::Deliver).await;
        }
        shared.reached.send_replace(Reached { index: Some(index), revision: self.revision });
        metrics::published(started.elapsed(), self.revision.0);
    }

    /// Rebuilds everything from the tables. Watches are cut off: they come back by way of the history.
    pub(crate) async fn restore(
        &mut self,
        tables: Arc<dyn Tables>,
        index: Option<u64>,
    ) -> Result<(), RestoreError> {
        let started = Instant::now();
        let state = self.state.clone();
        let reading = tables.clone();
        let read = balsa_rt::spawn_blocking(move || Stored::read(reading.as_ref(), &state)).await;
        let stored = read.map_err(|_| TableError("the server is shutting down".to_owned()))??;
        let shared = &self.state.shared;
        // The same tables after a snapshot: they are the log's, which outlives what is in them.
        let _ = shared.tables.set(tables);
        self.revision = stored.revision;
        self.replies = stored.replies;
        self.recorded = stored.recorded;
        self.folded.clear();
        let restore = stored.objects.into_iter().enumerate().map(async |(place, stored)| {
            let revision = self.revision;
            let restore = |reply| Message::Restore { stored, revision, reply };
            let restored = shared.actors[place].ask(restore).await;
            Ok::<_, RestoreError>(restored.ok_or_else(|| RestoreError::Stopped(self.name(place)))??)
        });
        let restored = futures::future::try_join_all(restore).await?;
        let found: Digest = restored.iter().map(|restored| restored.digest).sum();
        if let Some(expected) = stored.digest.filter(|expected| *expected != found) {
            return Err(RestoreError::Damaged { found, expected });
        }
        (self.digest, self.index) = (found, index.unwrap_or(0));
        shared.checks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let rows: Vec<Arc<Rows>> = restored.into_iter().map(|restored| restored.rows).collect();
        let objects: usize = rows.iter().map(|rows| rows.len()).sum();
        shared.history_floor.store(stored.history_floor.0, Ordering::Release);
        shared.published.store(Arc::new(Published { revision: self.revision, rows }));
        shared.reached.send_replace(Reached { index, revision: self.revision });
        tracing::info!(revision = self.revision.0, objects, took = ?started.elapsed(), "state restored");
        Ok(())
    }
}

fn stored_digest(digest: Digest, revision: Revision) -> Vec<u8> {
    [revision.0.to_be_bytes().as_slice(), &digest.to_bytes()].concat()
}

/// The digest that was written with `revision`. One of an older revision was left by a release that did not
/// keep it up: it says nothing.
fn read_digest(stored: &[u8], revision: Revision) -> Option<Digest> {
    let (of, digest) = stored.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*of) == revision.0).then_some(Digest::from_bytes(digest.try_into().ok()?))
}

/// What the tables hold.
struct Stored {
    revision: Revision,
    replies: Replies,
    recorded: history::Extent,
    history_floor: Revision,
    /// Rows of objects, by place of their kind.
    objects: Vec<Vec<Bytes>>,
    digest: Option<Digest>,
}

impl Stored {
    fn read(tables: &dyn Tables, state: &State) -> Result<Self, RestoreError> {
        let places: HashMap<String, usize> = state
            .kinds()
            .iter()
            .enumerate()
            .map(|(place, kind)| (kind.descriptor().resource(), place))
            .collect();
        let mut objects = vec![Vec::new(); places.len()];
        let mut unknown = None;
        tables.scan(Table::Objects, OBJECTS, END, &mut |key, value| {
            match resource_of(key).and_then(|resource| places.get(resource)) {
                Some(place) => objects[*place].push(Bytes::copy_from_slice(value)),
                None => unknown = Some(key.escape_ascii().to_string()),
            }
            if unknown.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(key) = unknown {
            return Err(NewerError { what: format!("an object under the unknown key {key}") }.into());
        }
        let revision = tables.get(Table::Objects, REVISION)?.and_then(|value| read_number(&value));
        let (recorded, history_floor) = history::measure(tables)?;
        let replies = Replies::read(tables)?;
        let revision = Revision(revision.unwrap_or(0));
        let digest = tables.get(Table::Objects, DIGEST)?.and_then(|stored| read_digest(&stored, revision));
        Ok(Self { revision, replies, recorded, history_floor, objects, digest })
    }
}

/// The replies to recent proposals.
#[derive(Default)]
struct Replies {
    by_id: HashMap<ProposalId, Bytes>,
    /// Their numbers in the table, in log order.
    order: VecDeque<(u64, ProposalId)>,
    next: u64,
}

impl Replies {
    fn get(&self, id: &ProposalId) -> Option<Bytes> {
        self.by_id.get(id).cloned()
    }

    fn remember(&mut self, id: ProposalId, reply: pb::Reply, bytes: Bytes, writes: &mut Vec<Write>) {
        let stored = pb::StoredReply { proposal_id: Bytes::copy_from_slice(&id), reply: Some(reply) };
        writes.push(Write::Put(Table::Objects, reply_key(self.next), stored.encode_to_vec()));
        self.by_id.insert(id, bytes);
        self.order.push_back((self.next, id));
        self.next += 1;
        while self.order.len() > REMEMBERED_REPLIES {
            if let Some((number, id)) = self.order.pop_front() {
                self.by_id.remove(&id);
                writes.push(Write::Delete(Table::Objects, reply_key(number)));
            }
        }
    }

    fn read(tables: &dyn Tables) -> Result<Self, TableError> {
        let (mut replies, mut damaged) = (Self::default(), None);
        tables.scan(Table::Objects, &reply_key(0), &reply_key(u64::MAX), &mut |key, value| {
            let stored = pb::StoredReply::decode(value).ok();
            let read = stored.and_then(|stored| {
                let id = ProposalId::try_from(stored.proposal_id.as_ref()).ok()?;
                Some((number_of(key)?, id, stored.reply?))
            });
            let Some((number, id, reply)) = read else {
                damaged = Some(TableError(format!("the reply under {} does not decode", key.escape_ascii())));
                return ControlFlow::Break(());
            };
            replies.by_id.insert(id, reply.encode_to_vec().into());
            replies.order.push_back((number, id));
            replies.next = number + 1;
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(replies), Err)
    }
}
