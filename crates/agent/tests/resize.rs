//! Containers that are to have other sizes, on simulated containers: they get them when the node has room, and
//! are started anew for them where they are to be.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use balsa_model::Key;
use balsa_model::kind::Subresource;
use balsa_model::kinds::pod::{DEFERRED, IN_PROGRESS, INFEASIBLE, PENDING};
use balsa_model::strategy::Part;
use balsa_runtime::SimulatedRuntime;
use common::{World, condition, first};
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use serde_json::{Value, json};

async fn world() -> World {
    let mut world = World::new(Arc::new(SimulatedRuntime::new()));
    world.config.capacity.insert("cpu".to_owned(), "2".to_owned());
    world.start().await;
    world
}

fn wants(cpu: &str, more: &Value) -> Value {
    let mut container =
        json!({"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu, "memory": "8Mi"}}});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"containers": [container]})
}

/// Asks for other sizes of the first container.
async fn resize(world: &World, name: &str, requests: &Value) {
    let requests: ResourceRequirements = serde_json::from_value(json!({"requests": requests})).unwrap();
    let change = |pod: &mut Pod| {
        pod.spec.as_mut().unwrap().containers[0].resources = Some(requests.clone());
        true
    };
    let part = Part::Sub(Subresource::Resize);
    world.client.api::<Pod>().modify(&Key::new("default", name), part, change).await.unwrap();
}

/// What the first container has of the node's processors.
fn has(status: &PodStatus) -> Option<String> {
    first(status).allocated_resources?.get("cpu").map(|amount| amount.0.clone())
}

/// Why the pod has not the size that it wants: reason and message.
fn pending(status: &PodStatus) -> Option<(String, String)> {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == PENDING)?;
    Some((condition.reason.clone()?, condition.message.clone()?))
}

#[tokio::test]
async fn sizes_wait_until_there_is_room_and_those_that_never_fit_are_told() {
    let mut world = world().await;
    world.pod("grows", wants("500m", &json!({}))).await;
    world.pod("other", wants("1", &json!({}))).await;
    let id = first(&world.ready("grows").await).container_id;
    world.ready("other").await;

    resize(&world, "grows", &json!({"cpu": "3", "memory": "8Mi"})).await;
    let status = world.until("grows", "infeasible", |status| pending(status).is_some()).await;
    let why = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
    assert_eq!(pending(&status), Some((INFEASIBLE.to_owned(), why.to_owned())));
    assert_eq!(has(&status).as_deref(), Some("500m"));

    resize(&world, "grows", &json!({"cpu": "1500m", "memory": "8Mi"})).await;
    let deferred = |status: &PodStatus| pending(status).is_some_and(|(reason, _)| reason == DEFERRED);
    let status = world.until("grows", "deferred", deferred).await;
    let why = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
    assert_eq!(pending(&status), Some((DEFERRED.to_owned(), why.to_owned())));

    // Another agent knows no more than what the status says.
    world.stop().await;
    world.start().await;
    world.pod("late", wants("500m", &json!({}))).await;
    world.ready("late").await;
    let status = world.until("grows", "deferred still", deferred).await;
    assert_eq!(has(&status).as_deref(), Some("500m"));

    for name in ["other", "late"] {
        world.delete(name).await;
        world.gone(name).await;
    }
    let grown = |status: &PodStatus| has(status).as_deref() == Some("1500m");
    let status = world.until("grows", "resized", grown).await;
    assert_eq!((pending(&status), condition(&status, "Ready").as_str()), (None, "True"));
    assert_eq!((first(&status).container_id, first(&status).restart_count), (id, 0), "in place");
}

#[tokio::test]
async fn a_container_starts_anew_for_what_its_policy_says() {
    let world = world().await;
    let policy = json!({"resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]});
    let mut spec = wants("100m", &policy);
    // Whatever it ends with, and though a pod of this policy is not started again for that.
    spec["restartPolicy"] = "OnFailure".into();
    world.pod("web", spec).await;
    let id = first(&world.ready("web").await).container_id;
    resize(&world, "web", &json!({"cpu": "200m", "memory": "8Mi"})).await;
    let status = world.until("web", "resized", |status| has(status).as_deref() == Some("200m")).await;
    assert_eq!((first(&status).restart_count, &first(&status).container_id), (0, &id));

    resize(&world, "web", &json!({"cpu": "200m", "memory": "16Mi"})).await;
    let anew = |status: &PodStatus| first(status).restart_count == 1 && first(status).ready;
    let status = world.until("web", "started anew", anew).await;
    assert_ne!(first(&status).container_id, id);
    assert_eq!(condition(&status, IN_PROGRESS), "");
    let memory = first(&status).resources.and_then(|resources| resources.requests).unwrap();
    assert_eq!(memory["memory"].0, "16Mi");
    let events = world.events().await;
    assert!(events.iter().any(|(_, why)| why == "Container c resize requires restart"), "{events:?}");
}
