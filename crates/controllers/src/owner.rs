//! Owner references: who controls an object, and how children are claimed and let go.

use std::sync::Arc;

use balsa_client::{Changed, Client, Informer};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The reference that a child of `owner` carries.
pub(crate) fn controller_reference<K: Kind>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::DESCRIPTOR.api_version(),
        kind: K::DESCRIPTOR.kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to the controller of an object, if it has one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The UID of the controller of an object, or empty.
pub(crate) fn controller_uid(meta: &ObjectMeta) -> &str {
    controller_of(meta).map_or("", |owner| owner.uid.as_str())
}

/// The key of an object.
pub(crate) fn key_of(meta: &ObjectMeta) -> Key {
    Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// The keys of the controllers of kind `O` that a change of a child concerns: the one that it has, the
/// one that it had, and, for a child without one, all whose selector selects it.
pub(crate) fn concerned<O: Kind>(
    change: &Changed,
    owners: &Informer,
    selector: impl Fn(&O) -> LabelSelector,
) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        if let Some(owner) = controller_of(object.meta()).filter(|owner| owner.kind == O::DESCRIPTOR.kind) {
            keys.push(Key::new(object.key().namespace.clone(), owner.name.as_str()));
        }
    }
    if let Some(orphan) = change.new.as_ref().filter(|new| controller_of(new.meta()).is_none()) {
        for owner in owners.list_in(&orphan.key().namespace) {
            if owner.is(|o: &O| selector(o).matches(orphan.meta().labels.as_ref())) {
                keys.push(owner.key().clone());
            }
        }
    }
    keys.dedup();
    keys
}

/// What to do about the children of one owner.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Its own.
    pub(crate) owned: Vec<Arc<Object>>,
    /// Nobody's, selected by it: to be adopted.
    pub(crate) adopt: Vec<Arc<Object>>,
    /// Its own, but no longer selected: to be released.
    pub(crate) release: Vec<Arc<Object>>,
}

impl Claim {
    /// Leaves alone what `keep` does not say yes to.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Object) -> bool) {
        for children in [&mut self.owned, &mut self.adopt, &mut self.release] {
            children.retain(|child| keep(child));
        }
    }
}

/// Sorts `candidates` (all of the owner's namespace) by what they are to the owner. An owner that is
/// being deleted adopts nothing.
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, candidates: Vec<Arc<Object>>) -> Claim {
    let mut claim = Claim::default();
    let uid = owner.uid.as_deref().unwrap_or_default();
    for child in candidates {
        let selected = selector.matches(child.meta().labels.as_ref());
        match controller_uid(child.meta()) {
            "" if selected && owner.deletion_timestamp.is_none() && !child.is_deleting() => {
                claim.adopt.push(child)
            }
            "" => {}
            controller if controller != uid => {}
            _ if selected || child.is_deleting() => claim.owned.push(child),
            _ => claim.release.push(child),
        }
    }
    claim
}

/// Carries out adoptions and releases of children of kind `C`; answers all that are the owner's now.
pub(crate) async fn settle_claims<O: Kind, C: Kind>(
    client: &Client,
    owner: &O,
    claim: Claim,
) -> Result<Vec<Arc<Object>>, Failure> {
    let Claim { mut owned, adopt, release } = claim;
    let children = client.api::<C>();
    let meta = owner.metadata();
    let uid = meta.uid.clone().unwrap_or_default();
    if !adopt.is_empty() {
        // The cache may be behind: never adopt for an owner that is gone, or is another by now.
        let current = client.api::<O>().find(&key_of(meta)).await?;
        let alive = current
            .is_some_and(|o| o.metadata().uid == meta.uid && o.metadata().deletion_timestamp.is_none());
        if !alive {
            return Ok(owned);
        }
    }
    for child in adopt {
        let reference = controller_reference(owner);
        let adopted = children.modify(child.key(), Part::Main, |object: &mut C| {
            let meta = object.metadata_mut();
            if controller_of(meta).is_some() || meta.uid.as_deref() != Some(child.uid()) {
                return false;
            }
            meta.owner_references.get_or_insert_default().push(reference.clone());
            true
        });
        owned.extend(adopted.await?);
    }
    for child in release {
        let released = children.modify(child.key(), Part::Main, |object: &mut C| {
            let owners = object.metadata_mut().owner_references.get_or_insert_default();
            let before = owners.len();
            owners.retain(|owner| owner.uid != uid);
            owners.len() != before
        });
        released.await?;
    }
    Ok(owned)
}
