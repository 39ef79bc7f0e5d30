//! Prefers nodes with much left, and with processors and memory used alike.

use super::MAX;
use crate::needs::Needs;
use crate::view::NodeView;

/// The part that would be in use, in thousandths; processors and memory.
fn used(pod: &Needs, node: &NodeView) -> (i64, i64) {
    let part = |taken: i64, more: i64, has: i64| {
        if has <= 0 { 1000 } else { (taken.saturating_add(more).saturating_mul(1000) / has).clamp(0, 1000) }
    };
    (
        part(node.weight.0, pod.weight.0, node.allocatable.cpu_milli),
        // In KiB, so that thousandths of a large machine's memory do not overflow.
        part(node.weight.1 >> 10, pod.weight.1 >> 10, node.allocatable.memory >> 10),
    )
}

/// The more is left, the better.
pub(super) fn least_allocated(pod: &Needs, node: &NodeView) -> i64 {
    let (cpu, memory) = used(pod, node);
    (2000 - cpu - memory) * MAX / 2000
}

/// The more alike both are used, the better.
pub(super) fn balanced(pod: &Needs, node: &NodeView) -> i64 {
    let (cpu, memory) = used(pod, node);
    MAX - (cpu - memory).abs() * MAX / 2000
}
