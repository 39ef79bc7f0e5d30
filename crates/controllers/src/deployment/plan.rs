//! What to do about a Deployment: one step of its rollout, and the status that goes with it. Pure.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::scale::{available, resize, size};
use super::{amount, revision, scale, status};

/// What is known.
pub(super) struct View<'a> {
    /// The Deployment.
    pub(super) deployment: &'a Deployment,
    /// Its sets.
    pub(super) sets: Vec<ReplicaSet>,
    /// UIDs of sets that have pods which may still run; filled in for Recreate only.
    pub(super) running: &'a HashSet<String>,
    /// Now.
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The set of a new template.
    pub(super) create: Option<ReplicaSet>,
    /// Changed sets, and the sizes they had.
    pub(super) updates: Vec<(ReplicaSet, i32)>,
    /// Sets beyond the history limit.
    pub(super) deletes: Vec<ReplicaSet>,
    /// The revision that the Deployment is to carry, when it changes.
    pub(super) revision: Option<String>,
    /// The status.
    pub(super) status: DeploymentStatus,
    /// When the progress deadline passes.
    pub(super) look_again: Option<Duration>,
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    running: &'a HashSet<String>,
    now: Timestamp,
    sets: Vec<ReplicaSet>,
    /// The place of the new set among `sets`.
    new: Option<usize>,
    plan: Plan,
    /// The Deployment with the conditions that this run has set so far.
    conditions: status::Conditions,
}

/// Plans the next step.
pub(super) fn plan(view: View<'_>) -> Plan {
    let View { deployment, sets, running, now } = view;
    let before = sets.clone();
    let new = revision::find_new(deployment, &sets);
    let conditions = status::Conditions::of(deployment);
    let plan = Plan::default();
    let mut rollout = Rollout { deployment, running, now, sets, new, plan, conditions };
    rollout.decide();
    let Rollout { sets, mut plan, .. } = rollout;
    let changed = sets.into_iter().zip(before).filter(|(after, before)| after != before);
    plan.updates = changed.map(|(after, before)| (after, size(&before))).collect();
    plan
}

