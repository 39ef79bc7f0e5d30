//! The store: what proposes Mutations and reads linearizably. Cheap to clone.
//!
//! A proposal carries an id, so that it may be proposed again when its outcome is not known: the fold
//! applies it once. That is how a change of leader goes unnoticed by whoever writes.

use std::time::Duration;

use balsa_log::{Log, LogIndex, ProposeError, ReadError};
use balsa_model::{Mutation, Revision};
use balsa_rt::{Backoff, Clock};
use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::{decode_reply, encode_entry};
use crate::refusal::Refusal;
use crate::state::State;

/// How long a proposal without an outcome is tried again: a change of leader takes about a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a read waits for a leader that can confirm it.
const READ_PATIENCE: Duration = Duration::from_secs(8);
/// Pauses between tries: a new leader is found soon after it is there.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));
/// How long a server that does not lead waits until it shows what was written through it.
const OWN_WRITE: Duration = Duration::from_secs(2);

/// Writes and linearizable reads.
#[derive(Clone)]
pub struct Store {
    log: Log,
    state: State,
    clock: Clock,
}

impl Store {
    /// The store over an open log and the state of the machine that it feeds.
    pub fn new(log: Log, state: State, clock: Clock) -> Self {
        Self { log, state, clock }
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
    /// each, or why it was refused. This server's state shows them, unless it is far behind.
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
        let payload = self.encode(&mutations);
        let give_up = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut outcome_unknown = false;
        loop {
            let error = match self.log.propose(payload.clone()).await {
                Ok((index, reply)) => {
                    // Whoever reads here next, without asking the leader, sees what was written here.
                    let shown = self.state.wait_for_index(index.0);
                    let _ = tokio::time::timeout(OWN_WRITE, shown).await;
                    return read_reply(&reply, mutations.len());
                }
                Err(error) => error,
            };
            outcome_unknown |= error == ProposeError::Unknown;
            let again = matches!(error, ProposeError::Unknown | ProposeError::NotLeader { .. });
            if !again || Instant::now() >= give_up {
                return Err(if outcome_unknown { ProposeError::Unknown } else { error });
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
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
        let (_, reply) = self.log.propose_as_leader(term, self.encode(&mutations)).await?;
        read_reply(&reply, mutations.len())
    }

    /// Waits until the state shows all that was acknowledged anywhere when this was called.
    ///
    /// # Errors
    /// When no leader, or no quorum, can be reached for some seconds: a change of leader is waited for.
    pub async fn read_barrier(&self) -> Result<LogIndex, ReadError> {
        let give_up = Instant::now() + READ_PATIENCE;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let index = loop {
            match self.log.read_index().await {
                Ok(index) => break index,
                Err(ReadError::NotLeader { .. } | ReadError::Unavailable) if Instant::now() < give_up => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.state.wait_for_index(index.0).await;
        Ok(index)
    }

    fn encode(&self, mutations: &[Mutation]) -> Bytes {
        encode_entry(balsa_rt::new_id(), self.clock.now().as_millisecond(), mutations)
    }
}

fn read_reply(reply: &[u8], expected: usize) -> Result<Vec<Result<Revision, Refusal>>, ProposeError> {
    let unreadable = || ProposeError::Fatal("the reply of a newer release cannot be read".to_owned());
    let verdicts = decode_reply(reply).ok_or_else(unreadable)?;
    match verdicts.as_slice() {
        // An entry that could not be read as a whole.
        [Err(refusal @ Refusal::Undecodable(_))] => {
            let refused: Vec<Result<Revision, Refusal>> = vec![Err(refusal.clone()); expected];
            Ok(refused)
        }
        verdicts if verdicts.len() != expected => Err(unreadable()),
        _ => Ok(verdicts),
    }
}
