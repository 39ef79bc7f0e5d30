//! The planner: places pods one after the other on a board that starts as the cluster and remembers
//! what it has placed. Pure: the same view and pods give the same decisions.

use std::sync::Arc;

use balsa_model::Key;

use crate::filters::{self, Prepared};
use crate::needs::Needs;
use crate::reasons::{Reason, Reasons};
use crate::scores;
use crate::view::{ClusterView, NodeView};

/// As many nodes that will do are enough to choose from, in a large cluster.
const ENOUGH: usize = 100;

/// What was decided about a pod.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The pod.
    pub pod: Arc<Needs>,
    /// Its node, or why it has none.
    pub outcome: Result<Placement, Reasons>,
}

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Claims that must hear of it first: their volumes are made for that node.
    pub claims: Vec<Key>,
}

/// A view, and what was placed since.
pub(crate) struct Board<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) nodes: Vec<Arc<NodeView>>,
    pub(crate) repelling: usize,
    /// How many pods were looked at: where the search starts, so that all nodes get their turn.
    turn: usize,
}

/// Decides about `pods`, in that order, each knowing what was decided before it.
pub fn plan(view: &ClusterView, pods: &[Arc<Needs>]) -> Vec<Decision> {
    let mut board = Board::new(view);
    let mut decisions = Vec::with_capacity(pods.len());
    for pod in pods {
        let outcome = board.place(pod).map(|(place, claims)| {
            board.repelling += usize::from(!pod.far.is_empty());
            Arc::make_mut(&mut board.nodes[place]).add(pod.clone());
            Placement { node: board.nodes[place].name.clone(), claims }
        });
        board.turn += 1;
        decisions.push(Decision { pod: pod.clone(), outcome });
    }
    decisions
}

/// Why a pod is where it is not: what each node has against it, whether or not some node would do.
/// Empty lists belong to nodes that would.
pub fn explain(view: &ClusterView, pod: &Needs) -> Result<Vec<(String, Vec<Reason>)>, Reasons> {
    let board = Board::new(view);
    let prepared =
        Prepared::new(pod, &board).map_err(|message| Reasons::pod_itself(board.nodes.len(), message))?;
    let explain_one = |node: &Arc<NodeView>| {
        let mut reasons = Vec::new();
        filters::check(pod, node, &prepared, &mut reasons);
        (node.name.clone(), reasons)
    };
    Ok(board.nodes.iter().map(explain_one).collect())
}

impl<'a> Board<'a> {
    /// A board on which nothing is placed yet.
    pub(crate) fn new(view: &'a ClusterView) -> Self {
        Self::with_nodes(view, view.nodes.clone())
    }

    /// A board that shows other nodes than the view.
    pub(crate) fn with_nodes(view: &'a ClusterView, nodes: Vec<Arc<NodeView>>) -> Self {
        Self { view, nodes, repelling: view.repelling, turn: 0 }
    }

    /// Whether a node will do, with those on it for whom others make way there.
    fn check(&self, pod: &Needs, place: usize, prepared: &Prepared, reasons: &mut Vec<Reason>) -> bool {
        let node = &self.nodes[place];
        let mut promised = self.view.nominated_on(&node.name, pod).peekable();
        if promised.peek().is_none() {
            return filters::check(pod, node, prepared, reasons);
        }
        let mut with = NodeView::clone(node);
        for other in promised {
            if !node.pods.iter().any(|there| there.uid == other.uid) {
                with.add(other.clone());
            }
        }
        filters::check(pod, &with, prepared, reasons)
    }

    /// The best node for a pod, and the claims that wait for it to have one.
    fn place(&self, pod: &Needs) -> Result<(usize, Vec<Key>), Reasons> {
        let total = self.nodes.len();
        let prepared = Prepared::new(pod, self).map_err(|message| Reasons::pod_itself(total, message))?;
        let enough = ENOUGH.max(total / 20);
        let mut candidates = Vec::new();
        let mut why = Reasons::over(total);
        let mut reasons = Vec::new();
        for step in 0..total {
            let place = (self.turn.wrapping_mul(enough) + step) % total;
            reasons.clear();
            if self.check(pod, place, &prepared, &mut reasons) {
                candidates.push(place);
                if candidates.len() >= enough {
                    break;
                }
            } else {
                why.add(&reasons);
            }
        }
        let best = match candidates.as_slice() {
            [] => return Err(why),
            [only] => *only,
            _ => self.best(pod, &candidates),
        };
        Ok((best, prepared.waiting_claims()))
    }

    fn best(&self, pod: &Needs, candidates: &[usize]) -> usize {
        let scores = scores::score(pod, candidates, self);
        // Among equals whose turn it is, so that a burst of equal pods does not fill one node.
        let turn = |place: usize| (place + self.turn) % self.nodes.len();
        let ranked = candidates.iter().zip(scores);
        ranked.max_by_key(|(place, score)| (*score, turn(**place))).map_or(0, |(place, _)| *place)
    }
}
