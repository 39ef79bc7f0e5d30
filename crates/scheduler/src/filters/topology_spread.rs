//! Topology spread constraints: no domain may have many more of the selected pods than another.

use std::collections::HashMap;

use super::node_affinity;
use crate::board::Board;
use crate::needs::{Needs, Spread};
use crate::reasons::Reason;
use crate::view::NodeView;

/// For each hard constraint: how many selected pods each domain has.
pub(crate) struct Domains(Vec<(Spread, HashMap<String, i64>)>);

impl Domains {
    /// Counts over the nodes that the pod could go to at all.
    pub(crate) fn of(pod: &Needs, board: &Board<'_>) -> Self {
        let hard = pod.spread.iter().filter(|spread| spread.hard);
        Self(hard.map(|spread| (spread.clone(), count(spread, pod, board))).collect())
    }

    /// Objects to domains that have too many already.
    pub(super) fn check(&self, pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
        for (spread, counts) in &self.0 {
            let Some(value) = node.labels.get(&spread.topology_key) else {
                let text = "node(s) didn't match pod topology spread constraints (missing required label)";
                reasons.push(Reason::Unfit(text));
                return;
            };
            let fewest = counts.values().min().copied().unwrap_or(0);
            let fewest = if counts.len() < spread.min_domains { 0 } else { fewest };
            let here = counts.get(value).copied().unwrap_or(0);
            let itself = i64::from(spread.selector.matches(Some(&pod.labels)));
            if here + itself - fewest > spread.max_skew {
                reasons.push(Reason::Occupied("node(s) didn't match pod topology spread constraints"));
                return;
            }
        }
    }
}

/// How many of the pods that a constraint selects each domain has.
pub(crate) fn count(spread: &Spread, pod: &Needs, board: &Board<'_>) -> HashMap<String, i64> {
    let mut counts: HashMap<String, i64> = HashMap::new();
    let mut reasons = Vec::new();
    for node in &board.nodes {
        let Some(value) = node.labels.get(&spread.topology_key) else { continue };
        reasons.clear();
        node_affinity::check(pod, node, &mut reasons);
        if !reasons.is_empty() {
            continue;
        }
        let selected = node.pods.iter().filter(|other| {
            other.key.namespace == pod.key.namespace && spread.selector.matches(Some(&other.labels))
        });
        *counts.entry(value.clone()).or_default() += i64::try_from(selected.count()).unwrap_or(i64::MAX);
    }
    counts
}
