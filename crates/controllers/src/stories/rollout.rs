//! Deployments roll, scale, go back and stop where they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use balsa_model::selector::Filter;
use balsa_rt::TaskKind;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::cluster::{Cluster, from};
use crate::pods;

fn deployment(image: &str, replicas: i32, strategy: Value) -> Deployment {
    from(json!({
        "metadata": {"name": "web", "namespace": "default", "annotations": {"kubernetes.io/change-cause": image}},
        "spec": {
            "replicas": replicas,
            "strategy": strategy,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    }))
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

fn all_run(pods: &[Pod], wanted: &str, count: usize) -> bool {
    pods.len() == count && pods.iter().all(|pod| image(pod) == wanted && pods::is_ready(pod))
}

fn is_done(deployments: &[Deployment], replicas: i32) -> bool {
    let Some(deployment) = deployments.first() else { return false };
    let Some(status) = &deployment.status else { return false };
    let reason = |type_: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == type_);
        condition.and_then(|c| c.reason.clone()).unwrap_or_default()
    };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(replicas)
        && status.replicas == Some(replicas)
        && status.available_replicas == Some(replicas)
        && reason("Progressing") == "NewReplicaSetAvailable"
        && reason("Available") == "MinimumReplicasAvailable"
}

fn set_image(deployment: &mut Deployment, image: &str) {
    deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image =
        Some(image.to_owned());
}

fn revision(deployment: &Deployment) -> String {
    deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()
}

/// Follows the pods and notes the fewest that were ready, and the most that were there, at any moment.
fn watch_bounds(cluster: &Cluster) -> (Arc<AtomicI64>, Arc<AtomicI64>) {
    let (fewest, most) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicI64::new(0)));
    let pods = cluster.client.informer::<Pod>(Filter::everything(), &cluster.scope);
    let mut changes = pods.subscribe();
    let bounds = (fewest.clone(), most.clone());
    cluster.scope.spawn(TaskKind::Test, async move {
        let mut all = std::collections::HashMap::new();
        let mut started = false;
        while let Some(change) = changes.recv().await {
            let key = change.object().unwrap().key().clone();
            match change.new {
                Some(pod) => all.insert(key, pod.is(pods::is_ready)),
                None => all.remove(&key),
            };
            let ready = all.values().filter(|ready| **ready).count() as i64;
            started |= ready >= 4;
            if started {
                fewest.fetch_min(ready, Ordering::Relaxed);
            }
            most.fetch_max(all.len() as i64, Ordering::Relaxed);
        }
    });
    bounds
}

#[tokio::test]
async fn a_deployment_rolls_within_its_bounds_and_back() {
    let cluster = Cluster::with_kubelet().await;
    let (fewest, most) = watch_bounds(&cluster);
    cluster.create(deployment("v1", 4, rolling(1, 1))).await;
    cluster.wait::<Deployment>("v1 runs", |d| is_done(d, 4)).await;
    cluster.change::<Deployment>("default", "web", |d| set_image(d, "v2")).await;
    cluster.wait::<Pod>("v2 runs", |pods| all_run(pods, "v2", 4)).await;
    cluster.wait::<Deployment>("v2 is done", |d| is_done(d, 4) && revision(&d[0]) == "2").await;
    let sets = cluster.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 2);
    let old = sets.iter().find(|set| set.spec.as_ref().unwrap().replicas == Some(0)).unwrap();
    assert_eq!(old.metadata.annotations.as_ref().unwrap()["kubernetes.io/change-cause"], "v1");
    cluster.change::<Deployment>("default", "web", |d| set_image(d, "v1")).await;
    cluster.wait::<Pod>("v1 runs again", |pods| all_run(pods, "v1", 4)).await;
    cluster.wait::<Deployment>("v1 is done again", |d| is_done(d, 4) && revision(&d[0]) == "3").await;
    let sets = cluster.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 2, "the old set is the new one again");
    let new = sets.iter().find(|set| set.spec.as_ref().unwrap().replicas == Some(4)).unwrap();
    let annotations = new.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert!(fewest.load(Ordering::Relaxed) >= 3, "maxUnavailable is 1");
    assert!(most.load(Ordering::Relaxed) <= 5, "maxSurge is 1");
    cluster
        .wait::<Event>("events tell of it", |events| {
            let reason = |e: &Event| e.reason.clone().unwrap_or_default();
            events.iter().any(|e| reason(e) == "ScalingReplicaSet")
                && events.iter().any(|e| reason(e) == "SuccessfulCreate")
                && events.iter().any(|e| reason(e) == "SuccessfulDelete")
        })
        .await;
}

