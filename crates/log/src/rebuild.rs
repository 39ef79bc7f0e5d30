//! A server whose tables are not to be trusted gets those of another one.
//!
//! Log and vote stay as they are, so the server keeps every promise that it made to the others while its
//! tables are replaced: it votes, and takes entries, and applies none until it is done.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use openraft::async_runtime::watch::WatchReceiver as _;

use crate::codec::pb;
use crate::error::LogError;
use crate::handle::Log;
use crate::machine::{LogIndex, blocking};
use crate::metrics;
use crate::snapshot::SnapshotFile;
use crate::store::Store;
use crate::transport::{Lane, TransportConfig};
use crate::types::{LogId, NodeId, SnapshotMeta, StoredMembership};

/// A server that says nothing for so long does not count.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two rounds of asking everybody.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the log may take to come to where the other server's tables are.
const CATCH_UP: Duration = Duration::from_secs(60);

impl Log {
    /// From now on nobody gets this server's tables, and it does not lead if another server can.
    pub async fn distrust(&self) {
        self.shared.suspect.store(true, Ordering::Release);
        self.hand_over().await;
    }

    /// Whether this server's tables are not to be trusted now.
    pub fn is_distrusted(&self) -> bool {
        self.shared.suspect.load(Ordering::Acquire)
    }

    /// Replaces this server's tables by those of server `from`; the index up to which they reach. The log goes
    /// on from there.
    ///
    /// # Errors
    /// When that server does not give them, or what it gives is damaged.
    pub async fn rebuild(&self, from: NodeId) -> Result<LogIndex, LogError> {
        self.distrust().await;
        let shared = &self.shared;
        let lost = || LogError::Transport(format!("the address of server {from} is not known"));
        let address = crate::handle::address_of(&shared.raft, from).ok_or_else(lost)?;
        loop {
            let (file, meta) = fetch(&shared.store, from, &address, &shared.transport).await?;
            let Some(upto) = meta.last_log_id else {
                return Err(LogError::Transport(format!("server {from} has nothing to give")));
            };
            // openraft learns of entries one by one: it must not hear of tables that are ahead of the log.
            self.wait_committed(upto).await?;
            let replace = shared
                .raft
                .with_state_machine(move |machine| async move { machine.replace(file, upto).await }.boxed());
            if replace.await.map_err(|fatal| LogError::Fatal(fatal.to_string()))?? {
                metrics::rebuilt();
                shared.suspect.store(false, Ordering::Release);
                return Ok(LogIndex(upto.index));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn wait_committed(&self, upto: LogId) -> Result<(), LogError> {
        let mut changes = self.shared.raft.data_metrics();
        let committed = async {
            while changes.borrow_and_update().local_committed < Some(upto) {
                changes.changed().await.map_err(|_| LogError::Fatal("the log has stopped".to_owned()))?;
            }
            Ok(())
        };
        let late = || LogError::Transport(format!("entry {} does not arrive", upto.index));
        tokio::time::timeout(CATCH_UP, committed).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Asks all other members until one gives its tables. They must reach at least as far as entries are gone here.
pub(crate) async fn fetch_from_any(
    store: &Store,
    members: &StoredMembership,
    transport: &TransportConfig,
    why: &str,
) -> Result<(SnapshotFile, SnapshotMeta), LogError> {
    let me = store.node_id()?;
    let others: Vec<(NodeId, String)> = members
        .nodes()
        .filter(|(node, _)| **node != me)
        .map(|(node, place)| (*node, place.address.clone()))
        .collect();
    if others.is_empty() {
        return Err(LogError::Damaged(format!(
            "{why}; there is no other server to get them from: restore a backup"
        )));
    }
    let purged = store.log_id(crate::store::Key::Purged)?;
    loop {
        for (node, address) in &others {
            match fetch(store, *node, address, transport).await {
                Ok((file, meta)) if meta.last_log_id >= purged => return Ok((file, meta)),
                Ok(_) => tracing::warn!(from = node, "another server's tables are too old"),
                Err(error) => tracing::warn!(from = node, %error, "another server does not give its tables"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The tables of another server, as a file that is checked.
async fn fetch(
    store: &Store,
    from: NodeId,
    address: &str,
    transport: &TransportConfig,
) -> Result<(SnapshotFile, SnapshotMeta), LogError> {
    let failed = |why: String| LogError::Transport(format!("the tables of server {from}: {why}"));
    let mut client = transport.client(from, address, Lane::Snapshots)?;
    let silent = || failed("it says nothing".to_owned());
    let call = client.fetch_snapshot(pb::FetchSnapshotRequest { to: from });
    let stream = tokio::time::timeout(SILENCE, call).await.map_err(|_| silent())?;
    let mut stream = stream.map_err(|status| failed(status.message().to_owned()))?.into_inner();
    let (spooled, mut file) =
        SnapshotFile::create(&store.snapshots()).map_err(|error| failed(error.to_string()))?;
    loop {
        let next = tokio::time::timeout(SILENCE, stream.message()).await.map_err(|_| silent())?;
        let Some(next) = next.map_err(|status| failed(status.message().to_owned()))? else { break };
        file.write_all(&next.chunk).map_err(|error| failed(error.to_string()))?;
    }
    let finished = blocking(move || {
        spooled.finish(&file).map_err(|error| LogError::Transport(format!("what arrived: {error}")))
    });
    finished.await
}
