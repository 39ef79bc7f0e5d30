//! The store: what proposes Mutations and reads linearizably. Cheap to clone.
//!
//! An entry carries an id, so that it may be proposed again when its outcome is not known: the fold
//! applies it once. That is how a change of leader goes unnoticed by whoever writes.

use std::sync::Arc;
use std::time::Duration;

use balsa_log::{Log, LogIndex, ProposeError, ReadError};
use balsa_model::{Mutation, Revision};
use balsa_rt::{Backoff, Clock};
use tokio::time::Instant;

use crate::codec::encode_entry;
use crate::entries::{Entries, PAUSES, read_reply};
use crate::outage::Outage;
use crate::refusal::Refusal;
use crate::state::State;

/// How long a read waits for a leader that can confirm it.
const READ_PATIENCE: Duration = Duration::from_secs(8);

/// How long a server rests that nobody tells how far the cluster is, before it asks again.
const BEHIND_PAUSE: Duration = Duration::from_secs(1);

/// Writes and linearizable reads.
#[derive(Clone)]
pub struct Store {
    log: Log,
    state: State,
    clock: Clock,
    entries: Entries,
    outage: Arc<Outage>,
}

impl Store {
    /// The store over an open log and the state of the machine that it feeds. To be made within a runtime.
    pub fn new(log: Log, state: State, clock: Clock) -> Self {
        let outage = Arc::<Outage>::default();
        let entries = Entries::start(log.clone(), state.clone(), clock.clone(), outage.clone());
        Self { log, state, clock, entries, outage }
    }

    /// What was applied here.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Has mutations judged in this order, in one entry, each by its own precondition: the revision of
    /// each, or why it was refused. What others propose meanwhile may share the entry. This server's state
    /// shows them, unless it is far behind.
    ///
    /// # Errors
    /// When nothing is known of the outcome. Proposed again, with the same id, until then.
    pub async fn propose(
        &self,
        mutations: Vec<Mutation>,
    ) -> Result<Vec<Result<Revision, Refusal>>, ProposeError> {
        if mutations.is_empty() {
            return Ok(Vec::new());
        }
        self.entries.propose(mutations).await
    }

    /// Like [`Self::propose`], but only while this server leads in `term`; never forwarded nor tried
    /// again.
    ///
    /// # Errors
    /// When it does not lead, or nothing is known of the outcome.
    pub async fn propose_as_leader(
        &self,
        term: u64,
        mutations: Vec<Mutation>,
    ) -> Result<Vec<Result<Revision, Refusal>>, ProposeError> {
        let payload = encode_entry(balsa_rt::new_id(), self.clock.now().as_millisecond(), &mutations);
        let (_, reply) = self.log.propose_as_leader(term, payload).await?;
        read_reply(&reply, mutations.len())
    }

    /// Waits until the state shows all that was acknowledged anywhere when this was called.
    ///
    /// # Errors
    /// When no leader, or no quorum, can be reached for some seconds: a change of leader is waited for.
    pub async fn read_barrier(&self) -> Result<LogIndex, ReadError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let index = loop {
            match self.log.read_index().await {
                Ok(index) => break index,
                Err(ReadError::NotLeader { .. } | ReadError::Unavailable)
                    if self.outage.is_borne(begun, READ_PATIENCE) =>
                {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.outage.is_over();
        self.state.wait_for_index(index.0).await;
        Ok(index)
    }

    /// Waits until the state shows `revision`, which somebody says to have been told: `true`. `false`: this cluster has
    /// never come so far, so another one told it, or this one before it was restored. What was told to anybody was
    /// committed by then, and a read index that is fixed afterwards covers it: one that does not reach it is the proof.
    /// A server that is behind cannot know; it waits, for ever if it must: set a time limit.
    ///
    /// # Errors
    /// When this server will not come any further.
    pub async fn reaches(&self, revision: Revision) -> Result<bool, ReadError> {
        if self.state.revision() >= revision {
            return Ok(true);
        }
        tokio::select! {
            biased;
            () = self.state.wait_for(revision) => Ok(true),
            known = self.read_barrier_at_last() => known.map(|_| self.state.revision() >= revision),
        }
    }

    /// A read barrier that waits for a leader as long as it takes.
    async fn read_barrier_at_last(&self) -> Result<LogIndex, ReadError> {
        loop {
            match self.read_barrier().await {
                Err(ReadError::NotLeader { .. } | ReadError::Unavailable) => {
                    tokio::time::sleep(BEHIND_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }
}
