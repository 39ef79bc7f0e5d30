//! Pods from their arrival to their end, on simulated containers.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use balsa_model::Key;
use balsa_model::strategy::DeleteOptions;
use balsa_runtime::{PullReason, SimulatedRuntime};
use common::{World, condition, first, waiting};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::json;

async fn world(runtime: SimulatedRuntime) -> World {
    let mut world = World::new(Arc::new(runtime));
    world.start().await;
    world
}

#[tokio::test]
async fn a_pod_runs_and_is_taken_away() {
    let world = world(SimulatedRuntime::new()).await;
    world.pod("web", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    let status = world.ready("web").await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.unwrap().starts_with("10.231.7."));
    assert_eq!(world.containers().await, 2, "a sandbox and a container");
    world.delete("web").await;
    world.gone("web").await;
    assert_eq!(world.containers().await, 0);
    let left = std::fs::read_dir(world.directory.path().join("pods")).unwrap().count();
    assert_eq!(left, 0, "the pod's files are gone");
    let reasons = world.reasons().await;
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason} of {reasons:?}");
    }
}

#[tokio::test]
async fn a_crash_loop_shows() {
    let world =
        world(SimulatedRuntime::builder().exit_after("bad:1", Duration::from_millis(5), 3).build()).await;
    world.pod("bad", json!({"containers": [{"name": "c", "image": "bad:1"}]})).await;
    let looping = |status: &_| waiting(status) == "CrashLoopBackOff" && first(status).restart_count >= 2;
    let status = world.until("bad", "in a crash loop", looping).await;
    let last = first(&status).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(world.containers().await <= 4, "old attempts are removed");
}

#[tokio::test]
async fn init_containers_come_first_and_work_ends() {
    let runtime = SimulatedRuntime::builder().exit_after("init:1", Duration::from_millis(50), 0).exit_after(
        "job:1",
        Duration::from_millis(50),
        0,
    );
    let world = world(runtime.build()).await;
    world
        .pod(
            "job",
            json!({
                "restartPolicy": "Never",
                "initContainers": [{"name": "i", "image": "init:1"}, {"name": "side", "image": "side:1", "restartPolicy": "Always"}],
                "containers": [{"name": "c", "image": "job:1"}],
            }),
        )
        .await;
    let status = world.until("job", "succeeded", |status| status.phase.as_deref() == Some("Succeeded")).await;
    assert_eq!(condition(&status, "Ready"), "False");
    let reason = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.clone().unwrap().terminated.and_then(|terminated| terminated.reason)
    };
    assert_eq!(reason(&first(&status)).as_deref(), Some("Completed"));
    assert_eq!(reason(&status.init_container_statuses.unwrap()[0]).as_deref(), Some("Completed"));
}

#[tokio::test]
async fn an_image_that_is_not_there_is_asked_for_again_later() {
    let runtime = SimulatedRuntime::builder().images_must_be_pulled().failing_pull(
        "none:1",
        PullReason::NotFound,
        "no such image",
    );
    let world = world(runtime.build()).await;
    world.pod("p", json!({"containers": [{"name": "c", "image": "none:1"}]})).await;
    world.until("p", "ErrImagePull or later", |status| waiting(status).contains("ImagePull")).await;
    world.until("p", "ImagePullBackOff", |status| waiting(status) == "ImagePullBackOff").await;
    world.delete("p").await;
    world.gone("p").await;
}

#[tokio::test]
async fn a_slow_pull_tells_how_far_it_is() {
    let runtime = SimulatedRuntime::builder().images_must_be_pulled().pull_delay(Duration::from_millis(700));
    let mut world = World::new(Arc::new(runtime.build()));
    world.config.timing.pull_progress = Duration::from_millis(100);
    world.start().await;
    world.pod("p", json!({"containers": [{"name": "c", "image": "big:1"}]})).await;
    world.ready("p").await;
    let events = world.events().await;
    let told = |text: &str| events.iter().any(|(reason, message)| reason == "Pulling" && message == text);
    assert!(told("Pulling image \"big:1\""), "{events:?}");
    assert!(told("Pulling image \"big:1\": 0 of 1 layers, 0.5 of 1.0 MiB"), "{events:?}");
}

