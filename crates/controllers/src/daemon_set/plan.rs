//! Which pods of a DaemonSet to create and which to delete, and what its status says. Pure.
//!
//! First every node gets what belongs to it; only when nothing of that is left to do, pods of an older
//! template make way, so many at a time that no more than `maxUnavailable` nodes are without, or no more
//! than `maxSurge` have two.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use balsa_model::Key;
use balsa_model::kinds::check::scaled;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::nodes::{Belongs, belongs, node_of};
use crate::owner::key_of;
use crate::pods;
use crate::revisions::HASH_LABEL;

/// How old a failed pod gets before it is replaced, so that a node that refuses its pods is not flooded.
const FAILED_AGE: i64 = 10;

/// What is known.
pub(super) struct View<'a> {
    /// The set.
    pub(super) set: &'a DaemonSet,
    /// The hash of its present template.
    pub(super) hash: &'a str,
    /// All nodes.
    pub(super) nodes: &'a [Arc<Node>],
    /// Its pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// UIDs of pods that are being deleted though they do not say so yet.
    pub(super) doomed: &'a HashSet<String>,
    /// Now.
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    /// Pods to delete: keys and UIDs.
    pub(super) delete: Vec<(Key, String)>,
    /// Of these, those that failed: node and pod.
    pub(super) failed: Vec<(String, String)>,
    /// The status.
    pub(super) status: DaemonSetStatus,
    /// When something may have to be done though nothing changes.
    pub(super) look_again: Option<Duration>,
}

/// A node and the pods that are on it, the oldest first.
struct Place<'a> {
    name: &'a str,
    belongs: Belongs,
    pods: Vec<&'a Pod>,
}

struct Work<'a> {
    view: &'a View<'a>,
    places: Vec<Place<'a>>,
    min_ready: i32,
    max_surge: usize,
    max_unavailable: usize,
    rolls: bool,
    plan: Plan,
}

/// The template that a pod is made from.
pub(super) fn hash_of_pod(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

/// Plans one run.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut work = Work::new(view);
    work.manage();
    if work.rolls && work.plan.create.is_empty() && work.plan.delete.is_empty() {
        if work.max_surge > 0 { work.surge() } else { work.roll() }
    }
    work.count();
    work.plan
}

