//! Pods that want to be near other pods, or far from them, and pods that keep others away.

use std::collections::HashSet;

use crate::board::Board;
use crate::needs::{Needs, Neighbours};
use crate::reasons::Reason;
use crate::view::NodeView;

/// For each term of a pod: where (values of its topology label) the pods are that it means.
pub(crate) struct Neighbourhood {
    near: Vec<(Neighbours, HashSet<String>)>,
    far: Vec<(Neighbours, HashSet<String>)>,
    /// `(topology label, value)` where pods are that keep this one away.
    forbidden: HashSet<(String, String)>,
    /// No pod is there yet that the terms mean, but the pod itself is one: the first of a flock.
    first_of_flock: bool,
}

impl Neighbourhood {
    /// Looks for the neighbours of `pod` on all nodes.
    pub(crate) fn of(pod: &Needs, board: &Board<'_>) -> Self {
        let near = find_all(&pod.near, board);
        let far = find_all(&pod.far, board);
        let alone = !near.is_empty() && near.iter().all(|(_, values)| values.is_empty());
        let itself =
            || pod.near.iter().all(|term| term.selects(pod, |name| board.view.namespace_labels(name)));
        let first_of_flock = alone && itself();
        Self { first_of_flock, near, far, forbidden: forbidden(pod, board) }
    }

    /// Objects to nodes in the wrong company.
    pub(super) fn check(&self, _pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
        let there = |(term, values): &(Neighbours, HashSet<String>)| {
            node.labels.get(&term.topology_key).is_some_and(|value| values.contains(value))
        };
        let has_labels = self.near.iter().all(|(term, _)| node.labels.contains_key(&term.topology_key));
        if !self.near.is_empty() && !(has_labels && (self.first_of_flock || self.near.iter().all(there))) {
            reasons.push(Reason::Unfit("node(s) didn't match pod affinity rules"));
        } else if self.far.iter().any(there) {
            reasons.push(Reason::Occupied("node(s) didn't match pod anti-affinity rules"));
        } else if self.forbidden.iter().any(|(key, value)| node.labels.get(key) == Some(value)) {
            reasons.push(Reason::Occupied("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
    }
}

fn find_all(terms: &[Neighbours], board: &Board<'_>) -> Vec<(Neighbours, HashSet<String>)> {
    terms.iter().map(|term| (term.clone(), find(term, board))).collect()
}

fn find(term: &Neighbours, board: &Board<'_>) -> HashSet<String> {
    let mut values = HashSet::new();
    for node in &board.nodes {
        let Some(value) = node.labels.get(&term.topology_key).filter(|value| !values.contains(*value)) else {
            continue;
        };
        if node.pods.iter().any(|pod| term.selects(pod, |name| board.view.namespace_labels(name))) {
            values.insert(value.clone());
        }
    }
    values
}

fn forbidden(pod: &Needs, board: &Board<'_>) -> HashSet<(String, String)> {
    let mut found = HashSet::new();
    if board.repelling == 0 {
        return found;
    }
    for node in &board.nodes {
        for term in node.pods.iter().flat_map(|other| &other.far) {
            let Some(value) = node.labels.get(&term.topology_key) else { continue };
            if term.selects(pod, |name| board.view.namespace_labels(name)) {
                found.insert((term.topology_key.clone(), value.clone()));
            }
        }
    }
    found
}
