//! Pictures of the past: what is there now, with the changes since taken back, newest first.
//!
//! The rows that have not changed are shared with the current view, so that an old picture costs what
//! has changed since.

use std::sync::Arc;

use balsa_model::Revision;

use crate::event::SharedChange;
use crate::view::{KindView, Row};

/// `current` as it was at `revision`. `changes` are all that came after it, in their order; those that
/// are newer than `current` are passed over.
pub(crate) fn before(current: &KindView, changes: &[Arc<SharedChange>], revision: Revision) -> KindView {
    let mut rows = current.rows().as_ref().clone();
    let seen =
        |change: &&Arc<SharedChange>| change.revision() > revision && change.revision() <= current.revision();
    for change in changes.iter().rev().filter(seen) {
        match &change.change.old {
            Some(old) => {
                // Claims are the fold's, which never sees this picture.
                let row = Row::new(old.clone(), change.old_fields.clone(), Arc::default());
                rows.insert(row);
            }
            None => drop(rows.remove(&change.change.key)),
        }
    }
    rows.changed = revision;
    KindView::new(Arc::new(rows), revision)
}
