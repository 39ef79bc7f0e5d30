//! What to do next about a StatefulSet, and what its status says. Pure.
//!
//! In order (`OrderedReady`) a pod is touched only when all before it are available, and the last one
//! goes first; in parallel, pods come and go as they like. An update always takes one pod at a time,
//! from the last down to the partition.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::identity::{self, ordinal_of, revision_of};
use crate::pods;
use crate::revisions::{History, template_of};

/// What is known.
pub(super) struct View<'a> {
    /// The set.
    pub(super) set: &'a StatefulSet,
    /// Its revisions.
    pub(super) history: &'a History,
    /// Its pods, ended and leaving ones included.
    pub(super) pods: &'a [Arc<Pod>],
    /// Now.
    pub(super) now: Timestamp,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The pod of an ordinal is missing.
    Create(i32, Box<Pod>),
    /// A pod waits for claims that somebody deleted.
    CreateClaims(i32),
    /// A pod is to go; `condemned`: for good.
    Delete { pod: Box<Pod>, condemned: bool },
    /// A pod has ended, and comes again.
    Recreate(Box<Pod>),
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In this order.
    pub(super) steps: Vec<Step>,
    /// Pods that stay, by ordinal: their claims follow the retention policy.
    pub(super) standing: Vec<(i32, Pod)>,
    /// The status.
    pub(super) status: StatefulSetStatus,
    /// The revision from which an update comes.
    pub(super) current_revision: String,
    /// When a pod becomes available.
    pub(super) look_again: Option<Duration>,
}

struct Rollout<'a> {
    view: &'a View<'a>,
    spec: StatefulSetSpec,
    /// Whether pods wait for each other.
    in_order: bool,
    start: i32,
    current: String,
    update: String,
    /// The pod of each ordinal that there is to be, if it is there.
    replicas: Vec<Option<&'a Pod>>,
    /// Pods beyond, the last first.
    condemned: Vec<&'a Pod>,
    plan: Plan,
}

/// Plans the next steps.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut rollout = Rollout::new(view);
    rollout.count();
    if view.set.metadata.deletion_timestamp.is_none() && rollout.settle_replicas() && rollout.condemn() {
        rollout.update();
    }
    rollout.finish();
    rollout.plan
}

