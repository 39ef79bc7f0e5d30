//! Counting each end of a pod once.
//!
//! A UID goes into the status's list in one write; then its pod is let go of; and when the pod shows
//! that, the UID leaves the list and the number grows, in one write again.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;

use super::super::failure_policy::{Verdict, judge};
use super::super::is_tracked;
use super::super::slots::{failures_before, index_of};
use super::{Work, name_and_uid};
use crate::pods;

impl Work<'_> {
    /// Takes in what has ended.
    pub(super) fn count_ends(&mut self) {
        self.settle_counted();
        for pod in self.view.pods.iter().filter(|pod| is_tracked(&pod.metadata)) {
            if pods::phase(pod) == "Succeeded" {
                self.count_success(pod);
            } else if self.has_failed(pod) {
                self.count_failure(pod);
            }
        }
    }

    /// Those that are let go of leave the lists and are numbers from now on.
    fn settle_counted(&mut self) {
        let held: HashSet<&str> = self
            .view
            .pods
            .iter()
            .filter(|pod| is_tracked(&pod.metadata))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let status = &mut self.plan.status;
        let lists = status.uncounted_terminated_pods.get_or_insert_default();
        for (list, number) in
            [(&mut lists.succeeded, &mut status.succeeded), (&mut lists.failed, &mut status.failed)]
        {
            let uids = list.take().unwrap_or_default();
            let (stay, go): (Vec<String>, Vec<String>) =
                uids.into_iter().partition(|uid| held.contains(uid.as_str()));
            *list = (!stay.is_empty()).then_some(stay);
            let grown = number.unwrap_or(0) + super::int(go.len());
            *number = (grown > 0).then_some(grown);
        }
    }

    /// Whether a pod has failed, or is on its way out and will never succeed.
    fn has_failed(&self, pod: &Pod) -> bool {
        if pods::phase(pod) == "Failed" {
            return true;
        }
        let over = pod.metadata.deletion_grace_period_seconds == Some(0);
        let waits_for_end = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        pod.metadata.deletion_timestamp.is_some() && (over || !waits_for_end)
    }

    fn count_success(&mut self, pod: &Pod) {
        self.plan.counted.push(name_and_uid(pod));
        if self.is_indexed() {
            let limit = self.spec.completions.unwrap_or(0);
            if let Some(index) = index_of(pod).filter(|index| *index < limit) {
                self.completed.insert(index);
                self.failed_indexes.remove(&index);
            }
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let lists = self.plan.status.uncounted_terminated_pods.get_or_insert_default();
        remember(lists.succeeded.get_or_insert_default(), uid);
    }

    fn count_failure(&mut self, pod: &Pod) {
        let verdict = judge(&self.spec, pod);
        let (key, uid) = name_and_uid(pod);
        self.plan.counted.push((key, uid.clone()));
        if let Some(limit) = self.spec.backoff_limit_per_index
            && let Some(index) = index_of(pod)
            && verdict != Verdict::Ignore
            && (verdict == Verdict::FailIndex || failures_before(pod) + 1 > limit)
            && !self.completed.contains(&index)
        {
            self.failed_indexes.insert(index);
        }
        match verdict {
            Verdict::Ignore => return,
            Verdict::FailJob(message) => self.lost = Some(message),
            Verdict::Count | Verdict::FailIndex => {}
        }
        let lists = self.plan.status.uncounted_terminated_pods.get_or_insert_default();
        remember(lists.failed.get_or_insert_default(), uid);
    }
}

fn remember(list: &mut Vec<String>, uid: String) {
    if !list.contains(&uid) {
        list.push(uid);
    }
}
