//! Who depends on whom, by UID. Disposable: rebuilt from the caches at start.

use std::collections::{HashMap, HashSet};

use super::AnyKey;

/// The references of all objects, the other way round.
#[derive(Default)]
pub(super) struct Index {
    dependents: HashMap<String, HashSet<AnyKey>>,
}

impl Index {
    /// `dependent` refers to the owner with that UID.
    pub(super) fn link(&mut self, owner: &str, dependent: &AnyKey) {
        self.dependents.entry(owner.to_owned()).or_default().insert(dependent.clone());
    }

    /// `dependent` does so no longer.
    pub(super) fn unlink(&mut self, owner: &str, dependent: &AnyKey) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// All that refer to the owner with that UID.
    pub(super) fn dependents(&self, owner: &str) -> Vec<AnyKey> {
        self.dependents.get(owner).into_iter().flatten().cloned().collect()
    }
}
