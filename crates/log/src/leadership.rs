//! Who leads, told to whoever wants to know.
//!
//! A server counts as leader only once a quorum confirmed it and everything committed before its
//! term is applied here: leader-only work that starts then sees all that its predecessors did.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::machine::LogIndex;
use crate::metrics;
use crate::types::{NodeId, Raft};

/// Who leads, as this server sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, when one is known.
    pub leader: Option<NodeId>,
    /// The term that it leads, or in which none is known.
    pub term: u64,
    /// Whether this server leads, is confirmed, and has applied what came before.
    pub is_leader: bool,
}

/// When another server was last heard of as leader, and in which term. Who leads stays known here after it has died, as long
/// as nobody else is elected.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Option<(u64, Instant)>>);

impl Heard {
    /// The leader of `term` says something now.
    pub(crate) fn note(&self, term: u64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was cut off, and does not know that its time is over, is none.
        if last.is_none_or(|(known, _)| known <= term) {
            *last = Some((term, Instant::now()));
        }
    }

    /// Whether the leader of `term` has said something since then.
    pub(crate) fn within(&self, limit: Duration, term: u64) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|(known, at)| known == term && at.elapsed() < limit)
    }
}

/// Follows openraft's own view until it stops.
pub(crate) async fn run(raft: Raft, announce: watch::Sender<Leadership>, applied: watch::Receiver<LogIndex>) {
    let mut changes = raft.server_metrics();
    // The term in which this server was confirmed, and the confirmation that is under way.
    let mut confirmed: Option<u64> = None;
    let mut confirming: Option<(u64, BoxFuture<'static, ()>)> = None;
    loop {
        let (leads, term, leader) = {
            let now = changes.borrow_and_update();
            (now.state == ServerState::Leader, now.vote.leader_id.term, now.current_leader)
        };
        if !leads {
            confirmed = None;
            confirming = None;
        } else if confirmed != Some(term) && confirming.as_ref().is_none_or(|(of, _)| *of != term) {
            confirming = Some((term, confirm(raft.clone(), applied.clone()).boxed()));
        }
        let is_leader = leads && confirmed == Some(term);
        publish(&announce, Leadership { leader, term, is_leader });
        let waiting = OptionFuture::from(confirming.as_mut().map(|(_, confirmation)| confirmation));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            Some(()) = waiting => confirmed = confirming.take().map(|(of, _)| of),
        }
    }
    let last = *announce.borrow();
    publish(&announce, Leadership { leader: None, is_leader: false, ..last });
}

/// Ends when a quorum confirmed this server and it applied what was committed by then.
async fn confirm(raft: Raft, mut applied: watch::Receiver<LogIndex>) {
    while let Ok(false) = try_confirm(&raft, &mut applied).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_confirm(
    raft: &Raft,
    applied: &mut watch::Receiver<LogIndex>,
) -> Result<bool, watch::error::RecvError> {
    let Ok(index) = crate::read_index::confirmed_index(raft).await else { return Ok(false) };
    applied.wait_for(|applied| *applied >= index).await?;
    Ok(true)
}

fn publish(announce: &watch::Sender<Leadership>, now: Leadership) {
    let before = announce.send_replace(now);
    if before.leader != now.leader && now.leader.is_some() {
        metrics::leader_changed();
        tracing::info!(leader = now.leader, term = now.term, "a server leads");
    }
    metrics::leadership(now.term, now.is_leader);
}
