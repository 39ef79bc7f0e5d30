//! The disk of a server: it can be slow, it can fail, and at a crash it loses what was not synced.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use balsa_log::DiskFaults;
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Disk {
    dir: TempDir,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    delay: Duration,
    failing: bool,
    /// Length of each write-ahead log at the last sync.
    synced: BTreeMap<PathBuf, u64>,
}

impl Disk {
    pub(crate) fn new(dir: TempDir) -> Self {
        Self { dir, state: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    pub(crate) fn set_failing(&self, failing: bool) {
        self.state.lock().unwrap().failing = failing;
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.state.lock().unwrap().failing
    }

    /// Takes away what was written since the last sync. RocksDB must be closed. Only the youngest
    /// write-ahead log can have such a tail: RocksDB syncs the others before it does without them.
    pub(crate) fn lose_unsynced(&self) {
        let state = self.state.lock().unwrap();
        let Some((youngest, length)) = self.logs().pop_last() else { return };
        let synced = state.synced.get(&youngest).copied().unwrap_or(0);
        if synced < length {
            OpenOptions::new().write(true).open(&youngest).unwrap().set_len(synced).unwrap();
        }
    }

    /// RocksDB's write-ahead logs, oldest first, and their lengths.
    fn logs(&self) -> BTreeMap<PathBuf, u64> {
        let Ok(entries) = std::fs::read_dir(self.path().join("db")) else { return BTreeMap::new() };
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
            .map(|entry| (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len())))
            .collect()
    }
}

impl DiskFaults for Disk {
    fn delay(&self) -> Duration {
        self.state.lock().unwrap().delay
    }

    fn sync(&self) -> io::Result<()> {
        match self.state.lock().unwrap().failing {
            true => Err(io::Error::other("simulated: the disk does not sync")),
            false => Ok(()),
        }
    }

    fn synced(&self) {
        let logs = self.logs();
        self.state.lock().unwrap().synced = logs;
    }
}
