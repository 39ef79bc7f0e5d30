//! A node gives what it has once.

use crate::needs::Needs;
use crate::reasons::Reason;
use crate::view::NodeView;

/// Objects to nodes that have too little left; names every resource that is short.
pub(super) fn check(pod: &Needs, node: &NodeView, reasons: &mut Vec<Reason>) {
    let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if count >= node.max_pods {
        reasons.push(Reason::Occupied("Too many pods"));
    }
    let mut short = |resource: &str, asked: i64, has: i64, taken: i64| {
        if asked == 0 || asked <= has.saturating_sub(taken) {
            return;
        }
        let name = resource.to_owned();
        reasons.push(if asked > has { Reason::TooSmall(name) } else { Reason::Insufficient(name) });
    };
    let (asked, has, taken) = (&pod.requests, &node.allocatable, &node.requested);
    short("cpu", asked.cpu_milli, has.cpu_milli, taken.cpu_milli);
    short("memory", asked.memory, has.memory, taken.memory);
    short("ephemeral-storage", asked.ephemeral_storage, has.ephemeral_storage, taken.ephemeral_storage);
    for (name, amount) in &asked.other {
        let of = |list: &std::collections::BTreeMap<String, i64>| list.get(name).copied().unwrap_or(0);
        short(name, *amount, of(&has.other), of(&taken.other));
    }
}
