//! A new cluster out of a backup: new ids for cluster and server, so that nobody of the old one can come
//! back into it.

use std::path::Path;

use crate::identity::ServerId;
use crate::server::ServerError;

/// Makes the data directory of the first server of a new cluster.
///
/// # Errors
/// When the directory holds a server already, or the backup cannot be used.
pub fn restore(backup: &Path, directory: &Path, name: &str) -> Result<(), ServerError> {
    if ServerId::load(directory)?.is_some() {
        let why =
            format!("{} holds a server already; restore into a new data directory", directory.display());
        return Err(ServerError::Config(why));
    }
    let id = ServerId::new(balsa_rt::new_uid(), name);
    // Where it will be is known at its start; the leader puts that right.
    balsa_log::backup::restore(backup, &directory.join("log"), id.id, "restored:0", name)?;
    id.store(directory)?;
    Ok(())
}
