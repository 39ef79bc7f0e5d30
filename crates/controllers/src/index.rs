//! Where objects are by what they say: what a controller would otherwise decode all objects of a kind for.
//!
//! An index is in memory only, and as disposable as the cache that it is made from. It is kept by the task that
//! also wakes the controller, so whoever is woken by a change finds it in the index.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use balsa_client::{Changed, Informer, Queue, feed};
use balsa_model::{Key, Object};
use balsa_rt::Scope;

/// The keys of a cache's objects by the values that `values_of` reads out of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Index<V> {
    keys: Arc<Mutex<HashMap<V, BTreeSet<Key>>>>,
    values_of: fn(&Object) -> Vec<V>,
}

/// As [`feed`], with an index that shows each change before its keys are added.
pub(crate) fn feed_indexed<V, K, I>(
    informer: &Informer,
    queue: &Queue<K>,
    scope: &Scope,
    values_of: fn(&Object) -> Vec<V>,
    keys: impl Fn(&Changed) -> I + Send + 'static,
) -> Index<V>
where
    V: Clone + Eq + Hash + Send + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: IntoIterator<Item = K> + Send,
    I::IntoIter: Send,
{
    let index = Index { keys: Arc::default(), values_of };
    let kept = index.clone();
    feed(informer, queue, scope, move |change| {
        kept.note(change);
        keys(change)
    });
    index.fill(informer);
    index
}

impl<V: Clone + Eq + Hash> Index<V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<V, BTreeSet<Key>>> {
        self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The objects with that value, by namespace and name.
    pub(crate) fn get(&self, value: &V) -> Vec<Key> {
        self.lock().get(value).into_iter().flatten().cloned().collect()
    }

    /// All values that objects have.
    pub(crate) fn values(&self) -> Vec<V> {
        self.lock().keys().cloned().collect()
    }

    /// Takes in what is there already: nobody is to take it for absent until its turn in the subscription has come.
    fn fill(&self, informer: &Informer) {
        let mut keys = self.lock();
        // Listed under the lock: what goes after is told after, and taken out again.
        for object in informer.list() {
            self.insert(&mut keys, &object);
        }
    }

    fn note(&self, change: &Changed) {
        let mut keys = self.lock();
        if let Some(old) = &change.old {
            self.remove(&mut keys, old);
        }
        if let Some(new) = &change.new {
            self.insert(&mut keys, new);
        }
    }

    fn remove(&self, keys: &mut HashMap<V, BTreeSet<Key>>, object: &Object) {
        for value in (self.values_of)(object) {
            let Some(found) = keys.get_mut(&value) else { continue };
            found.remove(object.key());
            if found.is_empty() {
                keys.remove(&value);
            }
        }
    }

    fn insert(&self, keys: &mut HashMap<V, BTreeSet<Key>>, object: &Object) {
        for value in (self.values_of)(object) {
            keys.entry(value).or_default().insert(object.key().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use balsa_model::kind::kind_of;
    use balsa_model::{Object, Revision};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, values: &[&str]) -> Option<Arc<Object>> {
        let value = json!({"metadata": {"name": name, "namespace": "n", "finalizers": values}});
        let (kind, revision) = (kind_of::<ConfigMap>(), Revision(1));
        let bytes = Object::canonical(kind, &value);
        Some(Arc::new(Object::stored(kind, bytes.into(), revision).unwrap()))
    }

    #[test]
    fn it_shows_objects_as_they_are_now() {
        let values_of = |object: &Object| object.meta().finalizers.clone().unwrap_or_default();
        let index = Index { keys: Arc::default(), values_of };
        let names = |value: &str| -> Vec<String> {
            index.get(&value.to_owned()).iter().map(|key| key.name.to_string()).collect()
        };
        index.note(&Changed { old: None, new: object("b", &["x", "y"]) });
        index.note(&Changed { old: None, new: object("a", &["x"]) });
        assert_eq!((names("x"), names("y")), (vec!["a".to_owned(), "b".to_owned()], vec!["b".to_owned()]));
        index.note(&Changed { old: object("b", &["x", "y"]), new: object("b", &["z"]) });
        index.note(&Changed { old: object("a", &["x"]), new: None });
        assert_eq!(index.values(), ["z"], "a value that nobody has is not there");
        assert_eq!(names("z"), ["b"]);
    }
}
