//! Prefers nodes that have the pod's images already.

use super::MAX;
use crate::needs::Needs;
use crate::view::NodeView;

/// Images this large or larger, together, are worth the whole score; smaller ones load quickly anyway.
const LARGE: i64 = 1000 * 1024 * 1024;

/// The more bytes of the pod's images are there, the better.
pub(super) fn score(pod: &Needs, node: &NodeView) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let there: i64 = pod.images.iter().filter_map(|image| node.images.get(image)).sum();
    there.min(LARGE) * MAX / LARGE
}