fn amount(value: Option<&IntOrString>, total: i32, default: i32) -> usize {
    let number = value.map_or(Some(default), |value| scaled(value, total, true)).unwrap_or(default);
    usize::try_from(number).unwrap_or(0)
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in view.pods {
            by_node.entry(node_of(pod)).or_default().push(pod);
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| {
                (pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.metadata.name.clone())
            });
        }
        let mut places = Vec::new();
        for node in view.nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = by_node.remove(name).unwrap_or_default();
            places.push(Place { name, belongs: belongs(view.set, node), pods });
        }
        let mut plan = Plan::default();
        for lost in by_node.into_values().flatten().filter(|pod| pods::node_name(pod).is_empty()) {
            // Its node went before it got there. One that had got there is cleared away with its node.
            push(&mut plan.delete, lost, view.doomed);
        }
        let wanted = places.iter().filter(|place| place.belongs == Belongs::Yes).count();
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let spec = view.set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
        let rolls = strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        let limits = strategy
            .and_then(|s| s.rolling_update.clone())
            .unwrap_or(RollingUpdateDaemonSet { max_surge: None, max_unavailable: None });
        let max_surge = if rolls { amount(limits.max_surge.as_ref(), wanted, 0) } else { 0 };
        let mut max_unavailable = amount(limits.max_unavailable.as_ref(), wanted, 1);
        if max_surge == 0 && max_unavailable == 0 {
            // A percentage of few nodes: it must go on all the same.
            max_unavailable = 1;
        }
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        Self { view, places, min_ready, max_surge, max_unavailable, rolls, plan }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::until_available(pod, self.min_ready, self.view.now) == Some(Duration::ZERO)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        hash_of_pod(pod) == self.view.hash
    }

    fn is_leaving(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_some()
            || self.view.doomed.contains(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    fn delete(&mut self, pod: &Pod) {
        push(&mut self.plan.delete, pod, self.view.doomed);
    }

    fn look_again(&mut self, after: Duration) {
        self.plan.look_again = Some(self.plan.look_again.map_or(after, |before| before.min(after)));
    }

    /// Gives every node what belongs to it, and takes away what does not.
    fn manage(&mut self) {
        for place in std::mem::take(&mut self.places) {
            match place.belongs {
                Belongs::Yes if place.pods.is_empty() => self.plan.create.push(place.name.to_owned()),
                Belongs::No => {
                    for pod in &place.pods {
                        self.delete(pod);
                    }
                }
                Belongs::Yes | Belongs::MayStay => self.tidy(&place),
            }
            self.places.push(place);
        }
    }

    /// Takes away pods of a node that have ended, or are one too many.
    fn tidy(&mut self, place: &Place<'_>) {
        let mut running: Vec<&Pod> = Vec::new();
        for pod in &place.pods {
            if self.is_leaving(pod) {
                continue;
            }
            if !pods::is_terminal(pod) {
                running.push(pod);
                continue;
            }
            let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
            let age = self.view.now.duration_since(created).as_secs();
            if pods::phase(pod) == "Failed" && age < FAILED_AGE {
                let left = u64::try_from(FAILED_AGE - age).unwrap_or(1);
                self.look_again(Duration::from_secs(left));
                continue;
            }
            let name = pod.metadata.name.clone().unwrap_or_default();
            self.plan.failed.push((place.name.to_owned(), name));
            self.delete(pod);
        }
        if running.len() <= 1 {
            return;
        }
        if self.max_surge == 0 {
            for pod in running.into_iter().skip(1) {
                self.delete(pod);
            }
            return;
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.into_iter().partition(|pod| self.is_new(pod));
        for spare in new.iter().skip(1).chain(old.iter().skip(1)) {
            self.delete(spare);
        }
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete(old);
        }
    }

    /// The pods of a node that stay: one of the present template, one of an older.
    fn pair<'p>(&self, place: &Place<'p>) -> (Option<&'p Pod>, Option<&'p Pod>) {
        let staying = || place.pods.iter().copied().filter(|pod| !self.is_leaving(pod));
        (staying().find(|pod| self.is_new(pod)), staying().find(|pod| !self.is_new(pod)))
    }

    /// Old pods make way; the new ones are created when they are gone.
    fn roll(&mut self) {
        let (mut unavailable, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
        for place in self.places.iter().filter(|place| place.belongs == Belongs::Yes) {
            match self.pair(place) {
                (Some(new), None) if self.is_available(new) => {}
                (None, Some(old)) if self.is_available(old) => candidates.push(old),
                (None, Some(old)) => {
                    unavailable += 1;
                    broken.push(old);
                }
                _ => unavailable += 1,
            }
        }
        // A pod that serves nobody anyway costs nothing to replace.
        let room = self.max_unavailable.saturating_sub(unavailable);
        for pod in broken.into_iter().chain(candidates.into_iter().take(room)) {
            self.delete(pod);
        }
    }

    /// New pods come beside old ones, which go when the new ones are available.
    fn surge(&mut self) {
        let (mut doubled, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
        for place in self.places.iter().filter(|place| place.belongs == Belongs::Yes) {
            match self.pair(place) {
                (None, Some(old)) if place.pods.len() > 1 || self.is_leaving(old) => doubled += 1,
                (None, Some(old)) if self.is_available(old) => candidates.push(place.name.to_owned()),
                (None, Some(_)) => broken.push(place.name.to_owned()),
                (Some(_), Some(_)) => doubled += 1,
                _ => {}
            }
        }
        let room = self.max_surge.saturating_sub(doubled);
        self.plan.create.extend(broken.into_iter().chain(candidates.into_iter().take(room)));
    }

    fn count(&mut self) {
        let before = self.view.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.view.set.metadata.generation,
            collision_count: before.collision_count,
            conditions: before.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        let mut soonest: Option<Duration> = None;
        for place in &self.places {
            if place.belongs != Belongs::Yes {
                status.number_misscheduled += i32::from(!place.pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!place.pods.is_empty());
            status.number_ready += i32::from(place.pods.iter().any(|pod| pods::is_ready(pod)));
            available += i32::from(place.pods.iter().any(|pod| self.is_available(pod)));
            updated += i32::from(place.pods.iter().any(|pod| self.is_new(pod)));
            let waits =
                place.pods.iter().filter_map(|pod| pods::until_available(pod, self.min_ready, self.view.now));
            soonest = soonest.into_iter().chain(waits.filter(|wait| !wait.is_zero())).min();
        }
        let positive = |number: i32| (number > 0).then_some(number);
        status.updated_number_scheduled = positive(updated);
        status.number_available = positive(available);
        status.number_unavailable = positive(status.desired_number_scheduled - available);
        self.plan.status = status;
        if let Some(soonest) = soonest {
            self.look_again(soonest);
        }
    }
}

fn push(to: &mut Vec<(Key, String)>, pod: &Pod, doomed: &HashSet<String>) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_none() && !doomed.contains(&uid) {
        to.push((key_of(&pod.metadata), uid));
    }
}
