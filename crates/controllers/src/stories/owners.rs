//! What is owned goes with its owner; what is orphaned stays; namespaces are emptied.

use balsa_model::strategy::{DeleteOptions, Propagation};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ReplicationController};
use serde_json::json;

use super::cluster::{Cluster, from, namespace};
use crate::owner::controller_of;

fn deployment(namespace: &str) -> Deployment {
    from(json!({
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "v1"}]}}},
    }))
}

fn options(propagation: Propagation) -> DeleteOptions {
    DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() }
}

async fn running() -> Cluster {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(deployment("default")).await;
    cluster.wait::<Pod>("two pods", |pods| pods.len() == 2).await;
    cluster
}

#[tokio::test]
async fn dependents_go_with_their_owner() {
    for propagation in [Propagation::Background, Propagation::Foreground] {
        let cluster = running().await;
        cluster.delete::<Deployment>("default", "web", options(propagation)).await;
        cluster.wait::<Deployment>("the deployment is gone", <[_]>::is_empty).await;
        cluster.wait::<ReplicaSet>("its sets are gone", <[_]>::is_empty).await;
        cluster.wait::<Pod>("its pods are gone", <[_]>::is_empty).await;
    }
}

#[tokio::test]
async fn orphans_stay_and_are_adopted_again() {
    let cluster = running().await;
    cluster.delete::<Deployment>("default", "web", options(Propagation::Orphan)).await;
    cluster.wait::<Deployment>("the deployment is gone", <[_]>::is_empty).await;
    let is_orphan = |sets: &[ReplicaSet]| sets.len() == 1 && controller_of(&sets[0].metadata).is_none();
    cluster.wait::<ReplicaSet>("its set is nobody's", is_orphan).await;
    cluster.create(deployment("default")).await;
    let is_owned = |sets: &[ReplicaSet]| sets.len() == 1 && controller_of(&sets[0].metadata).is_some();
    cluster.wait::<ReplicaSet>("the set is adopted", is_owned).await;
    cluster.wait::<Pod>("the pods are the same", |pods| pods.len() == 2).await;
}

#[tokio::test]
async fn a_controller_adopts_and_releases_by_labels() {
    let cluster = Cluster::with_kubelet().await;
    let pod = json!({"metadata": {"name": "stray", "namespace": "default", "labels": {"app": "rc"}},
        "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    cluster.create::<Pod>(from(pod)).await;
    let rc = json!({"metadata": {"name": "rc", "namespace": "default"}, "spec": {
        "replicas": 2, "selector": {"app": "rc"}, "template": {
            "metadata": {"labels": {"app": "rc"}},
            "spec": {"containers": [{"name": "c", "image": "v1"}]}}}});
    cluster.create::<ReplicationController>(from(rc)).await;
    let owned = |count: usize| {
        move |pods: &[Pod]| pods.iter().filter(|p| controller_of(&p.metadata).is_some()).count() == count
    };
    cluster.wait::<Pod>("two pods, one adopted", |pods| pods.len() == 2 && owned(2)(pods)).await;
    let relabel = |pod: &mut Pod| {
        pod.metadata.labels.as_mut().unwrap().insert("app".to_owned(), "other".to_owned());
    };
    cluster.change::<Pod>("default", "stray", relabel).await;
    cluster.wait::<Pod>("it is let go, another comes", |pods| pods.len() == 3 && owned(2)(pods)).await;
    cluster
        .wait::<ReplicationController>("the status counts two", |all| {
            all[0].status.as_ref().is_some_and(|status| status.ready_replicas == Some(2))
        })
        .await;
}

#[tokio::test]
async fn an_object_with_two_owners_outlives_one() {
    let cluster = Cluster::with_kubelet().await;
    let mut owners = Vec::new();
    for name in ["a", "b"] {
        let owner = json!({"metadata": {"name": name, "namespace": "default"}});
        let created = cluster.create::<ConfigMap>(from(owner)).await;
        owners.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": created.uid()}));
    }
    let child = json!({"metadata": {"name": "child", "namespace": "default", "ownerReferences": owners}});
    cluster.create::<ConfigMap>(from(child)).await;
    cluster.delete::<ConfigMap>("default", "a", DeleteOptions::default()).await;
    let named = |all: &[ConfigMap], name: &str| {
        all.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned()
    };
    let one_left = |all: &[ConfigMap]| {
        named(all, "child").is_some_and(|child| child.metadata.owner_references.is_some_and(|o| o.len() == 1))
    };
    cluster.wait::<ConfigMap>("one owner is left", one_left).await;
    cluster.delete::<ConfigMap>("default", "b", DeleteOptions::default()).await;
    cluster.wait::<ConfigMap>("the child is gone", |all| named(all, "child").is_none()).await;
}

#[tokio::test]
async fn a_deleted_namespace_is_emptied() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(namespace("doomed")).await;
    cluster.create(deployment("doomed")).await;
    cluster.wait::<Pod>("two pods", |pods| pods.len() == 2).await;
    let held =
        json!({"metadata": {"name": "held", "namespace": "doomed", "finalizers": ["example.com/hold"]}});
    cluster.create::<ConfigMap>(from(held)).await;
    cluster.delete::<Namespace>("", "doomed", DeleteOptions::default()).await;
    let says_so = |all: &[Namespace]| {
        let doomed = all.iter().find(|n| n.metadata.name.as_deref() == Some("doomed"));
        let status = doomed.and_then(|n| n.status.clone()).unwrap_or_default();
        status.conditions.iter().flatten().any(|c| {
            c.type_ == "NamespaceFinalizersRemaining"
                && c.status == "True"
                && c.message
                    .as_deref()
                    .unwrap_or_default()
                    .contains("example.com/hold in 1 resource instances")
        })
    };
    cluster.wait::<Namespace>("it says what holds it", says_so).await;
    cluster.change::<ConfigMap>("doomed", "held", |c| c.metadata.finalizers = None).await;
    cluster.wait::<Deployment>("its deployments are gone", <[_]>::is_empty).await;
    cluster.wait::<Pod>("its pods are gone", <[_]>::is_empty).await;
    let none_there =
        |all: &[ConfigMap]| all.iter().all(|c| c.metadata.namespace.as_deref() != Some("doomed"));
    cluster.wait::<ConfigMap>("its config maps are gone", none_there).await;
}

#[tokio::test]
async fn an_empty_namespace_goes() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(namespace("doomed")).await;
    cluster.delete::<Namespace>("", "doomed", DeleteOptions::default()).await;
    let gone = |all: &[Namespace]| all.iter().all(|n| n.metadata.name.as_deref() != Some("doomed"));
    cluster.wait::<Namespace>("it is gone", gone).await;
}