impl Rollout<'_> {
    fn decide(&mut self) {
        let spec = self.deployment.spec.as_ref();
        let paused = spec.and_then(|spec| spec.paused) == Some(true);
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.finish(false);
        }
        status::note_pause(self.deployment, &mut self.conditions, paused, self.now);
        if paused || scale::is_scaling(self.deployment, &self.sets) {
            self.number_new();
            scale::scale(self.deployment, &mut self.sets, self.new);
            if paused {
                self.clean_up();
            }
            return self.finish(false);
        }
        let moved = if amount::is_recreate(self.deployment) { self.recreate() } else { self.roll() };
        if self.plan.create.is_some() {
            return self.finish(false);
        }
        if !moved && status::is_complete(self.deployment, &self.count()) {
            self.clean_up();
        }
        self.finish(true);
    }

    fn count(&self) -> DeploymentStatus {
        status::count(self.deployment, &self.sets, self.new)
    }

    /// Writes the status; `judge` says whether progress is judged too.
    fn finish(&mut self, judge: bool) {
        let mut status = self.count();
        let new = self.new.map(|new| &self.sets[new]);
        if judge {
            let progress = status::judge(self.deployment, &status, new, &mut self.conditions, self.now);
            self.plan.look_again = progress;
        }
        status::note_availability(self.deployment, &status, &mut self.conditions, self.now);
        status::note_failures(&self.sets, self.new, &mut self.conditions, self.now);
        status.conditions = self.conditions.list();
        self.plan.status = status;
    }

    fn olds(&self) -> Vec<usize> {
        let mut olds: Vec<usize> = (0..self.sets.len()).filter(|i| Some(*i) != self.new).collect();
        olds.sort_by_key(|i| scale::age_key(&self.sets[*i]));
        olds
    }

    fn next_revision(&self) -> i64 {
        let olds = self.olds();
        olds.into_iter().map(|i| revision::revision_of(&self.sets[i].metadata)).max().unwrap_or(0) + 1
    }

    /// Brings the annotations of an existing new set up to date, and the Deployment's revision.
    fn number_new(&mut self) {
        let Some(new) = self.new else { return };
        let number = self.next_revision();
        revision::annotate(self.deployment, &mut self.sets[new], number, true);
        let spec = self.deployment.spec.as_ref();
        if let Some(set) = &mut self.sets[new].spec {
            set.min_ready_seconds = spec.and_then(|spec| spec.min_ready_seconds);
        }
        self.number_deployment(revision::revision_of(&self.sets[new].metadata));
        let name = self.sets[new].metadata.name.clone().unwrap_or_default();
        status::note_found(self.deployment, &name, &mut self.conditions, self.now);
    }

    fn number_deployment(&mut self, number: i64) {
        if revision::revision_of(&self.deployment.metadata) != number {
            self.plan.revision = Some(number.to_string());
        }
    }

    fn create_new(&mut self) {
        let mut set = revision::new_set(self.deployment);
        let number = self.next_revision();
        revision::annotate(self.deployment, &mut set, number, false);
        let size = self.size_of_new(0);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        self.number_deployment(number);
        let name = set.metadata.name.clone().unwrap_or_default();
        status::note_created(self.deployment, &name, &mut self.conditions, self.now);
        self.plan.create = Some(set);
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(size).sum()
    }

    /// How large the new set, which has `current` pods, may be by now.
    fn size_of_new(&self, current: i32) -> i32 {
        let wanted = amount::wanted(self.deployment);
        if amount::is_recreate(self.deployment) {
            return wanted;
        }
        let room = wanted.saturating_add(amount::max_surge(self.deployment)) - self.total();
        if room <= 0 { current } else { current + room.min(wanted - current).max(0) }
    }

    /// One step of a rolling update; whether there was one.
    fn roll(&mut self) -> bool {
        let Some(new) = self.new else {
            self.create_new();
            return true;
        };
        self.number_new();
        self.grow_new(new) || self.shrink_olds(new)
    }

    fn grow_new(&mut self, new: usize) -> bool {
        let (current, wanted) = (size(&self.sets[new]), amount::wanted(self.deployment));
        let target = if current > wanted { wanted } else { self.size_of_new(current) };
        if target == current {
            return false;
        }
        resize(self.deployment, &mut self.sets[new], target);
        true
    }

    /// Takes pods from the old sets: first those that do not work anyway, then as many of the others
    /// as the available ones allow.
    fn shrink_olds(&mut self, new: usize) -> bool {
        let olds: Vec<usize> = self.olds().into_iter().filter(|i| size(&self.sets[*i]) > 0).collect();
        if olds.is_empty() {
            return false;
        }
        let least = amount::wanted(self.deployment) - amount::max_unavailable(self.deployment);
        let new_unavailable = size(&self.sets[new]) - available(&self.sets[new]);
        let mut room = self.total() - least - new_unavailable;
        let mut moved = false;
        for i in &olds {
            let set = &self.sets[*i];
            let broken = (size(set) - available(set)).min(room);
            if broken > 0 {
                let target = size(set) - broken;
                resize(self.deployment, &mut self.sets[*i], target);
                room -= broken;
                moved = true;
            }
        }
        // Sizes are clamped to what is asked for, so pods that were given up above do not count.
        let spare = self.sets.iter().map(available).sum::<i32>() - least;
        let mut room = room.min(spare);
        for i in &olds {
            let target = size(&self.sets[*i]);
            let step = target.min(room);
            if step > 0 {
                resize(self.deployment, &mut self.sets[*i], target - step);
                room -= step;
                moved = true;
            }
        }
        moved
    }

    /// One step of a recreation; whether there was one.
    fn recreate(&mut self) -> bool {
        self.number_new();
        let mut moved = false;
        for i in self.olds() {
            if size(&self.sets[i]) > 0 {
                resize(self.deployment, &mut self.sets[i], 0);
                moved = true;
            }
        }
        if moved || self.old_pods_run() {
            return true;
        }
        let Some(new) = self.new else {
            self.create_new();
            return true;
        };
        let wanted = amount::wanted(self.deployment);
        if size(&self.sets[new]) == wanted {
            return false;
        }
        resize(self.deployment, &mut self.sets[new], wanted);
        true
    }

    fn old_pods_run(&self) -> bool {
        self.olds().into_iter().any(|i| {
            let set = &self.sets[i];
            set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || set.metadata.uid.as_ref().is_some_and(|uid| self.running.contains(uid))
        })
    }

    /// Deletes the oldest of the old sets beyond the history limit.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut olds = self.olds();
        olds.retain(|i| self.sets[*i].metadata.deletion_timestamp.is_none());
        olds.sort_by_key(|i| revision::revision_of(&self.sets[*i].metadata));
        let surplus = olds.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for i in olds.into_iter().take(surplus) {
            let set = &self.sets[i];
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
            if size(set) == 0 && status.replicas == 0 && seen {
                self.plan.deletes.push(set.clone());
            }
        }
    }
}
