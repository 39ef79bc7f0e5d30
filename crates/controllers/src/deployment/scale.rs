//! Sizes of ReplicaSets, and how a change of `spec.replicas` is shared out among several of them.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::amount;
use super::revision::annotation;

/// What the Deployment wanted when it last scaled the set.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods that the Deployment allowed then.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// How many pods a set is asked to keep.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0).max(0)
}

/// How many of its pods are available, as far as it may count on them: a set that was just made
/// smaller still reports pods that are about to go.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).min(size(set))
}

/// Sorts from the oldest set to the youngest.
pub(super) fn age_key(set: &ReplicaSet) -> impl Ord + use<> {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
}

/// Sets the size, and what the Deployment wanted then.
pub(super) fn resize(deployment: &Deployment, set: &mut ReplicaSet, size: i32) {
    if let Some(spec) = &mut set.spec {
        spec.replicas = Some(size.max(0));
    }
    annotate(set, amount::wanted(deployment), amount::max_surge(deployment));
}

/// Notes what the Deployment wants.
pub(super) fn annotate(set: &mut ReplicaSet, wanted: i32, surge: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAXIMUM.to_owned(), wanted.saturating_add(surge).to_string());
}

fn noted(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(&set.metadata, name)?.parse().ok()
}

/// Whether somebody changed `spec.replicas` since the sets were scaled last.
pub(super) fn is_scaling(deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
    let wanted = amount::wanted(deployment);
    sets.iter().any(|set| size(set) > 0 && noted(set, DESIRED).is_some_and(|desired| desired != wanted))
}

/// Adapts the sizes of the sets to `spec.replicas`: the only active one takes all; while a rollout is
/// under way each takes its share, so that the mix stays what it was.
pub(super) fn scale(deployment: &Deployment, sets: &mut [ReplicaSet], new: Option<usize>) {
    let wanted = amount::wanted(deployment);
    let active: Vec<usize> = (0..sets.len()).filter(|i| size(&sets[*i]) > 0).collect();
    let only = match active.as_slice() {
        [] => new.or_else(|| (0..sets.len()).max_by_key(|i| age_key(&sets[*i]))),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        if size(&sets[only]) != wanted {
            resize(deployment, &mut sets[only], wanted);
        }
        return;
    }
    if let Some(new) = new.filter(|new| is_saturated(&sets[*new], wanted)) {
        for old in active.into_iter().filter(|i| *i != new) {
            resize(deployment, &mut sets[old], 0);
        }
    } else if !amount::is_recreate(deployment) {
        share_out(deployment, sets, active);
    }
}

fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    noted(set, DESIRED) == Some(wanted) && size(set) == wanted && available(set) == wanted
}

fn share_out(deployment: &Deployment, sets: &mut [ReplicaSet], mut active: Vec<usize>) {
    let wanted = amount::wanted(deployment);
    let allowed = if wanted > 0 { wanted.saturating_add(amount::max_surge(deployment)) } else { 0 };
    let total: i32 = active.iter().map(|i| size(&sets[*i])).sum();
    let to_add = allowed.saturating_sub(total);
    // The largest first; among equals the youngest when there is something to gain, else the oldest.
    active.sort_by_key(|i| age_key(&sets[*i]));
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|i| Reverse(size(&sets[*i])));
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for i in &active {
        let share = share(deployment, &sets[*i], to_add, added);
        added += share;
        sizes.push(size(&sets[*i]) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first += to_add - added;
    }
    for (i, size) in active.into_iter().zip(sizes) {
        resize(deployment, &mut sets[i], size);
    }
}

/// What of `to_add` falls to a set, of which others have got `added` already.
fn share(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(deployment, set);
    if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let wanted = amount::wanted(deployment);
    if wanted == 0 {
        return -size(set);
    }
    let maximum = f64::from(wanted) + f64::from(amount::max_surge(deployment));
    let status = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = noted(set, MAXIMUM).filter(|max| *max > 0).unwrap_or(status).max(1);
    let scaled = (f64::from(size(set)) * maximum / f64::from(before)).round();
    scaled as i32 - size(set)
}
