//! The log by its size: openraft compacts it by the number of entries, and a few large ones can be more
//! than many small ones.
//!
//! Each server looks after its own log. Entries that the tables stand in for go; a server that lags by more
//! than is left gets a snapshot.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::store::{Family, Store};
use crate::types::Raft;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Entries that are not worth a compaction. They stay, too, for servers that lag a little.
const FEW: u64 = 64;

/// Keeps the log below about `limit` bytes, for ever.
pub(crate) async fn keep_small(raft: Raft, store: Arc<Store>, limit: u64) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rewritten = 0;
    loop {
        ticks.tick().await;
        if store.size(Family::Log) <= limit {
            continue;
        }
        let (applied, purged, covered) = {
            let metrics = raft.metrics();
            let now = metrics.borrow_watched();
            let index = |id: &Option<crate::types::LogId>| id.map_or(0, |id| id.index);
            (index(&now.last_applied), index(&now.purged), index(&now.snapshot))
        };
        let upto = applied.saturating_sub(FEW);
        if upto < purged + FEW {
            // What is gone takes room until its files are written anew.
            if rewritten < purged {
                rewritten = purged;
                let store = store.clone();
                let compacted = balsa_rt::spawn_blocking(move || store.compact_log(purged)).await;
                if let Ok(Err(error)) = compacted {
                    tracing::warn!(%error, "the log's files were not made smaller");
                }
            }
            continue;
        }
        // The next look carries out what has to wait for the snapshot.
        let asked = match covered >= upto {
            true => raft.trigger().purge_log(upto).await,
            false => raft.trigger().snapshot().await,
        };
        if asked.is_err() {
            return;
        }
    }
}
