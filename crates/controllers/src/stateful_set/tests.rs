//! Tables for the plan of a StatefulSet.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::identity;
use super::plan::{Step, View, plan};
use crate::revisions::History;

fn set(extra: Value) -> StatefulSet {
    let mut spec = json!({"replicas": 3, "serviceName": "db", "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n", "uid": "s", "generation": 2},
        "spec": spec, "status": {"replicas": 0, "currentRevision": "db-old"}}))
    .unwrap()
}

fn history() -> History {
    let revision = |name: &str, number: i64, image: &str| -> ControllerRevision {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "revision": number, "data": {"spec": {"template":
            {"$patch": "replace", "metadata": {"labels": {"app": "db"}},
             "spec": {"containers": [{"name": "c", "image": image}]}}}}}),
        )
        .unwrap()
    };
    let all = vec![revision("db-old", 1, "old"), revision("db-new", 2, "new")];
    History { update: all[1].clone(), all }
}

/// `0:old:ready`, `1:new:starting`, `2:old:leaving`, `3:old:failed`.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let one = |word: &str| {
        let parts: Vec<&str> = word.split(':').collect();
        let phase = match parts[2] {
            "starting" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let ready = if parts[2] == "ready" { "True" } else { "False" };
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("db-{}", parts[0]), "namespace": "n", "uid": parts[0],
                         "labels": {"controller-revision-hash": format!("db-{}", parts[1])}},
            "spec": {"containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap();
        if parts[2] == "leaving" {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        }
        Arc::new(pod)
    };
    text.split_whitespace().map(one).collect()
}

fn steps(set: &StatefulSet, text: &str) -> Vec<String> {
    let (history, pods) = (history(), pods(text));
    let plan = plan(&View { set, history: &history, pods: &pods, now: Timestamp::UNIX_EPOCH });
    let name = |step: &Step| match step {
        Step::Create(ordinal, pod) => {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            Some(format!("+{ordinal}:{image}"))
        }
        Step::CreateClaims(_) => None,
        Step::Delete { pod, .. } => Some(format!("-{}", pod.metadata.uid.as_deref().unwrap())),
        Step::Recreate(pod) => Some(format!("~{}", pod.metadata.uid.as_deref().unwrap())),
    };
    plan.steps.iter().filter_map(name).collect()
}

#[test]
fn in_order() {
    for (there, expected) in [
        ("", &["+0:new"][..]),
        ("0:new:starting", &[]),
        ("0:new:ready", &["+1:new"]),
        ("0:new:ready 2:new:ready", &["+1:new"]),
        ("0:new:ready 1:new:leaving", &[]),
        ("0:new:ready 1:new:failed", &["~1"]),
        // An update takes the last pod first, and waits for each.
        ("0:old:ready 1:old:ready 2:old:ready", &["-2"]),
        ("0:old:ready 1:old:ready 2:new:ready", &["-1"]),
        ("0:old:ready 1:old:ready", &["+2:new"]),
        ("0:new:ready 1:new:ready 2:new:ready", &[]),
        // Too many: the last first.
        ("0:new:ready 1:new:ready 2:new:ready 3:new:ready 4:new:ready", &["-4"]),
        ("0:new:ready 1:new:ready 2:new:ready 3:new:ready 4:new:leaving", &[]),
        ("0:new:ready 1:new:starting 2:new:ready 3:new:ready", &[]),
    ] {
        assert_eq!(steps(&set(json!({})), there), expected, "{there}");
    }
}

#[test]
fn in_parallel() {
    let set = set(json!({"podManagementPolicy": "Parallel"}));
    for (there, expected) in [
        ("", &["+0:new", "+1:new", "+2:new"][..]),
        ("0:new:starting", &["+1:new", "+2:new"]),
        ("0:new:ready 1:new:ready 2:new:ready 3:new:ready 4:new:ready", &["-4", "-3"]),
        ("0:old:ready 1:old:ready 2:old:ready", &["-2"]),
        ("0:old:ready 1:old:ready 2:new:starting", &[]),
    ] {
        assert_eq!(steps(&set, there), expected, "{there}");
    }
}

#[test]
fn partitions_ordinals_and_on_delete() {
    let rolling = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    assert_eq!(steps(&set(rolling(2)), "0:old:ready 1:old:ready 2:new:ready"), [""; 0]);
    assert_eq!(steps(&set(rolling(2)), "0:old:ready 2:new:ready"), ["+1:old"]);
    let later = set(json!({"ordinals": {"start": 5}, "replicas": 1}));
    assert_eq!(steps(&later, ""), ["+5:new"]);
    assert_eq!(steps(&later, "0:old:ready 5:new:ready"), ["-0"]);
    let on_delete = set(json!({"updateStrategy": {"type": "OnDelete"}}));
    assert_eq!(steps(&on_delete, "0:old:ready 1:old:ready 2:old:ready"), [""; 0]);
    assert_eq!(steps(&on_delete, "0:old:ready 2:old:ready"), ["+1:new"]);
}

#[test]
fn the_status_ends_an_update() {
    let (set, history, pods) = (set(json!({})), history(), pods("0:new:ready 1:new:ready 2:new:ready"));
    let plan = plan(&View { set: &set, history: &history, pods: &pods, now: Timestamp::UNIX_EPOCH });
    let status = serde_json::to_value(plan.status).unwrap();
    assert_eq!(
        status,
        json!({"availableReplicas": 3, "collisionCount": 0, "currentReplicas": 3, "currentRevision": "db-new",
               "observedGeneration": 2, "readyReplicas": 3, "replicas": 3, "updateRevision": "db-new",
               "updatedReplicas": 3})
    );
}

#[test]
fn pods_and_claims_have_their_names() {
    let set = set(json!({}));
    let pod = identity::pod(&set, &set.spec.as_ref().unwrap().template, "db-new", 1);
    let value = serde_json::to_value(&pod).unwrap();
    assert_eq!(value["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "db-1");
    assert_eq!((&value["spec"]["hostname"], &value["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    assert_eq!(value["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-1");
    let claims = identity::claims(&set, 1);
    assert_eq!(claims[0].metadata.name.as_deref(), Some("data-db-1"));
    assert_eq!(identity::ordinal_of(&set, &pod.metadata), Some(1));
    let other: Pod = serde_json::from_value(json!({"metadata": {"name": "db-01"}})).unwrap();
    assert_eq!(identity::ordinal_of(&set, &other.metadata), None);
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    let claim = |owners: Value| -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-db-1", "ownerReferences": owners}})).unwrap()
    };
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-1", "uid": "p"}})).unwrap();
    for (deleted, scaled, condemned, expected) in [
        ("Retain", "Retain", false, None),
        ("Delete", "Retain", false, Some("s")),
        ("Delete", "Delete", true, Some("p")),
        ("Retain", "Delete", true, Some("p")),
        ("Retain", "Delete", false, None),
    ] {
        let set = set(
            json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}),
        );
        let mut claim = claim(json!([]));
        claim.metadata.owner_references = None;
        identity::tie(&mut claim, &set, Some(&pod), condemned);
        let owner = claim.metadata.owner_references.iter().flatten().next().map(|owner| owner.uid.clone());
        assert_eq!(owner.as_deref(), expected, "{deleted} {scaled} {condemned}");
        assert!(!identity::tie(&mut claim, &set, Some(&pod), condemned), "twice is once");
    }
}
