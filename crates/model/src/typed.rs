//! Typed forms of objects, kept while they are of use.
//!
//! A pod's typed form takes seven times the memory of its JSON, and is made again in twenty microseconds. So
//! objects keep theirs only until [`KEPT`] others have been made after it; whoever holds one longer keeps it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// How many objects of a process have their typed form at hand: what a cluster of some hundred pods works with.
const KEPT: usize = 2048;

/// A typed object of whatever kind.
pub(crate) type Form = Arc<dyn Any + Send + Sync>;

type Slot = Mutex<Option<Form>>;

/// The objects whose forms are kept, the one made first in front.
static KEEPING: Mutex<VecDeque<Weak<Slot>>> = Mutex::new(VecDeque::new());

/// An object's typed form, where it is at hand.
#[derive(Default)]
pub(crate) struct Typed(OnceLock<Arc<Slot>>);

impl Typed {
    /// The form, made by `make` if it is not at hand. `None` when it cannot be made.
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> Option<Form>) -> Option<Form> {
        let slot = self.0.get_or_init(Arc::default);
        // Held while it is made: whoever asks at the same time waits, and does not make another.
        let mut kept = lock(slot);
        if let Some(form) = &*kept {
            return Some(form.clone());
        }
        let form = make()?;
        *kept = Some(form.clone());
        drop(kept);
        keep(slot);
        Some(form)
    }
}

/// Remembers that `slot` has been filled, and empties the one that was filled first of too many.
fn keep(slot: &Arc<Slot>) {
    let mut keeping = lock(&KEEPING);
    keeping.push_back(Arc::downgrade(slot));
    let oldest = if keeping.len() > KEPT { keeping.pop_front() } else { None };
    drop(keeping);
    // Taken out first and dropped without a lock: forms are large.
    let form = oldest.and_then(|oldest| oldest.upgrade()).and_then(|oldest| lock(&oldest).take());
    drop(form);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(number: usize) -> Option<Form> {
        Some(Arc::new(number))
    }

    #[test]
    fn a_form_is_made_once_and_again_after_many_others() {
        let ours = Typed::default();
        let first = ours.get_or_make(|| form(1));
        assert!(first.as_ref().is_some_and(|form| form.is::<usize>()));
        let held = first.as_ref().map(Arc::downgrade);
        let again = ours.get_or_make(|| None);
        assert!(again.is_some_and(|again| first.as_ref().is_some_and(|first| Arc::ptr_eq(first, &again))));

        let others: Vec<Typed> = (0..KEPT).map(|_| Typed::default()).collect();
        for other in &others {
            other.get_or_make(|| form(2));
        }
        assert!(ours.get_or_make(|| None).is_none(), "it is no longer at hand");
        assert!(held.as_ref().is_some_and(|held| held.upgrade().is_some()), "who holds it has it");
        drop(first);
        assert!(held.is_some_and(|held| held.upgrade().is_none()), "nobody else does");
        assert!(ours.get_or_make(|| form(3)).is_some());
    }
}