#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    let world = world(SimulatedRuntime::new()).await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}}]);
    world.pod("p", json!({"containers": [{"name": "c", "image": "i:1", "env": env}]})).await;
    world
        .until("p", "CreateContainerConfigError", |status| waiting(status) == "CreateContainerConfigError")
        .await;
    world.create::<ConfigMap>(json!({"metadata": {"name": "cm"}, "data": {"a": "1"}})).await;
    world.ready("p").await;
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs() {
    let mut world = world(SimulatedRuntime::new()).await;
    world.pod("web", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    let before = first(&world.ready("web").await);
    world.stop().await;
    assert_eq!(world.containers().await, 2, "containers go on");
    world.start().await;
    world.pod("second", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    world.ready("second").await;
    let after = first(&world.ready("web").await);
    assert_eq!((after.container_id, after.restart_count), (before.container_id, 0));
}

#[tokio::test]
async fn what_nobody_wants_is_taken_away_after_a_restart() {
    let mut world = world(SimulatedRuntime::new()).await;
    world.pod("web", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    world.ready("web").await;
    world.stop().await;
    let now = balsa_model::strategy::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
    let key = balsa_model::Key::new("default", "web");
    world.client.api::<k8s_openapi::api::core::v1::Pod>().delete(&key, "", now).await.unwrap();
    world.gone("web").await;
    world.start().await;
    let cleaned = async {
        while world.containers().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cleaned).await.unwrap();
}

#[tokio::test]
async fn the_node_reports_itself() {
    let world = world(SimulatedRuntime::new()).await;
    let key = balsa_model::Key::new("", world.config.node_name.as_str());
    let ready = async {
        loop {
            let node = world.client.api::<Node>().find(&key).await.unwrap();
            let status = node.and_then(|node| node.status).unwrap_or_default();
            if status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
    assert!(status.node_info.unwrap().container_runtime_version.starts_with("simulated://"));
    let lease = world.client.api::<k8s_openapi::api::coordination::v1::Lease>();
    let lease_key = balsa_model::Key::new("kube-node-lease", &*key.name);
    let renewed = async {
        loop {
            if let Some(lease) = lease.find(&lease_key).await.unwrap() {
                return lease;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let lease = tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(&*key.name));
}

#[tokio::test]
async fn a_volume_that_outgrows_its_limit_ends_its_pod() {
    let world = world(SimulatedRuntime::new()).await;
    world
        .pod(
            "greedy",
            json!({
                "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}],
                "containers": [{"name": "c", "image": "web:1", "volumeMounts": [{"name": "scratch", "mountPath": "/s"}]}],
            }),
        )
        .await;
    world.ready("greedy").await;
    let uid = world.find("greedy").await.unwrap().metadata.uid.unwrap();
    let volume = world.config.pod_dir(&uid).join("volumes/kubernetes.io~empty-dir/scratch");
    std::fs::write(volume.join("small"), vec![1; 1 << 18]).unwrap();
    tokio::time::sleep(world.config.timing.usage * 3).await;
    world.ready("greedy").await;
    std::fs::write(volume.join("large"), vec![1; 1 << 20]).unwrap();
    let status = world.until("greedy", "put out", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let why = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ";
    assert_eq!(status.message.as_deref(), Some(why));
    assert!(world.reasons().await.iter().any(|reason| reason == "Evicted"));
    world.delete("greedy").await;
    world.gone("greedy").await;
}

#[tokio::test]
async fn a_container_that_outgrows_its_limit_ends_its_pod() {
    let runtime = SimulatedRuntime::builder().writing("greedy:1", 2 << 20).build();
    let world = world(runtime).await;
    let limited = |image: &str, limit: &str| {
        json!({"name": image.split(':').next(), "image": image,
        "resources": {"limits": {"ephemeral-storage": limit}}})
    };
    world.pod("modest", json!({"containers": [limited("greedy:1", "8Mi")]})).await;
    world.pod("alone", json!({"containers": [limited("greedy:1", "1Mi")]})).await;
    world.pod("two", json!({"containers": [limited("greedy:1", "1Mi"), limited("web:1", "8Mi")]})).await;
    for (pod, why) in [
        ("alone", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
        ("two", "Container greedy exceeded its local ephemeral storage limit \"1Mi\". "),
    ] {
        let status = world.until(pod, "put out", |status| status.phase.as_deref() == Some("Failed")).await;
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(why)));
        assert!(world.events().await.contains(&("Evicted".to_owned(), why.to_owned())));
    }
    world.ready("modest").await;
}

#[tokio::test]
async fn a_name_that_is_none_is_told_until_another_comes() {
    let world = world(SimulatedRuntime::new()).await;
    world.pod("p", json!({"containers": [{"name": "c", "image": "busyBOX:1"}]})).await;
    world.until("p", "InvalidImageName", |status| waiting(status) == "InvalidImageName").await;
    let why = "Failed to apply default image tag \"busyBOX:1\": couldn't parse image name \"busyBOX:1\": \
        invalid reference format: repository name (library/busyBOX) must be lowercase";
    // Long enough for another try.
    tokio::time::sleep(world.config.timing.restart_first * 2).await;
    let status = world.until("p", "still so", |status| waiting(status) == "InvalidImageName").await;
    assert_eq!(first(&status).state.unwrap().waiting.unwrap().message.as_deref(), Some(why));
    let events = world.events().await;
    for event in [("InspectFailed", why), ("Failed", "Error: InvalidImageName")] {
        assert!(events.contains(&(event.0.to_owned(), event.1.to_owned())), "{events:?}");
    }
    assert!(!events.iter().any(|(reason, _)| reason == "BackOff"), "nothing was pulled: {events:?}");
    let rename = |pod: &mut Pod| {
        pod.spec.as_mut().unwrap().containers[0].image = Some("busybox:1".to_owned());
        true
    };
    let key = Key::new("default", "p");
    world.client.api::<Pod>().modify(&key, balsa_model::strategy::Part::Main, rename).await.unwrap();
    world.ready("p").await;
}

#[tokio::test]
async fn a_pod_that_takes_too_long_is_ended_and_keeps_no_volumes() {
    let world = world(SimulatedRuntime::new()).await;
    world
        .pod(
            "slow",
            json!({
                "activeDeadlineSeconds": 1, "volumes": [{"name": "scratch", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "web:1", "volumeMounts": [{"name": "scratch", "mountPath": "/s"}]}],
            }),
        )
        .await;
    let status = world.until("slow", "ended", |status| status.phase.as_deref() == Some("Failed")).await;
    let why = "Pod was active on the node longer than the specified deadline";
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("DeadlineExceeded"), Some(why)));
    let told = ("DeadlineExceeded".to_owned(), why.to_owned());
    assert_eq!(world.events().await.iter().filter(|event| **event == told).count(), 1);
    let uid = world.find("slow").await.unwrap().metadata.uid.unwrap();
    let volumes = world.config.pod_dir(&uid).join("volumes");
    while volumes.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.delete("slow").await;
    world.gone("slow").await;
}

#[tokio::test]
async fn what_the_engine_cannot_make_read_only_is_refused_where_it_must_be() {
    let world = world(SimulatedRuntime::new()).await;
    let spec = |mode: &str| {
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode});
        json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "web:1", "volumeMounts": [mount]}]})
    };
    world.pod("must", spec("Enabled")).await;
    world.pod("may", spec("IfPossible")).await;
    let refused = |status: &_| waiting(status) == "CreateContainerConfigError";
    let status = world.until("must", "refused", refused).await;
    let message = first(&status).state.unwrap().waiting.unwrap().message.unwrap();
    let why = "volume \"v\" requested recursive read-only mode, but it is not supported by the runtime";
    assert!(message.ends_with(why), "{message}");
    let mounts = first(&world.ready("may").await).volume_mounts.unwrap();
    assert_eq!(mounts[0].recursive_read_only.as_deref(), Some("Disabled"));
}

