//! Tables for the plan of a Deployment.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::json;

use super::plan::{Plan, View, plan};
use super::*;

fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "revisionHistoryLimit": 1, "progressDeadlineSeconds": 60,
                 "strategy": {"type": "RollingUpdate", "rollingUpdate":
                    {"maxSurge": surge, "maxUnavailable": unavailable}},
                 "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": "new"}]}}},
    }))
    .unwrap()
}

/// A set of the Deployment; the image `new` makes it the new one.
fn set(deployment: &Deployment, image: &str, size: i32, available: i32, revision: i32) -> ReplicaSet {
    let mut set = revision::new_set(deployment);
    set.metadata.name = Some(format!("web-{image}"));
    set.metadata.uid = Some(image.to_owned());
    set.metadata.annotations = Some([(revision::REVISION.to_owned(), revision.to_string())].into());
    set.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Timestamp::from_second(i64::from(revision)).unwrap(),
    ));
    let spec = set.spec.as_mut().unwrap();
    spec.replicas = Some(size);
    spec.template.as_mut().unwrap().spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    set.status = Some(
        serde_json::from_value(
            json!({"replicas": size, "readyReplicas": available, "availableReplicas": available}),
        )
        .unwrap(),
    );
    scale::annotate(&mut set, amount::wanted(deployment), amount::max_surge(deployment));
    set
}

fn run(deployment: &Deployment, sets: Vec<ReplicaSet>, now: i64) -> Plan {
    let now = Timestamp::from_second(now).unwrap();
    plan(View { deployment, sets, running: &HashSet::new(), now })
}

/// `name=size` of every set whose size changes.
fn sizes(plan: &Plan) -> Vec<String> {
    let resized = plan.updates.iter().filter(|(set, from)| scale::size(set) != *from);
    resized
        .map(|(set, _)| format!("{}={}", set.metadata.name.as_deref().unwrap(), scale::size(set)))
        .collect()
}

#[test]
fn a_new_template_gets_a_set_as_large_as_the_surge_allows() {
    let deployment = deployment(4, 1, 1);
    let first = run(&deployment, Vec::new(), 0);
    let created = first.create.unwrap();
    assert_eq!(scale::size(&created), 4);
    assert_eq!(first.revision.as_deref(), Some("1"));
    assert!(created.metadata.name.unwrap().starts_with("web-"));
    let second = run(&deployment, vec![set(&deployment, "old", 4, 4, 1)], 0);
    assert_eq!(scale::size(&second.create.unwrap()), 1);
    assert_eq!(second.revision.as_deref(), Some("2"));
}

#[test]
fn rolling_steps() {
    for (old, new, (surge, unavailable), expected) in [
        // (size, available) of old and new.
        ((4, 4), (1, 0), (1, 1), &["web-old=3"][..]),
        ((3, 3), (2, 0), (1, 1), &[]),
        ((3, 3), (1, 1), (1, 1), &["web-new=2"]),
        ((3, 3), (2, 1), (1, 1), &["web-old=2"]),
        ((4, 4), (1, 0), (1, 0), &[]),
        ((4, 4), (1, 1), (1, 0), &["web-old=3"]),
        ((4, 2), (1, 0), (1, 1), &["web-old=3"]),
        ((0, 0), (4, 4), (1, 1), &[]),
        ((4, 4), (0, 0), (0, 4), &["web-old=0"]),
    ] {
        let deployment = deployment(4, surge, unavailable);
        let sets = vec![set(&deployment, "old", old.0, old.1, 1), set(&deployment, "new", new.0, new.1, 2)];
        assert_eq!(sizes(&run(&deployment, sets, 0)), expected, "{old:?} {new:?} {surge} {unavailable}");
    }
}

#[test]
fn a_scaled_rollout_keeps_its_mix() {
    let before = deployment(10, 3, 2);
    let sets = vec![set(&before, "old", 8, 8, 1), set(&before, "new", 5, 0, 2)];
    let deployment = deployment(15, 3, 2);
    let plan = run(&deployment, sets, 0);
    assert_eq!(sizes(&plan), ["web-old=11", "web-new=7"]);
}

#[test]
fn the_deadline_passes() {
    let mut deployment = deployment(2, 1, 0);
    let sets = vec![set(&deployment, "old", 2, 2, 1), set(&deployment, "new", 1, 0, 2)];
    let first = run(&deployment, sets.clone(), 100);
    let reason = |plan: &Plan| {
        let conditions = plan.status.conditions.clone().unwrap();
        conditions.into_iter().find(|c| c.type_ == "Progressing").and_then(|c| c.reason).unwrap()
    };
    assert_eq!(reason(&first), "ReplicaSetUpdated");
    deployment.status = Some(first.status);
    let waiting = run(&deployment, sets.clone(), 130);
    assert_eq!(reason(&waiting), "ReplicaSetUpdated");
    assert_eq!(waiting.look_again.unwrap().as_secs(), 31);
    assert_eq!(reason(&run(&deployment, sets, 161)), "ProgressDeadlineExceeded");
}

#[test]
fn only_so_much_history_is_kept() {
    let deployment = deployment(1, 1, 0);
    let sets = vec![
        set(&deployment, "a", 0, 0, 1),
        set(&deployment, "b", 0, 0, 2),
        set(&deployment, "new", 1, 1, 3),
    ];
    let plan = run(&deployment, sets, 0);
    let names: Vec<_> = plan.deletes.iter().map(|set| set.metadata.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["web-a"]);
    let conditions = plan.status.conditions.unwrap();
    assert!(conditions.iter().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable")));
}

#[test]
fn hashes_are_those_of_the_template() {
    let mut one = deployment(1, 1, 0);
    let hash = revision::hash(&one);
    one.spec.as_mut().unwrap().replicas = Some(7);
    assert_eq!(revision::hash(&one), hash);
    one.status = Some(serde_json::from_value(json!({"collisionCount": 1})).unwrap());
    assert_ne!(revision::hash(&one), hash);
}
