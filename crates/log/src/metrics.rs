//! Every metric of the log, declared once.
//!
//! Whoever reads them must be able to tell "never" from "not there": what counts rare things begins at zero.

use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};

/// Why a proposal may have no reply.
const REASONS: [&str; 6] = ["not_leader", "unknown", "overloaded", "too_large", "shutdown", "fatal"];

/// Describes the metrics to whatever recorder is installed.
pub(crate) fn describe() {
    metrics::describe_histogram!(
        "balsa_log_fsync_seconds",
        metrics::Unit::Seconds,
        "Time of one sync of the log to disk"
    );
    metrics::describe_histogram!(
        "balsa_log_apply_seconds",
        metrics::Unit::Seconds,
        "Time to apply one batch of committed entries"
    );
    metrics::describe_gauge!("balsa_log_apply_lag", "Entries committed and not yet applied here");
    metrics::describe_histogram!("balsa_log_batch_entries", "Entries written with one sync");
    metrics::describe_counter!(
        "balsa_log_rebuilds_total",
        "Times this server's tables were not to be trusted and were replaced by another server's"
    );
    metrics::describe_gauge!("balsa_raft_term", "Term this server is in");
    metrics::describe_gauge!("balsa_raft_is_leader", "1 on the server that leads");
    metrics::describe_counter!("balsa_raft_leader_changes_total", "Changes of leader seen by this server");
    metrics::describe_gauge!("balsa_log_readable", "1 where a read that sees everything can be served now");
    metrics::describe_gauge!("balsa_log_proposals_pending", "Proposals waiting for their reply");
    metrics::describe_counter!("balsa_log_proposals_failed_total", "Proposals without a reply, by reason");
    metrics::describe_gauge!(
        "balsa_raft_peer_lag",
        "On the leader: entries that another server has not got yet"
    );
    metrics::describe_gauge!(
        "balsa_log_store_bytes",
        metrics::Unit::Bytes,
        "Bytes of a table, in memory and on disk"
    );
    metrics::describe_histogram!(
        "balsa_raft_snapshot_seconds",
        metrics::Unit::Seconds,
        "Time to build, send, receive or install a snapshot"
    );
    for reason in REASONS {
        counter!("balsa_log_proposals_failed_total", "reason" => reason).absolute(0);
    }
    counter!("balsa_raft_leader_changes_total").absolute(0);
    proposals_pending(0);
    apply_lag(0);
    for work in [SnapshotWork::Build, SnapshotWork::Send, SnapshotWork::Receive, SnapshotWork::Install] {
        drop(work.histogram());
    }
}

/// What is done with a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SnapshotWork {
    /// Making the tables stand in for entries.
    Build,
    /// To a server that lacks entries which are gone.
    Send,
    /// From the leader, up to the checksum.
    Receive,
    /// In place of one's own tables.
    Install,
}

impl SnapshotWork {
    fn histogram(self) -> metrics::Histogram {
        let work = match self {
            Self::Build => "build",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Install => "install",
        };
        histogram!("balsa_raft_snapshot_seconds", "work" => work)
    }

    /// It went well, and had begun then.
    pub(crate) fn done(self, begun: Instant) {
        self.histogram().record(begun.elapsed().as_secs_f64());
    }
}

pub(crate) fn readable(is_readable: bool) {
    gauge!("balsa_log_readable").set(if is_readable { 1.0 } else { 0.0 });
}

/// How many entries another server has not got yet.
pub(crate) fn peer_lag(peer: &str, entries: u64) {
    gauge!("balsa_raft_peer_lag", "peer" => peer.to_owned()).set(entries as f64);
}

pub(crate) fn store_bytes(table: &'static str, bytes: u64) {
    gauge!("balsa_log_store_bytes", "table" => table).set(bytes as f64);
}

pub(crate) fn fsync(took: Duration) {
    histogram!("balsa_log_fsync_seconds").record(took.as_secs_f64());
}

pub(crate) fn batch(entries: usize) {
    histogram!("balsa_log_batch_entries").record(entries as f64);
}

pub(crate) fn apply(took: Duration) {
    histogram!("balsa_log_apply_seconds").record(took.as_secs_f64());
}

pub(crate) fn apply_lag(entries: u64) {
    gauge!("balsa_log_apply_lag").set(entries as f64);
}

pub(crate) fn leadership(term: u64, is_leader: bool) {
    gauge!("balsa_raft_term").set(term as f64);
    gauge!("balsa_raft_is_leader").set(if is_leader { 1.0 } else { 0.0 });
}

pub(crate) fn leader_changed() {
    counter!("balsa_raft_leader_changes_total").increment(1);
}

pub(crate) fn rebuilt() {
    counter!("balsa_log_rebuilds_total").increment(1);
}

pub(crate) fn proposals_pending(count: usize) {
    gauge!("balsa_log_proposals_pending").set(count as f64);
}

pub(crate) fn proposal_failed(reason: &'static str) {
    counter!("balsa_log_proposals_failed_total", "reason" => reason).increment(1);
}
