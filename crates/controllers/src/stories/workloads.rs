//! StatefulSets and DaemonSets, as their users see them.

use balsa_model::strategy::{DeleteOptions, Part};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::cluster::{Cluster, from};
use crate::pods;

fn names(pods: &[Pod]) -> Vec<&str> {
    pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
}

fn all_run(pods: &[Pod], image: &str, count: usize) -> bool {
    pods.len() == count
        && pods.iter().all(|pod| {
            pods::is_ready(pod) && pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image)
        })
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": image}]}})
}

fn stateful_set(image: &str, replicas: i32) -> StatefulSet {
    from(json!({
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                 "template": template(image), "volumeClaimTemplates": [{"metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]},
    }))
}

fn is_done(sets: &[StatefulSet], replicas: i32) -> bool {
    let Some(status) = sets.first().and_then(|set| set.status.as_ref()) else { return false };
    status.observed_generation == sets[0].metadata.generation
        && status.replicas == replicas
        && status.ready_replicas.unwrap_or(0) == replicas
        && status.updated_replicas.unwrap_or(0) == replicas
        && status.current_revision == status.update_revision
}

#[tokio::test]
async fn a_stateful_set_comes_in_order_rolls_and_goes_back() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(stateful_set("v1", 3)).await;
    cluster.wait::<StatefulSet>("three run", |sets| is_done(sets, 3)).await;
    let pods = cluster.list::<Pod>().await;
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    let claims = cluster.list::<PersistentVolumeClaim>().await;
    assert_eq!(claims.len(), 3, "one claim for each");
    let first = cluster.find::<Pod>("default", "db-0").await.unwrap().metadata.uid;
    cluster
        .change::<StatefulSet>("default", "db", |set| {
            set.spec.as_mut().unwrap().template = serde_json::from_value(template("v2")).unwrap();
        })
        .await;
    cluster.wait::<Pod>("all are replaced", |pods| all_run(pods, "v2", 3)).await;
    cluster.wait::<StatefulSet>("v2 is done", |sets| is_done(sets, 3)).await;
    assert_ne!(cluster.find::<Pod>("default", "db-0").await.unwrap().metadata.uid, first);
    assert_eq!(cluster.list::<ControllerRevision>().await.len(), 2);
    // Back to the first template: its revision becomes the latest again.
    cluster
        .change::<StatefulSet>("default", "db", |set| {
            set.spec.as_mut().unwrap().template = serde_json::from_value(template("v1")).unwrap();
        })
        .await;
    cluster.wait::<Pod>("v1 again", |pods| all_run(pods, "v1", 3)).await;
    cluster
        .wait::<ControllerRevision>("the first revision has the highest number", |revisions| {
            let mut numbers: Vec<i64> = revisions.iter().map(|r| r.revision).collect();
            numbers.sort_unstable();
            numbers == [2, 3]
        })
        .await;
    cluster.change::<StatefulSet>("default", "db", |set| set.spec.as_mut().unwrap().replicas = Some(1)).await;
    cluster.wait::<Pod>("the last go", |pods| names(pods) == ["db-0"]).await;
    assert_eq!(cluster.list::<PersistentVolumeClaim>().await.len(), 3, "claims stay");
    cluster.delete::<Pod>("default", "db-0", DeleteOptions::default()).await;
    cluster.wait::<Pod>("it comes back", |pods| all_run(pods, "v1", 1) && names(pods) == ["db-0"]).await;
}

#[tokio::test]
async fn a_stateful_set_waits_for_a_broken_pod() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(stateful_set("broken", 3)).await;
    cluster
        .wait::<StatefulSet>("it has seen its first pod", |sets| {
            sets[0]
                .status
                .as_ref()
                .is_some_and(|status| status.replicas == 1 && status.ready_replicas.is_none())
        })
        .await;
    assert_eq!(names(&cluster.list::<Pod>().await), ["db-0"], "the next come when it is ready");
}

async fn put_node(cluster: &Cluster, name: &str, labels: Value) {
    let mut all = json!({"kubernetes.io/hostname": name});
    all.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
    cluster.create::<Node>(from(json!({"metadata": {"name": name, "labels": all}, "spec": {}}))).await;
    let mut node = cluster.find::<Node>("", name).await.unwrap();
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    node.status = Some(serde_json::from_value(ready).unwrap());
    cluster.client.api::<Node>().update(&node, Part::Status).await.unwrap();
}

#[tokio::test]
async fn a_daemon_runs_on_every_node_that_wants_it() {
    let cluster = Cluster::with_kubelet().await;
    put_node(&cluster, "a", json!({"kind": "x"})).await;
    put_node(&cluster, "b", json!({"kind": "y"})).await;
    let mut spec = template("v1");
    spec["spec"]["nodeSelector"] = json!({"kind": "x"});
    let set = json!({"metadata": {"name": "agent", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "template": spec}});
    cluster.create::<DaemonSet>(from(set)).await;
    cluster.wait::<Pod>("one node is selected", |pods| all_run(pods, "v1", 1)).await;
    put_node(&cluster, "c", json!({"kind": "x"})).await;
    cluster.wait::<Pod>("a new node gets one", |pods| all_run(pods, "v1", 2)).await;
    let counts = |sets: &[DaemonSet]| {
        let status = sets[0].status.clone().unwrap_or_default();
        (status.desired_number_scheduled, status.number_ready, status.number_available)
    };
    cluster.wait::<DaemonSet>("it says so", |sets| counts(sets) == (2, 2, Some(2))).await;
    cluster
        .change::<DaemonSet>("default", "agent", |set| {
            set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image =
                Some("v2".to_owned());
        })
        .await;
    cluster.wait::<Pod>("all are replaced", |pods| all_run(pods, "v2", 2)).await;
    cluster
        .wait::<DaemonSet>("it says so", |sets| {
            sets[0].status.as_ref().unwrap().updated_number_scheduled == Some(2)
                && counts(sets) == (2, 2, Some(2))
        })
        .await;
    assert_eq!(cluster.list::<ControllerRevision>().await.len(), 2);
    cluster
        .change::<Node>("", "c", |node| {
            node.metadata.labels.as_mut().unwrap().remove("kind");
        })
        .await;
    cluster.wait::<Pod>("it leaves a node that is no longer selected", |pods| all_run(pods, "v2", 1)).await;
}
