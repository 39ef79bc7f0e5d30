//! Servers hold their states against each other, and one whose state differs is rebuilt.
//!
//! Every server looks for itself: it asks the others for the digest of their state at an index, and compares
//! it with its own at the same index. A server that is alone with its digest hands leadership over, answers
//! nobody any more (`/readyz` says so), and takes the tables of one of the majority. Where there is no majority
//! nobody can tell who is right: all say so, and nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use balsa_log::LogError;
use balsa_state::{Check, Comparison, Replicas};

use super::Members;

/// How often states are compared.
const EVERY: Duration = Duration::from_secs(5);

impl Members {
    /// What comparing states came to, if it is not well.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_doubt(&self, doubt: Option<String>) {
        *self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
    }

    /// Asks all others for the digest of their state.
    async fn hear(&self, replicas: &mut Replicas) {
        let others = self.log().members().into_iter().filter(|member| member.node_id != self.id().id);
        let asked = others.map(async |member| (member.node_id, self.ask(member.node_id).await));
        for (node, said) in futures::future::join_all(asked).await {
            let Ok(said) = said else { continue };
            let check = Check { index: said.checked_index, hash: said.checked_hash };
            replicas.hear(node, (!check.hash.is_empty()).then_some(check));
        }
    }

    fn names(&self, nodes: &BTreeSet<u64>) -> String {
        let known: BTreeMap<u64, String> =
            self.log().members().into_iter().map(|member| (member.node_id, member.name)).collect();
        let name = |node: &u64| known.get(node).filter(|name| !name.is_empty()).cloned();
        let names: Vec<String> =
            nodes.iter().map(|node| name(node).unwrap_or_else(|| node.to_string())).collect();
        names.join(", ")
    }
}

/// Compares for ever. Ends with an error when this server's state is wrong and cannot be replaced while it
/// runs: at the next start it is.
pub(crate) async fn check_replicas(members: Members) -> Result<(), String> {
    describe();
    let mut replicas = Replicas::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        members.hear(&mut replicas).await;
        let log = members.log();
        let voters = log.members().into_iter().filter(|member| member.voter).map(|member| member.node_id);
        let own = members.0.state.checks();
        match replicas.compare(members.id().id, &voters.collect(), &own) {
            // Nothing new to compare does not undo what was found.
            Comparison::Nothing => {}
            Comparison::Same(index) => {
                agreed(index);
                members.set_doubt(None);
            }
            Comparison::OthersWrong { index, wrong } => {
                agreed(index);
                let wrong = members.names(&wrong);
                tracing::error!(index, wrong, "other servers have another state than the majority");
                members.set_doubt(None);
            }
            Comparison::Undecided { index } => {
                tracing::error!(
                    index,
                    "servers have different states, and there is no majority for any of them"
                );
                count("undecided");
                members.set_doubt(Some(format!(
                    "at entry {index} servers have different states, and no majority has the same: take a backup \
                     of each, and restore the right one"
                )));
            }
            Comparison::Wrong { index, right } => {
                let with = members.names(&right);
                tracing::error!(
                    index,
                    with,
                    "this server has another state than the majority; it is rebuilt"
                );
                count("wrong");
                members.set_doubt(Some(format!(
                    "its state differs from the others' at entry {index}; it is rebuilt"
                )));
                if rebuild(&members, &right).await? {
                    replicas.forget();
                    members.set_doubt(None);
                }
            }
        }
    }
}

/// Takes the tables of one of `right`. `false`: none of them gives them now.
async fn rebuild(members: &Members, right: &BTreeSet<u64>) -> Result<bool, String> {
    let log = members.log();
    for from in right {
        match log.rebuild(*from).await {
            Ok(index) => {
                tracing::warn!(from, index = index.0, "this server was rebuilt from another one's tables");
                return Ok(true);
            }
            Err(LogError::Transport(why)) => {
                tracing::warn!(from, why, "another server does not give its tables")
            }
            // The tables are half replaced, or the log has stopped.
            Err(error) => return Err(format!("this server cannot be rebuilt while it runs: {error}")),
        }
    }
    Ok(false)
}

fn describe() {
    metrics::describe_counter!(
        "balsa_replicas_differ_total",
        "Times this server's state was not that of the majority (wrong), or there was none (undecided)"
    );
    metrics::describe_gauge!(
        "balsa_replicas_compared_index",
        "The last entry at which this server's state was seen to be that of the others"
    );
    for what in ["wrong", "undecided"] {
        metrics::counter!("balsa_replicas_differ_total", "what" => what).increment(0);
    }
}

/// The states were compared at this index, and this server's is right.
fn agreed(index: u64) {
    metrics::gauge!("balsa_replicas_compared_index").set(index as f64);
}

fn count(what: &'static str) {
    metrics::counter!("balsa_replicas_differ_total", "what" => what).increment(1);
}
