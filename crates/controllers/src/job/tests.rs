//! Tables for the plan of a Job.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{Plan, View, plan};
use super::{TRACKING, slots};

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"parallelism": 2, "completions": 3, "backoffLimit": 1, "completionMode": "NonIndexed",
        "podReplacementPolicy": "TerminatingOrFailed", "template": {"spec": {"containers": [
            {"name": "c", "image": "i"}], "restartPolicy": "Never"}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"}, "spec": all, "status": status}),
    )
    .unwrap()
}

/// `a:run`, `b:ok`, `c:fail`, `d:leave`; `!` at the end: not tracked any more; `0:ok`: of that index.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let one = |word: &str| {
        let (name, state) = word.split_once(':').unwrap();
        let tracked = !state.ends_with('!');
        let phase = match state.trim_end_matches('!') {
            "ok" => "Succeeded",
            "fail" => "Failed",
            _ => "Running",
        };
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "annotations": {slots::INDEX: name},
                         "creationTimestamp": "1970-01-01T00:00:00Z"},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": 3, "finishedAt": "1970-01-01T00:00:50Z"}}}]}}))
        .unwrap();
        pod.metadata.finalizers = tracked.then(|| vec![TRACKING.to_owned()]);
        if state == "leave" {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        }
        Arc::new(pod)
    };
    text.split_whitespace().map(one).collect()
}

fn run(job: &Job, text: &str) -> Plan {
    let pods = pods(text);
    let now = Timestamp::from_second(100).unwrap();
    plan(&View { job, pods: &pods, doomed: &HashSet::new(), now })
}

fn conditions(plan: &Plan) -> Vec<String> {
    let all = plan.status.conditions.iter().flatten().filter(|c| c.status == "True");
    all.map(|c| format!("{}:{}", c.type_, c.reason.as_deref().unwrap())).collect()
}

#[test]
fn as_many_run_as_are_needed() {
    for (spec, status, there, created, dismissed) in [
        (json!({}), json!({}), "", 2, 0),
        (json!({}), json!({}), "a:run", 1, 0),
        (json!({}), json!({"succeeded": 2}), "a:ok! b:ok!", 1, 0),
        (json!({}), json!({"succeeded": 2}), "a:ok! b:ok! c:run", 0, 0),
        (json!({"parallelism": 1}), json!({}), "a:run b:run", 0, 1),
        (json!({"suspend": true}), json!({}), "a:run b:run", 0, 2),
        (json!({"podReplacementPolicy": "Failed"}), json!({}), "a:leave", 1, 0),
        (json!({"completions": null}), json!({"succeeded": 1}), "a:ok! b:run", 0, 0),
    ] {
        let plan = run(&job(spec.clone(), status), there);
        assert_eq!((plan.create.len(), plan.dismiss.len()), (created, dismissed), "{spec} {there}");
    }
}

#[test]
fn every_end_is_counted_once() {
    let first = run(&job(json!({}), json!({})), "a:ok b:run");
    let uncounted = first.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(
        (uncounted.succeeded, first.status.succeeded, first.counted.len()),
        (Some(vec!["a".to_owned()]), None, 1)
    );
    assert_eq!(first.create.len(), 1);
    let status = serde_json::to_value(&first.status).unwrap();
    // The pod is not let go of yet: nothing changes.
    let again = run(&job(json!({}), status.clone()), "a:ok b:run");
    assert_eq!((again.status.succeeded, again.counted.len()), (None, 1));
    let released = run(&job(json!({}), status.clone()), "a:ok! b:run");
    assert_eq!((released.status.succeeded, released.counted.len()), (Some(1), 0));
    assert_eq!(released.status.uncounted_terminated_pods.unwrap().succeeded, None);
    let gone = run(&job(json!({}), status), "b:run");
    assert_eq!(gone.status.succeeded, Some(1), "its pod may be gone by then");
}

