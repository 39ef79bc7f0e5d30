//! Proposals that are made at the same time share an entry of the log.
//!
//! An entry is what costs: a place in the log, a round of replication, a reply that is remembered. While one is
//! on its way whatever is proposed waits, and goes along with the next, so that the more write, the less each
//! of them costs; whoever writes alone waits for nobody. Where many wait they go at once, so that one entry is
//! synced while the one before is applied. In an entry every proposal keeps its order and its own
//! preconditions, and gets its own verdicts.
//!
//! The queue has no bound of its own: everybody in it holds a [`Turn`], of which there is a limited number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balsa_log::{Log, ProposeError, Turn};
use balsa_model::{Mutation, Revision};
use balsa_rt::{Backoff, Clock, TaskKind};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::codec::{decode_reply, encode_entry};
use crate::metrics;
use crate::outage::Outage;
use crate::refusal::Refusal;
use crate::state::State;

/// How long a proposal without an outcome is tried again: a change of leader takes about a second.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pauses between tries: a new leader is found soon after it is there.
pub(crate) const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));
/// How long a server that does not lead waits until it shows what was written through it.
const OWN_WRITE: Duration = Duration::from_secs(2);
/// Entries under way at a time.
const UNDER_WAY: usize = 2;
/// Proposals that do not wait for the entry under way. Fewer are better off together: with 64 clients and two entries
/// under way at all times, an entry had 16 of their proposals, and a write took a tenth more of the processors.
const CROWD: usize = 64;
/// Proposals of one entry at most.
const PROPOSALS: usize = 1024;
/// Bytes of objects after which an entry is closed: others are not kept waiting for a large one.
const BYTES: usize = 1 << 20;

/// What became of a proposal: a verdict for each of its mutations.
pub(crate) type Outcome = Result<Vec<Result<Revision, Refusal>>, ProposeError>;

/// A proposal that waits for its entry.
struct Waiting {
    mutations: Vec<Mutation>,
    turn: Turn,
    answer: oneshot::Sender<Outcome>,
}

/// The way to the task that makes entries. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Entries {
    log: Log,
    queue: mpsc::UnboundedSender<Waiting>,
    crowd: Arc<Crowd>,
}

/// Tells when many wait.
#[derive(Default)]
struct Crowd {
    waiting: AtomicUsize,
    grown: Notify,
}

impl Crowd {
    fn joined(&self) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) + 1 == CROWD {
            self.grown.notify_one();
        }
    }

    fn left(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// Whether there is one.
    fn is_there(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= CROWD
    }
}

impl Entries {
    /// Starts the task.
    pub(crate) fn start(log: Log, state: State, clock: Clock, outage: Arc<Outage>) -> Self {
        // Bounded by the turns: who is in the queue has entered the log's own bound.
        let (queue, waiting) = mpsc::unbounded_channel();
        let crowd = Arc::<Crowd>::default();
        let proposer = Proposer { log: log.clone(), state, clock, outage, crowd: crowd.clone() };
        drop(balsa_rt::spawn(TaskKind::Proposer, async move { proposer.run(waiting).await }));
        Self { log, queue, crowd }
    }

    /// Has mutations judged in this order, in one entry, maybe after those of others.
    pub(crate) async fn propose(&self, mutations: Vec<Mutation>) -> Outcome {
        let turn = self.log.enter(size_of(&mutations))?;
        let (answer, outcome) = oneshot::channel();
        // First: whoever is received has been counted.
        self.crowd.joined();
        self.queue.send(Waiting { mutations, turn, answer }).map_err(|_| ProposeError::Shutdown)?;
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }
}

struct Proposer {
    log: Log,
    state: State,
    clock: Clock,
    outage: Arc<Outage>,
    crowd: Arc<Crowd>,
}

