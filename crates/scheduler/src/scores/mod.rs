//! Scores: which of the nodes that will do is the best. One file each; each gives 0 to 100 a node.

mod image_locality;
mod node_affinity;
mod node_resources;
mod pod_affinity;
mod spread;
mod taint_toleration;

use crate::board::Board;
use crate::needs::Needs;
use crate::view::NodeView;

/// The best that a score gives.
const MAX: i64 = 100;

/// The nodes of `candidates` (places on the board) with their totals.
pub(crate) fn score(pod: &Needs, candidates: &[usize], board: &Board<'_>) -> Vec<i64> {
    let nodes: Vec<&NodeView> = candidates.iter().map(|place| &*board.nodes[*place]).collect();
    let mut totals: Vec<i64> = nodes
        .iter()
        .map(|node| {
            node_resources::least_allocated(pod, node)
                + node_resources::balanced(pod, node)
                + image_locality::score(pod, node)
        })
        .collect();
    add(&mut totals, 3, fewer_is_better(taint_toleration::count(pod, &nodes)));
    add(&mut totals, 2, more_is_better(node_affinity::count(pod, &nodes)));
    add(&mut totals, 2, more_is_better(pod_affinity::count(pod, &nodes, board)));
    add(&mut totals, 4, fewer_is_better(spread::count(pod, &nodes, board)));
    totals
}

fn add(totals: &mut [i64], weight: i64, scores: Option<Vec<i64>>) {
    for (total, score) in totals.iter_mut().zip(scores.into_iter().flatten()) {
        *total += weight * score;
    }
}

/// Stretches counts to 0..=100; `None` when they tell no node from another.
fn more_is_better(counts: Vec<i64>) -> Option<Vec<i64>> {
    let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
    (least != most).then(|| counts.iter().map(|count| (count - least) * MAX / (most - least)).collect())
}

fn fewer_is_better(counts: Vec<i64>) -> Option<Vec<i64>> {
    more_is_better(counts.into_iter().map(|count| -count).collect())
}
