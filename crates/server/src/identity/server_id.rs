//! Which server this is, of which cluster: `DIR/server.json`, made at the first start.
//!
//! A server's id is drawn at random and never given to another one. The cluster's id stands in the
//! certificates of its servers: one that was restored or formed anew has another, so that servers of
//! the time before are strangers to it.

use std::path::Path;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::authority::{IdentityError, write_private};

const FILE: &str = "server.json";
/// Where the log of a server was before servers had ids of their own; that one's id is 1.
const LOG: &str = "log/db";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerId {
    /// The cluster.
    pub cluster: String,
    /// The server.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Whether the others have still to take it in.
    #[serde(default)]
    pub entering: bool,
    /// What it learned of the cluster when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedSettings>,
    /// The cluster that it was to form by itself, its own being lost; done when that is `cluster`. The next
    /// start without `--force-new-cluster` forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<String>,
}

/// What all servers of a cluster must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedSettings {
    /// Where ClusterIPs come from.
    #[serde(with = "as_text")]
    pub service_cidr: ipnet::IpNet,
    /// Where nodes get their pod ranges from.
    #[serde(with = "as_text")]
    pub cluster_cidr: ipnet::IpNet,
    /// Where node ports come from, both ends included.
    pub node_ports: (u16, u16),
}

/// Ranges of addresses as people write them.
mod as_text {
    use ipnet::IpNet;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(range: &IpNet, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(range)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl ServerId {
    /// A new server. Ids stay within what JSON numbers hold exactly, and are short enough to be read out.
    pub fn new(cluster: String, name: &str) -> Self {
        let id = balsa_rt::Random.random_range(1_000_000..=u64::from(u32::MAX));
        Self { cluster, id, name: name.to_owned(), entering: false, shared: None, forced: None }
    }

    /// The server of a data directory; `None` when there has never been one.
    ///
    /// # Errors
    /// When the file cannot be read or is no such file.
    pub fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let read = serde_json::from_str(&text);
        read.map(Some).map_err(|error| IdentityError::Malformed(format!("{}: {error}", path.display())))
    }

    /// The server of a data directory, or the first one of a new cluster.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(directory: &Path, name: &str) -> Result<Self, IdentityError> {
        if let Some(mut known) = Self::load(directory)? {
            if known.name != name {
                name.clone_into(&mut known.name);
                known.store(directory)?;
            }
            return Ok(known);
        }
        let mut first = Self::new(balsa_rt::new_uid(), name);
        if directory.join(LOG).exists() {
            first.id = 1;
        }
        first.store(directory)?;
        Ok(first)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, directory: &Path) -> Result<(), IdentityError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| IdentityError::Malformed(error.to_string()))?;
        std::fs::create_dir_all(directory)
            .map_err(|source| IdentityError::File { path: directory.to_owned(), source })?;
        write_private(&directory.join(FILE), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_id_and_may_change_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let first = ServerId::open(directory.path(), "a").unwrap();
        let again = ServerId::open(directory.path(), "b").unwrap();
        assert_eq!((again.id, &again.cluster, again.name.as_str()), (first.id, &first.cluster, "b"));
        assert_ne!(ServerId::new(String::new(), "a").id, ServerId::new(String::new(), "a").id);
    }

    #[test]
    fn a_log_from_before_ids_is_that_of_server_one() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join(LOG)).unwrap();
        assert_eq!(ServerId::open(directory.path(), "a").unwrap().id, 1);
    }
}
