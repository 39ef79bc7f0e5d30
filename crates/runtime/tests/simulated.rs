//! The simulated runtime: the common behaviour, and what only it can do.
#![allow(clippy::unwrap_used)]

mod suite;

use std::sync::Arc;
use std::time::Duration;

use balsa_rt::ManualClock;
use balsa_runtime::{
    ContainerConfig, ContainerEventKind, ContainerId, ContainerStatus, Error, PullReason, Runtime as _,
    SimulatedRuntime, StreamKind,
};
use futures::{Future, StreamExt as _};
use suite::Fixture;

async fn simulated<F: Future<Output = ()>>(case: impl FnOnce(Fixture) -> F) {
    let runtime = Arc::new(SimulatedRuntime::new());
    case(Fixture { runtime, image: "box:1".to_owned(), run: "balsa-test-simulated".to_owned() }).await;
}

suite::behaviour!(simulated);

fn config(name: &str, image: &str) -> ContainerConfig {
    ContainerConfig { name: name.to_owned(), image: image.to_owned(), ..ContainerConfig::default() }
}

#[tokio::test]
async fn pulls_can_be_made_to_fail() {
    let runtime = SimulatedRuntime::builder()
        .images_must_be_pulled()
        .failing_pull("nope", PullReason::NotFound, "manifest unknown")
        .build();
    assert_eq!(runtime.inspect_image("nginx").await.unwrap(), None);
    let missing = runtime.create_container(&config("a", "nginx")).await.unwrap_err();
    assert_eq!(missing, Error::ImageNotFound { image: "nginx".to_owned() });
    let (progress, mut steps) = tokio::sync::mpsc::channel(8);
    assert_eq!(runtime.pull("nginx", None, Some(progress)).await.unwrap().repo_tags, ["nginx:latest"]);
    assert!(steps.recv().await.is_some());
    runtime.create_container(&config("a", "nginx")).await.unwrap();

    let error = runtime.pull("nope:latest", None, None).await.unwrap_err();
    assert!(matches!(error, Error::ImagePull { reason: PullReason::NotFound, .. }), "{error:?}");
}

#[tokio::test]
async fn containers_can_be_made_to_end() {
    let runtime = SimulatedRuntime::builder()
        .exit_after("job", Duration::from_millis(50), 9)
        .failing_start("broken", "no such command")
        .build();
    let job = runtime.create_container(&config("job", "job")).await.unwrap();
    runtime.start(&job).await.unwrap();
    assert_eq!(runtime.wait(&job).await.unwrap(), 9);

    let broken = runtime.create_container(&config("broken", "broken:latest")).await.unwrap();
    assert!(matches!(runtime.start(&broken).await, Err(Error::Start { .. })));
    let state = runtime.inspect(&broken).await.unwrap();
    assert_eq!((state.status, state.error.as_str()), (ContainerStatus::Created, "no such command"));

    let greedy = runtime.create_container(&config("greedy", "x")).await.unwrap();
    runtime.start(&greedy).await.unwrap();
    runtime.out_of_memory(&greedy).unwrap();
    let state = runtime.inspect(&greedy).await.unwrap();
    assert_eq!((state.exit_code, state.oom_killed), (137, true));
}

#[tokio::test]
async fn a_timed_end_of_an_earlier_life_does_not_count() {
    let delay = Duration::from_millis(200);
    let runtime = SimulatedRuntime::builder().exit_after("job", delay, 0).build();
    let job = runtime.create_container(&config("job", "job")).await.unwrap();
    runtime.start(&job).await.unwrap();
    runtime.finish(&job, 1).unwrap();
    // Half of the first life's time passes before the second life.
    tokio::time::sleep(delay / 2).await;
    runtime.start(&job).await.unwrap();
    assert_eq!(runtime.wait(&job).await.unwrap(), 0);
    let state = runtime.inspect(&job).await.unwrap();
    let lived = state.finished_at.unwrap().duration_since(state.started_at.unwrap());
    assert!(lived.unsigned_abs() >= delay, "{lived}");
}

#[tokio::test]
async fn two_runs_are_alike() {
    let made = async |seed: &str| -> ContainerId {
        SimulatedRuntime::builder().seed(seed).build().create_container(&config("a", "x")).await.unwrap()
    };
    assert_eq!(made("node-1").await, made("node-1").await);
    assert_ne!(made("node-1").await, made("node-2").await);
}

#[tokio::test]
async fn times_are_the_clocks() {
    let clock = ManualClock::at("2026-11-22T17:00:00Z".parse().unwrap());
    let runtime = SimulatedRuntime::builder().clock(clock.clock()).build();
    let id = runtime.create_container(&config("a", "x")).await.unwrap();
    clock.advance(Duration::from_secs(5));
    runtime.start(&id).await.unwrap();
    runtime.write_log(&id, StreamKind::Stdout, "hello").unwrap();
    let state = runtime.inspect(&id).await.unwrap();
    assert_eq!(state.started_at.unwrap().to_string(), "2026-11-22T17:00:05Z");
    clock.advance(Duration::from_secs(10));
    assert_eq!(runtime.stats(&id).await.unwrap().cpu_nanos, 10_000_000);
}

/// A reader that sleeps is cut off: its stream ends, and the machine does not wait for it.
#[tokio::test]
async fn a_slow_reader_of_events_is_cut_off() {
    let runtime = SimulatedRuntime::new();
    let events = runtime.events(&[], None).await.unwrap();
    for number in 0..400 {
        let id = runtime.create_container(&config(&format!("c{number}"), "x")).await.unwrap();
        runtime.start(&id).await.unwrap();
    }
    let told: Vec<_> = events.map(|event| event.unwrap().kind).collect().await;
    assert_eq!(told.len(), 512);
    assert_eq!(told[..2], [ContainerEventKind::Created, ContainerEventKind::Started]);
}
