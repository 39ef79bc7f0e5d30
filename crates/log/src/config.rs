//! What the log must be told, with defaults for everything that has a sensible one.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::LogError;
use crate::types::NodeId;

/// A disk that misbehaves, for tests and simulations: asked at every sync of the log.
pub trait DiskFaults: Debug + Send + Sync + 'static {
    /// How much longer the next sync takes.
    fn delay(&self) -> Duration;

    /// Whether the next sync succeeds.
    ///
    /// # Errors
    /// When it is to fail.
    fn sync(&self) -> io::Result<()>;

    /// All that was written up to here would outlive a loss of power.
    fn synced(&self);
}

/// How often a leader says that it lives, in a LAN.
pub const HEARTBEAT: Duration = Duration::from_millis(50);
/// The leader's lease in a LAN, and the longest that a follower waits after it.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(250);

/// How one server keeps the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Where RocksDB lives; made when it is not there.
    pub data_dir: PathBuf,
    /// This server, for ever.
    pub node_id: NodeId,
    /// `host:port` where other servers reach this one.
    pub address: String,
    /// What people call this server.
    pub name: String,
    /// How often a leader says that it lives.
    pub heartbeat: Duration,
    /// How long a follower without a leader waits before it stands: at least, less than. The upper
    /// bound is also the leader's lease.
    pub election: (Duration, Duration),
    /// Entries after which the log is compacted.
    pub snapshot_after: u64,
    /// Bytes of entries after which it is compacted, too. Some dozen megabytes come on top: RocksDB counts what
    /// it has not rewritten yet.
    pub max_log_bytes: u64,
    /// Entries kept at compaction, so that a server that was away for a moment needs no snapshot.
    pub keep_entries: u64,
    /// Largest payload of one proposal.
    pub max_payload: usize,
    /// Proposals under way at which further ones are refused. What the leader's own work proposes has a
    /// little room beyond it: leases are renewed while clients are told to wait.
    pub max_pending: usize,
    /// The same in bytes of their payloads, which are in memory until a quorum has them.
    pub max_pending_bytes: usize,
    /// After this the outcome of a proposal is reported as unknown.
    pub propose_timeout: Duration,
    /// Bytes of recent entries kept in memory for applying and replicating.
    pub cache_bytes: usize,
    /// What is wrong with the disk; nothing in programs.
    pub faults: Option<Arc<dyn DiskFaults>>,
}

impl LogConfig {
    /// The defaults for a server in a LAN.
    pub fn new(data_dir: impl Into<PathBuf>, node_id: NodeId, address: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_id,
            address: address.into(),
            name: String::new(),
            heartbeat: HEARTBEAT,
            election: Self::election(ELECTION_TIMEOUT),
            snapshot_after: 20_000,
            max_log_bytes: 256 << 20,
            keep_entries: 5_000,
            max_payload: 8 << 20,
            max_pending: 10_000,
            max_pending_bytes: 256 << 20,
            propose_timeout: Duration::from_secs(10),
            cache_bytes: 8 << 20,
            faults: None,
        }
    }

    /// How long a follower waits at least and at most when the leader's lease of `timeout` is over: far enough apart that
    /// two of them seldom stand at the same time.
    pub fn election(timeout: Duration) -> (Duration, Duration) {
        (timeout * 3 / 5, timeout)
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config, LogError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        if self.heartbeat < Duration::from_millis(1) || self.election.1 < self.heartbeat * 5 {
            let (heartbeat, election) = (self.heartbeat, self.election.1);
            return Err(LogError::Config(format!(
                "the election timeout, {election:?}, must be five times the heartbeat interval, {heartbeat:?}, or \
                 more, and that a millisecond"
            )));
        }
        let config = openraft::Config {
            cluster_name: "balsa".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: millis(self.election.1),
            // For installing what has arrived: the pieces before it have times of their own.
            install_snapshot_timeout: 600_000,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // A purge is one range tombstone: worth it for many entries only.
            purge_batch_size: (self.snapshot_after / 2).max(1),
            enable_pre_vote: Some(true),
            // openraft would let a restarted leader lead on in its term, with what it still knows to be committed. We
            // do not sync that (the log is the truth, see `writer::Committed`), so after a loss of power it may be less
            // than what was shown to readers before: only an election, and the entry that it begins with, is certain.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| LogError::Config(error.to_string()))
    }
}

/// A disk whose syncs fail when they are told to.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct FailingDisk(std::sync::atomic::AtomicBool);

#[cfg(test)]
impl FailingDisk {
    pub(crate) fn fail(&self, fail: bool) {
        self.0.store(fail, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
impl DiskFaults for FailingDisk {
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    fn sync(&self) -> io::Result<()> {
        match self.0.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(io::Error::other("injected")),
            false => Ok(()),
        }
    }

    fn synced(&self) {}
}
