//! Preemption: which pods of less weight make way for one that found no node. Pure.
//!
//! On each node where the going of others could help, all pods of lower priority are taken off, and as
//! many as possible put back, the weightiest first, those that a disruption budget protects before the
//! rest. Of the nodes where that works the one is taken where it hurts least.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use balsa_model::Key;
use jiff::Timestamp;

use crate::board::Board;
use crate::filters::{self, Prepared};
use crate::needs::Needs;
use crate::view::{ClusterView, NodeView};

/// As many nodes where it works are enough to choose from.
const ENOUGH: usize = 100;

/// Who makes way for a pod, and where.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// The pods that are to go, but for those that make way for somebody else already.
    pub victims: Vec<Arc<Needs>>,
}

struct Candidate {
    place: usize,
    victims: Vec<Arc<Needs>>,
    /// How many of them go against a disruption budget.
    violations: usize,
}

/// Finds the pods that make way for `pod`; `None` when that would not help, or `pod` does not want it.
pub fn preempt(view: &ClusterView, pod: &Needs) -> Option<Preemption> {
    if !pod.preempts || waits_for_victims(view, pod) {
        return None;
    }
    let board = Board::new(view);
    let prepared = Prepared::new(pod, &board).ok()?;
    let mut candidates = Vec::new();
    for place in 0..board.nodes.len() {
        let node = &board.nodes[place];
        if !node.pods.iter().any(|other| other.priority < pod.priority) {
            continue;
        }
        let mut reasons = Vec::new();
        filters::check(pod, node, &prepared, &mut reasons);
        if reasons.iter().all(|reason| reason.is_resolvable())
            && let Some(candidate) = on_node(&board, &prepared, pod, place)
        {
            candidates.push(candidate);
            if candidates.len() >= ENOUGH {
                break;
            }
        }
    }
    let mut best = candidates.into_iter().min_by_key(Candidate::cost)?;
    // Nobody is sent away twice.
    best.victims.retain(|victim| !view.makes_way(&victim.uid, pod));
    Some(Preemption { node: board.nodes[best.place].name.clone(), victims: best.victims })
}

/// Whether pods are on their way out for it already.
fn waits_for_victims(view: &ClusterView, pod: &Needs) -> bool {
    let Some(node) = view.nominated_node(&pod.uid) else { return false };
    let leaves = |other: &Arc<Needs>| other.leaving && other.priority < pod.priority;
    view.nodes.iter().any(|there| there.name == node && there.pods.iter().any(leaves))
}

impl Candidate {
    /// The lower, the better: budgets first, then the weight of the weightiest, then of all, then how many
    /// they are, then how long the weightiest has run.
    fn cost(&self) -> impl Ord + use<> {
        let highest = self.victims.iter().map(|victim| victim.priority).max();
        let sum: i64 = self.victims.iter().map(|v| i64::from(v.priority) - i64::from(i32::MIN)).sum();
        let weightiest = self.victims.iter().filter(|victim| Some(victim.priority) == highest);
        let earliest = weightiest.filter_map(|victim| victim.started).min().unwrap_or(Timestamp::MAX);
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest))
    }
}

fn on_node(board: &Board<'_>, prepared: &Prepared, pod: &Needs, place: usize) -> Option<Candidate> {
    let before = &board.nodes[place];
    let (lower, staying): (Vec<_>, Vec<_>) =
        before.pods.iter().cloned().partition(|other| other.priority < pod.priority);
    let mut node = before.emptied();
    // Those for whom others make way here already count as if they were here.
    let promised = board.view.nominated_on(&before.name, pod).cloned();
    let promised = promised.filter(|other| before.pods.iter().all(|there| there.uid != other.uid));
    for other in staying.into_iter().chain(promised) {
        node.add(other);
    }
    if !fits(board, prepared, pod, place, &node) {
        return None;
    }
    let (mut protected, mut free) = split_by_budget(board.view, lower);
    let mut candidate = Candidate { place, victims: Vec::new(), violations: 0 };
    for (group, violates) in [(&mut protected, true), (&mut free, false)] {
        group.sort_by_key(|other| (Reverse(other.priority), other.started, other.uid.clone()));
        for other in group.drain(..) {
            let mut with = node.clone();
            with.add(other.clone());
            if fits(board, prepared, pod, place, &with) {
                node = with;
            } else {
                candidate.violations += usize::from(violates);
                candidate.victims.push(other);
            }
        }
    }
    (!candidate.victims.is_empty()).then_some(candidate)
}

/// Whether the pod could be on that node if it looked like `node`.
fn fits(board: &Board<'_>, prepared: &Prepared, pod: &Needs, place: usize, node: &NodeView) -> bool {
    let mut reasons = Vec::new();
    let looks_around =
        !pod.near.is_empty() || !pod.far.is_empty() || !pod.spread.is_empty() || board.repelling > 0;
    if !looks_around {
        return filters::check(pod, node, prepared, &mut reasons);
    }
    let mut nodes = board.nodes.clone();
    nodes[place] = Arc::new(node.clone());
    let changed = Board::with_nodes(board.view, nodes);
    let Ok(prepared) = Prepared::new(pod, &changed) else { return false };
    filters::check(pod, node, &prepared, &mut reasons)
}

/// Pods whose going breaks a budget, and the others. Each budget allows so many, the weightiest are
/// counted first.
fn split_by_budget(view: &ClusterView, mut pods: Vec<Arc<Needs>>) -> (Vec<Arc<Needs>>, Vec<Arc<Needs>>) {
    pods.sort_by_key(|pod| (Reverse(pod.priority), pod.started, pod.uid.clone()));
    let mut left: HashMap<&Key, i32> =
        view.budgets.iter().map(|(key, budget)| (key, budget.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (key, budget) in &view.budgets {
            if key.namespace != pod.key.namespace
                || !budget.selector.matches(Some(&pod.labels))
                || pod.leaving
            {
                continue;
            }
            if let Some(left) = left.get_mut(key) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}
