//! Every metric of the state, declared once.

use std::time::Duration;

use balsa_model::kind::KindRef;
use metrics::{Counter, Gauge, counter, gauge, histogram};

use crate::history::Extent;

/// Describes the metrics to whatever recorder is installed.
pub(crate) fn describe() {
    metrics::describe_gauge!("apiserver_storage_objects", "Objects, by resource");
    metrics::describe_gauge!("balsa_state_watchers", "Watches of this server, by resource");
    metrics::describe_counter!(
        "balsa_state_watchers_cut_total",
        "Watches cut off because they did not keep up or a snapshot replaced the state, by resource"
    );
    metrics::describe_histogram!(
        "balsa_state_fold_seconds",
        metrics::Unit::Seconds,
        "Time from a batch of committed entries to its replies and writes"
    );
    metrics::describe_histogram!(
        "balsa_state_publish_seconds",
        metrics::Unit::Seconds,
        "Time to publish the views of a batch"
    );
    metrics::describe_histogram!("balsa_state_entry_mutations", "Mutations proposed with one entry");
    metrics::describe_gauge!("balsa_state_mailbox", "Messages that wait for an actor, by resource");
    metrics::describe_gauge!("balsa_state_revision", "The revision that this server has reached");
    metrics::describe_gauge!("balsa_state_history_changes", "Changes kept in the history");
    metrics::describe_gauge!("balsa_state_history_bytes", "Bytes of the history");
    metrics::describe_counter!("balsa_state_refused_total", "Mutations that were refused");
}

pub(crate) fn folded(took: Duration, refused: u64, history: Extent) {
    histogram!("balsa_state_fold_seconds").record(took.as_secs_f64());
    counter!("balsa_state_refused_total").increment(refused);
    gauge!("balsa_state_history_changes").set(history.changes as f64);
    gauge!("balsa_state_history_bytes").set(history.bytes as f64);
}

pub(crate) fn proposed(mutations: usize) {
    histogram!("balsa_state_entry_mutations").record(mutations as f64);
}

pub(crate) fn published(took: Duration, revision: u64) {
    histogram!("balsa_state_publish_seconds").record(took.as_secs_f64());
    gauge!("balsa_state_revision").set(revision as f64);
}

/// The metrics of one kind, looked up once.
pub(crate) struct Labels {
    objects: Gauge,
    watchers: Gauge,
    cut: Counter,
    mailbox: Gauge,
}

impl Labels {
    pub(crate) fn new(kind: KindRef) -> Self {
        let resource = kind.descriptor().resource();
        Self {
            objects: gauge!("apiserver_storage_objects", "resource" => resource.clone()),
            watchers: gauge!("balsa_state_watchers", "resource" => resource.clone()),
            cut: counter!("balsa_state_watchers_cut_total", "resource" => resource.clone()),
            mailbox: gauge!("balsa_state_mailbox", "resource" => resource),
        }
    }

    pub(crate) fn objects(&self, count: usize) {
        self.objects.set(count as f64);
    }

    pub(crate) fn watchers(&self, count: usize) {
        self.watchers.set(count as f64);
    }

    pub(crate) fn cut(&self, count: usize) {
        self.cut.increment(count as u64);
    }

    pub(crate) fn mailbox(&self, count: usize) {
        self.mailbox.set(count as f64);
    }
}