impl<'a> Rollout<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let spec = view.set.spec.clone().unwrap_or_default();
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let mut replicas: Vec<Option<&Pod>> = vec![None; wanted];
        let mut condemned = Vec::new();
        for pod in view.pods {
            let Some(ordinal) = ordinal_of(view.set, &pod.metadata) else { continue };
            let place = usize::try_from(ordinal - start).ok();
            match place.and_then(|place| replicas.get_mut(place)) {
                Some(slot) => *slot = Some(pod),
                None => condemned.push(&**pod),
            }
        }
        condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal_of(view.set, &pod.metadata)));
        let update = view.history.update.metadata.name.clone().unwrap_or_default();
        let before = view.set.status.as_ref().and_then(|status| status.current_revision.clone());
        // What it was rolled from may be forgotten; a new set starts with what it is told first.
        let current = before.filter(|name| view.history.named(name).is_some()).unwrap_or(update.clone());
        let in_order = spec.pod_management_policy.as_deref() != Some("Parallel");
        let plan = Plan { current_revision: current.clone(), ..Plan::default() };
        Self { view, spec, in_order, start, current, update, replicas, condemned, plan }
    }

    fn ordinal(&self, place: usize) -> i32 {
        self.start.saturating_add(i32::try_from(place).unwrap_or(i32::MAX))
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy != Some("OnDelete")
    }

    fn partition(&self) -> usize {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        usize::try_from(rolling.and_then(|rolling| rolling.partition).unwrap_or(0)).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_healthy(pod)
            && pods::until_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.view.now)
                == Some(Duration::ZERO)
    }

    fn count(&mut self) {
        let before = self.view.set.status.clone().unwrap_or_default();
        let mut status = StatefulSetStatus {
            observed_generation: self.view.set.metadata.generation,
            collision_count: Some(before.collision_count.unwrap_or(0)),
            conditions: before.conditions,
            available_replicas: Some(0),
            ..StatefulSetStatus::default()
        };
        let add = |count: &mut Option<i32>| *count = Some(count.unwrap_or(0) + 1);
        for pod in self.replicas.iter().flatten().chain(&self.condemned) {
            status.replicas += 1;
            if is_healthy(pod) {
                add(&mut status.ready_replicas);
                if self.is_available(pod) {
                    add(&mut status.available_replicas);
                }
            }
            if pod.metadata.deletion_timestamp.is_none() {
                if revision_of(pod) == self.current {
                    add(&mut status.current_replicas);
                }
                if revision_of(pod) == self.update {
                    add(&mut status.updated_replicas);
                }
            }
        }
        self.plan.status = status;
    }

    /// The revision that a new pod is made from: below the partition, the one before the update.
    fn revision_for(&self, place: usize) -> &str {
        if self.is_rolling() && place < self.partition() { &self.current } else { &self.update }
    }

    fn new_pod(&self, place: usize) -> Pod {
        let revision = self.revision_for(place);
        let remembered = self.view.history.named(revision).and_then(template_of);
        let template = match remembered {
            Some(template) if revision != self.update => template,
            _ => self.spec.template.clone(),
        };
        identity::pod(self.view.set, &template, revision, self.ordinal(place))
    }

    /// Makes every wanted pod be there; whether all are so far that others may be touched.
    fn settle_replicas(&mut self) -> bool {
        let mut go_on = true;
        for place in 0..self.replicas.len() {
            let ordinal = self.ordinal(place);
            let waits = match self.replicas[place] {
                None => {
                    let pod = self.new_pod(place);
                    self.plan.steps.push(Step::Create(ordinal, Box::new(pod)));
                    true
                }
                Some(pod) if pods::is_terminal(pod) => {
                    if pod.metadata.deletion_timestamp.is_none() {
                        self.plan.steps.push(Step::Recreate(Box::new(pod.clone())));
                    }
                    true
                }
                Some(pod) => {
                    if pod.metadata.deletion_timestamp.is_none() {
                        if pods::phase(pod) == "Pending" {
                            self.plan.steps.push(Step::CreateClaims(ordinal));
                        }
                        self.plan.standing.push((ordinal, pod.clone()));
                    }
                    !self.is_available(pod)
                }
            };
            if waits && self.in_order {
                return false;
            }
            go_on &= !waits || !self.in_order;
        }
        go_on
    }

    /// Takes pods away that are too many; whether an update may go on.
    fn condemn(&mut self) -> bool {
        let all = self.replicas.iter().flatten().copied().chain(self.condemned.iter().rev().copied());
        let first_unhealthy =
            all.into_iter().find(|pod| !is_healthy(pod)).map(|pod| pod.metadata.uid.clone());
        for pod in &self.condemned {
            if pod.metadata.deletion_timestamp.is_some() {
                if self.in_order {
                    return false;
                }
                continue;
            }
            let is_first = first_unhealthy.as_ref() == Some(&pod.metadata.uid);
            if self.in_order && !self.is_available(pod) && !is_first {
                return false;
            }
            self.plan.steps.push(Step::Delete { pod: Box::new((*pod).clone()), condemned: true });
            if self.in_order {
                return false;
            }
        }
        true
    }

    /// Replaces the last pod that is not of the new revision, once all after it are well.
    fn update(&mut self) {
        if !self.is_rolling() {
            return;
        }
        for place in (self.partition()..self.replicas.len()).rev() {
            let Some(pod) = self.replicas[place] else { return };
            if revision_of(pod) != self.update && pod.metadata.deletion_timestamp.is_none() {
                self.plan.steps.push(Step::Delete { pod: Box::new(pod.clone()), condemned: false });
                return;
            }
            if !self.is_available(pod) {
                return;
            }
        }
    }

    /// Ends a complete update, and says when to look again.
    fn finish(&mut self) {
        let status = &mut self.plan.status;
        status.update_revision = Some(self.update.clone());
        let updated = status.updated_replicas.unwrap_or(0);
        let complete = self.current != self.update
            && updated == status.replicas
            && status.ready_replicas.unwrap_or(0) == status.replicas;
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        if complete && rolling {
            self.current.clone_from(&self.update);
            status.current_replicas = (updated > 0).then_some(updated);
        }
        status.current_revision = Some(self.current.clone());
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let waits = self.view.pods.iter().filter_map(|pod| {
            pods::until_available(pod, min_ready, self.view.now).filter(|wait| !wait.is_zero())
        });
        self.plan.look_again = waits.min();
    }
}

/// Whether it runs, is ready, and stays.
fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none()
}