#[tokio::test]
async fn an_ephemeral_container_joins_a_pod_that_runs_and_does_not_come_again() {
    let runtime = SimulatedRuntime::builder().exit_after("debug:1", Duration::from_millis(200), 0).build();
    let world = world(runtime).await;
    world.pod("web", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    world.ready("web").await;
    let key = balsa_model::Key::new("default", "web");
    let join = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        let container = json!([{"name": "look", "image": "debug:1", "targetContainerName": "c"}]);
        pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(container).unwrap();
        true
    };
    let api = world.client.api::<k8s_openapi::api::core::v1::Pod>();
    api.modify(&key, balsa_model::strategy::Part::Whole, join).await.unwrap();
    let state = |status: &k8s_openapi::api::core::v1::PodStatus| {
        let found = status.ephemeral_container_statuses.iter().flatten().find(|c| c.name == "look");
        found.cloned().unwrap_or_default()
    };
    let ended = |status: &_| state(status).state.and_then(|state| state.terminated).is_some();
    let status = world.until("web", "looked into", ended).await;
    assert_eq!((condition(&status, "Ready").as_str(), status.phase.as_deref()), ("True", Some("Running")));
    let id = state(&status).container_id;
    tokio::time::sleep(world.config.timing.resync * 2).await;
    let status = world.ready("web").await;
    assert_eq!((state(&status).container_id, state(&status).restart_count), (id, 0), "once is enough");
    world.delete("web").await;
    world.gone("web").await;
    assert_eq!(world.containers().await, 0);
}