#[test]
fn it_ends_when_all_is_counted() {
    let met = run(&job(json!({"completions": 1}), json!({})), "a:ok");
    assert_eq!(conditions(&met), ["SuccessCriteriaMet:CompletionsReached"]);
    let status = serde_json::to_value(&met.status).unwrap();
    let done = run(&job(json!({"completions": 1}), status), "a:ok!");
    assert_eq!(conditions(&done), ["SuccessCriteriaMet:CompletionsReached", "Complete:CompletionsReached"]);
    assert!(done.status.completion_time.is_some() && done.status.active.is_none());
}

#[test]
fn failures_wait_and_are_limited() {
    let first = run(&job(json!({}), json!({})), "a:fail b:run");
    assert_eq!(first.create.len(), 1, "the wait is over");
    let fresh = {
        let mut all = pods("a:fail");
        let end =
            &mut Arc::make_mut(&mut all[0]).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0]
                .state;
        end.as_mut().unwrap().terminated.as_mut().unwrap().finished_at =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(95).unwrap()));
        all
    };
    let job_object = job(json!({}), json!({}));
    let doomed = HashSet::new();
    let now = Timestamp::from_second(100).unwrap();
    let waits = plan(&View { job: &job_object, pods: &fresh, doomed: &doomed, now });
    assert_eq!((waits.create.len(), waits.look_again.map(|d| d.as_secs())), (0, Some(5)));
    let lost = run(&job(json!({}), json!({})), "a:fail b:fail c:run");
    assert_eq!(conditions(&lost), ["FailureTarget:BackoffLimitExceeded"]);
    assert_eq!(lost.delete.len(), 1);
    let late = run(
        &job(json!({"activeDeadlineSeconds": 10}), json!({"startTime": "1970-01-01T00:00:50Z"})),
        "a:run",
    );
    assert_eq!(conditions(&late), ["FailureTarget:DeadlineExceeded"]);
}

#[test]
fn a_policy_judges_failures() {
    let policy = |action: &str| json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]}});
    let lost = run(&job(policy("FailJob"), json!({})), "a:fail");
    assert_eq!(conditions(&lost), ["FailureTarget:PodFailurePolicy"]);
    let message = lost.status.conditions.unwrap()[0].message.clone().unwrap();
    assert_eq!(message, "Container c for pod n/a failed with exit code 3 matching FailJob rule at index 0");
    let ignored = run(&job(policy("Ignore"), json!({})), "a:fail b:fail c:fail");
    assert!(conditions(&ignored).is_empty());
    assert_eq!((ignored.status.failed, ignored.counted.len()), (None, 3));
}

#[test]
fn indexes() {
    let indexed = |extra: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    let plan = run(&job(indexed(json!({})), json!({"completedIndexes": "0"})), "0:ok! 1:run 2:ok");
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0,2"));
    let new: Vec<_> = plan.create.iter().filter_map(|slot| slot.index).collect();
    assert_eq!(new, [3, 4]);
    let pod = slots::pod(&job(indexed(json!({})), json!({})), &plan.create[0]);
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
    let spec = pod.spec.unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-3"));
    assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    // Limited by index: one index is lost, the others go on.
    let by_index = indexed(json!({"backoffLimitPerIndex": 0, "backoffLimit": 100}));
    let plan = run(&job(by_index.clone(), json!({})), "0:fail 1:run");
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.create.iter().filter_map(|slot| slot.index).collect::<Vec<_>>(), [2, 3]);
    let plan = run(&job(by_index, json!({"completedIndexes": "1-4", "failedIndexes": "0"})), "0:fail!");
    assert_eq!(conditions(&plan), ["FailureTarget:FailedIndexes", "Failed:FailedIndexes"]);
    let policy = indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "0-1"}]}}));
    let plan = run(&job(policy, json!({"completedIndexes": "0-1"})), "2:run");
    assert_eq!(conditions(&plan), ["SuccessCriteriaMet:SuccessPolicy"]);
}
