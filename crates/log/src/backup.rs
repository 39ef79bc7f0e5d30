//! A backup: the tables as one stream, the same that brings a lagging server up to date.
//!
//! It is cut at one index for all tables, carries a checksum at its end, and can be read without a
//! cluster: [`inspect`] says what is in it, [`restore`] makes the log of a new cluster out of it. Ids of
//! servers, terms and members are not taken over: nobody of the cluster it came from belongs to the new one.

use std::fs::File;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use crate::error::LogError;
use crate::machine::LogIndex;
use crate::snapshot::{self, SnapshotData};
use crate::store::Store;
use crate::tables::Table;
use crate::types::NodeId;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// The entry up to which it goes.
    pub index: Option<LogIndex>,
    /// The servers of the cluster it came from: names and addresses.
    pub servers: Vec<(String, String)>,
}

pub(crate) fn stream(store: Arc<Store>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    crate::network::chunks(SnapshotData::Tables(store)).map(Ok)
}

/// Reads a whole backup, checks it, and says what is in it; `visit` sees every row until it breaks off.
///
/// # Errors
/// When it is no backup, is not whole, or is damaged.
pub fn inspect(
    path: &Path,
    mut visit: impl FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>,
) -> Result<BackupInfo, LogError> {
    let unusable = |detail: String| LogError::Backup { path: path.to_owned(), detail };
    let file = File::open(path).map_err(|error| unusable(error.to_string()))?;
    let mut seeing = true;
    let read = snapshot::read(BufReader::new(file), |table, key, value| {
        seeing = seeing && visit(table, &key, &value).is_continue();
        Ok(())
    });
    let meta = read.map_err(|error| unusable(error.to_string()))?;
    let servers = meta.last_membership.nodes().map(|(_, place)| (place.name.clone(), place.address.clone()));
    let servers = servers.collect();
    Ok(BackupInfo { index: meta.last_log_id.map(|id| LogIndex(id.index)), servers })
}

/// Makes the log of server `node` in `directory`, which must be new, out of a backup. The server is the
/// only member of its cluster.
///
/// # Errors
/// When the backup is damaged, or the directory holds a log already.
pub fn restore(
    path: &Path,
    directory: &Path,
    node: NodeId,
    address: &str,
    name: &str,
) -> Result<(), LogError> {
    if directory.join("db").exists() {
        let why = format!("{} holds a log already; restore into a new data directory", directory.display());
        return Err(LogError::Config(why));
    }
    let store = Store::open(directory, node, None)?;
    snapshot::restore(&store, path, node, address, name)
}