#[tokio::test]
async fn a_broken_version_stops_short_of_the_healthy_pods() {
    let cluster = Cluster::with_kubelet().await;
    let (fewest, _) = watch_bounds(&cluster);
    cluster.create(deployment("v1", 4, rolling(1, 1))).await;
    cluster.wait::<Deployment>("v1 runs", |d| is_done(d, 4)).await;
    cluster.change::<Deployment>("default", "web", |d| set_image(d, "broken")).await;
    let stuck = |pods: &[Pod]| {
        pods.iter().filter(|p| image(p) == "broken").count() == 2
            && pods.iter().filter(|p| image(p) == "v1").count() == 3
    };
    cluster.wait::<Pod>("two broken ones, three old ones", stuck).await;
    cluster.change::<Deployment>("default", "web", |d| set_image(d, "v2")).await;
    cluster.wait::<Pod>("v2 runs", |pods| all_run(pods, "v2", 4)).await;
    assert!(fewest.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn it_scales_and_its_endpoints_follow() {
    let cluster = Cluster::with_kubelet().await;
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create::<Service>(from(service)).await;
    cluster.create(deployment("v1", 2, rolling(1, 0))).await;
    let size = |count: usize| {
        move |slices: &[EndpointSlice]| {
            let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
                e.conditions.as_ref().unwrap().ready == Some(true)
            };
            slices.len() == 1 && slices[0].endpoints.iter().filter(|e| ready(e)).count() == count
        }
    };
    cluster.wait::<EndpointSlice>("two endpoints", size(2)).await;
    cluster.change::<Deployment>("default", "web", |d| d.spec.as_mut().unwrap().replicas = Some(5)).await;
    cluster.wait::<EndpointSlice>("five endpoints", size(5)).await;
    cluster.change::<Deployment>("default", "web", |d| d.spec.as_mut().unwrap().replicas = Some(1)).await;
    cluster.wait::<EndpointSlice>("one endpoint", size(1)).await;
    cluster.wait::<Deployment>("it is done", |d| is_done(d, 1)).await;
    let in_endpoints = |all: &[Endpoints]| {
        let subsets = all.first().and_then(|e| e.subsets.clone()).unwrap_or_default();
        subsets.iter().flat_map(|s| s.addresses.iter().flatten()).count() == 1
    };
    cluster.wait::<Endpoints>("one address", in_endpoints).await;
}

#[tokio::test]
async fn recreate_never_runs_both() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(deployment("v1", 3, json!({"type": "Recreate"}))).await;
    cluster.wait::<Deployment>("v1 runs", |d| is_done(d, 3)).await;
    cluster.change::<Deployment>("default", "web", |d| set_image(d, "v2")).await;
    cluster
        .wait::<Pod>("v2 runs alone", |pods| {
            let mixed = pods.iter().any(|p| image(p) == "v1") && pods.iter().any(|p| image(p) == "v2");
            assert!(!mixed, "old and new side by side");
            all_run(pods, "v2", 3)
        })
        .await;
}

#[tokio::test]
async fn a_paused_one_does_not_roll() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(deployment("v1", 2, rolling(1, 0))).await;
    cluster.wait::<Deployment>("v1 runs", |d| is_done(d, 2)).await;
    cluster
        .change::<Deployment>("default", "web", |d| {
            d.spec.as_mut().unwrap().paused = Some(true);
            set_image(d, "v2");
        })
        .await;
    let is_paused = |d: &[Deployment]| {
        let conditions = d[0].status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        conditions.iter().any(|c| c.reason.as_deref() == Some("DeploymentPaused"))
    };
    cluster.wait::<Deployment>("it says so", is_paused).await;
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 1);
    cluster.change::<Deployment>("default", "web", |d| d.spec.as_mut().unwrap().paused = None).await;
    cluster.wait::<Pod>("v2 runs", |pods| all_run(pods, "v2", 2)).await;
}
