//! Views that are kept because somebody is in the middle of a list.
//!
//! A continue token names a revision; its view is kept here until newer ones push it out. What it costs
//! is what has changed since: the rest is shared with the current view.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use balsa_model::Revision;
use balsa_model::kind::KindRef;

use crate::view::KindView;

/// The pinned views, the least recently used first.
pub(crate) struct Pins {
    views: Mutex<VecDeque<KindView>>,
    capacity: usize,
}

impl Pins {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { views: Mutex::new(VecDeque::new()), capacity }
    }

    /// Keeps a view.
    pub(crate) fn pin(&self, view: &KindView) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|other| !is(other, view.kind(), view.revision()));
        views.push_back(view.clone());
        while views.len() > self.capacity {
            views.pop_front();
        }
    }

    /// The view of a kind at exactly that revision, if it is kept.
    pub(crate) fn get(&self, kind: KindRef, revision: Revision) -> Option<KindView> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let at = views.iter().position(|view| is(view, kind, revision))?;
        let view = views.remove(at)?;
        views.push_back(view.clone());
        Some(view)
    }
}

fn is(view: &KindView, kind: KindRef, revision: Revision) -> bool {
    view.revision() == revision && view.kind() == kind
}