#[tokio::test]
async fn a_pause_image_that_somebody_removed_is_brought_again() {
    let world = world(SimulatedRuntime::builder().images_must_be_pulled().build()).await;
    world.runtime.remove_image(balsa_runtime::PAUSE_IMAGE).await.unwrap();
    assert!(world.runtime.inspect_image(balsa_runtime::PAUSE_IMAGE).await.unwrap().is_none());
    world.pod("web", json!({"containers": [{"name": "c", "image": "web:1"}]})).await;
    world.ready("web").await;
    let reasons = world.reasons().await;
    assert!(!reasons.iter().any(|reason| reason == "FailedCreatePodSandBox"), "{reasons:?}");
}

#[tokio::test]
async fn a_pod_that_is_deleted_by_force_blocks_no_successor() {
    let world = world(SimulatedRuntime::new()).await;
    // Its containers are a long time ending.
    let slow = json!({"preStop": {"sleep": {"seconds": 600}}});
    let spec = |lifecycle: &serde_json::Value| {
        json!({"terminationGracePeriodSeconds": 600, "containers": [{"name": "c", "image": "web:1",
            "lifecycle": lifecycle, "ports": [{"containerPort": 80, "hostPort": 80}]}]})
    };
    world.pod("first", spec(&slow)).await;
    world.ready("first").await;
    world.pod("second", spec(&json!(null))).await;
    let refused = world.until("second", "refused", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(refused.reason.as_deref(), Some("NodePorts"));
    let at_once = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    world.client.api::<Pod>().delete(&Key::new("default", "first"), "", at_once).await.unwrap();
    world.pod("third", spec(&json!(null))).await;
    world.ready("third").await;
    assert_eq!(world.containers().await, 4, "the first one is still on its way out");
}
