//! What would cost something to keep at hand, and is taken when somebody reads the metrics.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use crate::handle::Log;
use crate::members::{LogStatus, Role};
use crate::metrics;

/// A read that takes longer counts as one that cannot be served.
const READ_LIMIT: Duration = Duration::from_secs(1);

impl Log {
    /// Whether somebody leads, as far as this server can tell by itself: it does, or has heard of who does in the time in which
    /// another one would have been elected, twice over.
    pub fn is_led(&self) -> bool {
        let now = *self.leadership().borrow();
        let limit = self.shared.config.election.1 * 2;
        let is_own = now.leader == Some(self.shared.config.node_id);
        now.leader.is_some() && (is_own || self.shared.heard.within(limit, now.term))
    }

    /// Whether this server could now serve a read that sees everything: somebody leads, a majority says so, and
    /// this server has come so far. A leader that was cut off does not know it otherwise.
    pub async fn is_readable(&self) -> bool {
        matches!(tokio::time::timeout(READ_LIMIT, self.read_index()).await, Ok(Ok(_)))
    }

    /// Brings those metrics up to date that are not kept with every entry: whether reads could be served, how far
    /// the other servers are behind, and how much there is of each table. To be called before metrics are read.
    pub async fn measure(&self) {
        metrics::readable(self.is_readable().await);
        let status = self.status();
        metrics::store_bytes("log", status.log_bytes);
        metrics::store_bytes("objects", status.objects_bytes);
        metrics::store_bytes("history", status.history_bytes);
        let mut lags = peer_lags(&status);
        let mut told = self.shared.peers_told.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is gone would stay behind for ever.
        for gone in told.iter().filter(|peer| !lags.contains_key(*peer)).cloned().collect::<Vec<_>>() {
            metrics::peer_lag(&gone, 0);
            told.remove(&gone);
        }
        while let Some((peer, lag)) = lags.pop_first() {
            metrics::peer_lag(&peer, lag);
            told.insert(peer);
        }
    }
}

/// Entries that each other server has not got yet. Only the leader knows: elsewhere nobody is behind.
fn peer_lags(status: &LogStatus) -> BTreeMap<String, u64> {
    let last = status.last_index.map_or(0, |index| index.0);
    let others = status.members.iter().filter(|member| member.node_id != status.node_id);
    others
        .map(|member| {
            let name = if member.name.is_empty() { member.node_id.to_string() } else { member.name.clone() };
            let matched = status.matched.get(&member.node_id).copied().flatten().map_or(0, |index| index.0);
            let lag = if status.role == Role::Leader { last.saturating_sub(matched) } else { 0 };
            (name, lag)
        })
        .collect()
}
