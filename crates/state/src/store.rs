//! The store: what proposes Mutations and reads linearizably. Cheap to clone.
//!
//! A proposal carries an id, so that it may be proposed again when its outcome is not known: the fold
//! applies it once. That is how a change of leader goes unnoticed by whoever writes.

use std::time::Duration;

use balsa_log::{Log, LogIndex, ProposeError, ReadError};
use balsa_model::{Mutation, Revision};
use balsa_rt::{Backoff, Clock, new_uid};
use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::{ProposalId, decode_reply, encode_entry};
use crate::refusal::Refusal;
use crate::state::State;

/// How long a proposal without an outcome is tried again: a change of leader takes about a second.
const PATIENCE: Duration = Duration::from_secs(15);

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
    /// each, or why it was refused. On a server that does not lead, the state may not show them yet: see
    /// [`State::wait_for`].
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
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        let mut outcome_unknown = false;
        loop {
            let error = match self.log.propose(payload.clone()).await {
                Ok((_, reply)) => return read_reply(&reply, mutations.len()),
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
    /// When no leader, or no quorum, can be reached.
    pub async fn read_barrier(&self) -> Result<LogIndex, ReadError> {
        let index = self.log.read_index().await?;
        self.state.wait_for_index(index.0).await;
        Ok(index)
    }

    fn encode(&self, mutations: &[Mutation]) -> Bytes {
        encode_entry(new_proposal_id(), self.clock.now().as_millisecond(), mutations)
    }
}

fn new_proposal_id() -> ProposalId {
    let digits: String = new_uid().chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
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
