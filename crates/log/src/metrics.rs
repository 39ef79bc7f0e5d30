//! Every metric of the log, declared once.

use metrics::{counter, gauge, histogram};
use std::time::Duration;

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
    metrics::describe_gauge!("balsa_raft_term", "Term this server is in");
    metrics::describe_gauge!("balsa_raft_is_leader", "1 on the server that leads");
    metrics::describe_counter!("balsa_raft_leader_changes_total", "Changes of leader seen by this server");
    metrics::describe_gauge!("balsa_log_proposals_pending", "Proposals waiting for their reply");
    metrics::describe_counter!("balsa_log_proposals_failed_total", "Proposals without a reply, by reason");
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

pub(crate) fn proposals_pending(count: usize) {
    gauge!("balsa_log_proposals_pending").set(count as f64);
}

pub(crate) fn proposal_failed(reason: &'static str) {
    counter!("balsa_log_proposals_failed_total", "reason" => reason).increment(1);
}