impl Proposer {
    async fn run(&self, mut queue: mpsc::UnboundedReceiver<Waiting>) {
        let (mut waiting, mut under_way) = (Vec::new(), FuturesUnordered::new());
        loop {
            let may_go = under_way.is_empty() || under_way.len() < UNDER_WAY && self.crowd.is_there();
            tokio::select! {
                biased;
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                count = queue.recv_many(&mut waiting, PROPOSALS), if may_go => {
                    if count == 0 {
                        break;
                    }
                    self.crowd.left(count);
                    for entry in cut(&mut waiting, |waiting| size_of(&waiting.mutations)) {
                        under_way.push(self.carry_out(entry));
                    }
                }
                // Looked at anew: whoever was many may have gone with an entry that went anyway.
                () = self.crowd.grown.notified(), if !may_go => {}
            }
        }
        // Everybody is gone; what they proposed is carried out all the same.
        while under_way.next().await.is_some() {}
    }

    /// Proposes what shares an entry, and tells each what became of its own.
    async fn carry_out(&self, entry: Vec<Waiting>) {
        let (mut mutations, mut shares) = (Vec::new(), Vec::with_capacity(entry.len()));
        for Waiting { mutations: mut own, turn, answer } in entry {
            shares.push((own.len(), turn, answer));
            mutations.append(&mut own);
        }
        metrics::proposed(mutations.len());
        let payload = encode_entry(balsa_rt::new_id(), self.clock.now().as_millisecond(), &mutations);
        let expected = mutations.len();
        drop(mutations);
        let Some((_, turn, _)) = shares.first() else { return };
        // Whoever asked may be gone: then nobody misses the answer.
        match self.propose(payload, turn, expected).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                for (count, turn, answer) in shares {
                    drop(turn);
                    let _ = answer.send(Ok(verdicts.by_ref().take(count).collect()));
                }
            }
            Err(error) => {
                for (_, turn, answer) in shares {
                    drop(turn);
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Proposes an entry, again under the same id while its outcome is not known.
    async fn propose(&self, payload: Bytes, turn: &Turn, expected: usize) -> Outcome {
        let begun = Instant::now();
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut outcome_unknown = false;
        loop {
            let error = match self.log.propose_in(turn, payload.clone()).await {
                Ok((index, reply)) => {
                    self.outage.is_over();
                    // Whoever reads here next, without asking the leader, sees what was written here.
                    let shown = self.state.wait_for_index(index.0);
                    let _ = tokio::time::timeout(OWN_WRITE, shown).await;
                    return read_reply(&reply, expected);
                }
                Err(error) => error,
            };
            outcome_unknown |= error == ProposeError::Unknown;
            let again = matches!(error, ProposeError::Unknown | ProposeError::NotLeader { .. });
            if !again || !self.outage.is_borne(begun, PATIENCE) {
                return Err(if outcome_unknown { ProposeError::Unknown } else { error });
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Cuts what waits, in its order, into entries of at most [`BYTES`], or of one proposal.
fn cut<T>(waiting: &mut Vec<T>, size_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut entries: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for proposal in waiting.drain(..) {
        let size = size_of(&proposal);
        match entries.last_mut() {
            Some(entry) if bytes + size <= BYTES => entry.push(proposal),
            _ => {
                bytes = 0;
                entries.push(vec![proposal]);
            }
        }
        bytes += size;
    }
    entries
}

fn size_of(mutations: &[Mutation]) -> usize {
    mutations.iter().map(|mutation| mutation.object.len()).sum()
}

/// The verdicts of an entry with so many mutations.
pub(crate) fn read_reply(reply: &[u8], expected: usize) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_proposals_do_not_keep_others_waiting() {
        let cut = |sizes: &[usize]| cut(&mut sizes.to_vec(), |size| *size);
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[1, 2, 3]), [[1, 2, 3]]);
        assert_eq!(cut(&[BYTES, 1, BYTES - 1, 1]), [vec![BYTES], vec![1, BYTES - 1], vec![1]]);
        assert_eq!(cut(&[2 * BYTES, 3 * BYTES]), [[2 * BYTES], [3 * BYTES]]);
    }
}
