//! Typed forms of objects, kept while they are of use.
//!
//! A pod's typed form takes seven times the memory of its JSON, and is made again in twenty microseconds. So
//! objects keep theirs only until others have been made after it, of [`KEPT`] bytes of JSON together; whoever holds
//! one longer keeps it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// How much JSON a process has typed forms of at hand: that of some two thousand pods, whose forms take 30 MiB, or of
/// as many more objects as they are smaller.
const KEPT: usize = 4 << 20;

/// A typed object of whatever kind.
pub(crate) type Form = Arc<dyn Any + Send + Sync>;

type Slot = Mutex<Option<Form>>;

/// The objects whose forms are kept.
struct Keeping {
    /// Each with the size of its JSON, the one that was filled first in front. Some are gone by now.
    slots: VecDeque<(Weak<Slot>, usize)>,
    /// The sum of the sizes.
    size: usize,
}

static KEEPING: Mutex<Keeping> = Mutex::new(Keeping { slots: VecDeque::new(), size: 0 });

/// An object's typed form, where it is at hand.
#[derive(Default)]
pub(crate) struct Typed(OnceLock<Arc<Slot>>);

impl Typed {
    /// The form, made by `make` out of `size` bytes of JSON if it is not at hand. `None` when it cannot be made.
    pub(crate) fn get_or_make(&self, size: usize, make: impl FnOnce() -> Option<Form>) -> Option<Form> {
        let slot = self.0.get_or_init(Arc::default);
        // Held while it is made: whoever asks at the same time waits, and does not make another.
        let mut kept = lock(slot);
        if let Some(form) = &*kept {
            return Some(form.clone());
        }
        let form = make()?;
        *kept = Some(form.clone());
        drop(kept);
        keep(slot, size);
        Some(form)
    }
}

/// Remembers that `slot` has been filled, and empties those that were filled first of too many.
fn keep(slot: &Arc<Slot>, size: usize) {
    let mut keeping = lock(&KEEPING);
    keeping.slots.push_back((Arc::downgrade(slot), size));
    keeping.size += size;
    let mut surplus = Vec::new();
    while keeping.size > KEPT
        && let Some((oldest, size)) = keeping.slots.pop_front()
    {
        keeping.size -= size;
        surplus.push(oldest);
    }
    drop(keeping);
    for slot in surplus.iter().filter_map(Weak::upgrade) {
        // Taken out first and dropped without a lock: forms are large.
        let form = lock(&slot).take();
        drop(form);
    }
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
        let first = ours.get_or_make(1, || form(1));
        assert!(first.as_ref().is_some_and(|form| form.is::<usize>()));
        let held = first.as_ref().map(Arc::downgrade);
        let again = ours.get_or_make(1, || None);
        assert!(again.is_some_and(|again| first.as_ref().is_some_and(|first| Arc::ptr_eq(first, &again))));

        let others: Vec<Typed> = (0..8).map(|_| Typed::default()).collect();
        for other in &others {
            other.get_or_make(KEPT / 8, || form(2));
        }
        assert!(ours.get_or_make(1, || None).is_none(), "it is no longer at hand");
        let last = others.last().and_then(|other| other.get_or_make(1, || None));
        assert!(last.is_some(), "what came last is");
        assert!(held.as_ref().is_some_and(|held| held.upgrade().is_some()), "who holds it has it");
        drop(first);
        assert!(held.is_some_and(|held| held.upgrade().is_none()), "nobody else does");
        assert!(ours.get_or_make(1, || form(3)).is_some());

        let large = Typed::default();
        assert!(large.get_or_make(KEPT + 1, || form(4)).is_some());
        assert!(large.get_or_make(KEPT + 1, || None).is_none(), "it is larger than all that is kept");
    }
}
