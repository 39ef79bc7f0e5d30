//! Pods on a real Docker Engine.
//!
//! Needs an engine that this user may use and a statically linked `/bin/busybox`. Everything made here
//! carries labels of its own node and is removed at the end.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use balsa_agent::{KernelNetwork, KernelNetworkConfig};
use balsa_net::pod::bridge_name;
use balsa_net::proxy::table_of;
use balsa_net::{Netns, PodNetwork, ServiceProxy};
use balsa_rt::Clock;
use balsa_runtime::{ContainerId, DockerRuntime, ImageBuilder, Runtime};
use common::{World, condition, first, waiting};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

const IMAGE: &str = "balsa-test/agent-busybox:1";
const PROGRAMS: [&str; 10] =
    ["nslookup", "sh", "sleep", "cat", "echo", "true", "false", "httpd", "wget", "touch"];

async fn world() -> World {
    let mut world = unstarted().await;
    world.start().await;
    world
}

async fn unstarted() -> World {
    let runtime = DockerRuntime::connect(None, Clock::system()).await.expect("these tests need Docker");
    let busybox = std::fs::read("/bin/busybox").expect("these tests need busybox-static");
    let image = ImageBuilder::new(IMAGE).file("/bin/busybox", 0o755, busybox).directory("/tmp", 0o1777);
    let image =
        PROGRAMS.iter().fold(image, |image, program| image.symlink(&format!("/bin/{program}"), "busybox"));
    let image = image.env("PATH", "/bin").build().unwrap();
    runtime.load_image(image).await.unwrap();
    World::new(Arc::new(runtime))
}

fn shell(script: &str) -> Value {
    json!(["sh", "-c", script])
}

async fn run(world: &World, name: &str, command: &[&str]) -> (i32, String) {
    let status = world.find(name).await.unwrap().status.unwrap();
    let id = first(&status).container_id.unwrap();
    let id = ContainerId::new(id.trim_start_matches("docker://"));
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let output = world.runtime.exec_sync(&id, &command, Duration::from_secs(10)).await.unwrap();
    (output.exit_code, String::from_utf8_lossy(&output.output).trim().to_owned())
}

async fn end(world: &World, names: &[&str]) {
    for name in names {
        world.delete(name).await;
    }
    for name in names {
        world.gone(name).await;
    }
    assert_eq!(world.containers().await, 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_environment_and_probes() {
    let world = world().await;
    world.create::<ConfigMap>(json!({"metadata": {"name": "gift"}, "data": {"gift.txt": "goldie"}})).await;
    world
        .pod(
            "phippy",
            json!({
                "volumes": [
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "gift", "configMap": {"name": "gift"}},
                    {"name": "me", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ],
                "containers": [{
                    "name": "c", "image": IMAGE,
                    "command": shell("echo hello from $WHO > /scratch/x; echo said; touch /scratch/ready; exec sleep 1000"),
                    "env": [{"name": "NAME", "value": "moon"}, {"name": "WHO", "value": "the $(NAME)"},
                            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "gift", "mountPath": "/gift"},
                                     {"name": "me", "mountPath": "/me"}],
                    "readinessProbe": {"exec": {"command": ["cat", "/scratch/ready"]}, "periodSeconds": 1},
                    "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                }],
            }),
        )
        .await;
    let status = world.ready("phippy").await;
    assert_eq!(run(&world, "phippy", &["cat", "/scratch/x"]).await, (0, "hello from the moon".to_owned()));
    assert_eq!(run(&world, "phippy", &["cat", "/gift/gift.txt"]).await.1, "goldie");
    assert_eq!(run(&world, "phippy", &["cat", "/me/name"]).await.1, "phippy");
    let address = status.pod_ip.unwrap();
    assert_eq!(run(&world, "phippy", &["sh", "-c", "echo $IP"]).await.1, address);
    assert!(run(&world, "phippy", &["cat", "/etc/hosts"]).await.1.contains(&format!("{address}\tphippy")));
    assert!(
        run(&world, "phippy", &["cat", "/etc/resolv.conf"]).await.1.contains("default.svc.cluster.local")
    );

    let key = balsa_model::Key::new("default", "gift");
    let change = |map: &mut ConfigMap| {
        map.data = Some([("gift.txt".to_owned(), "captain".to_owned())].into());
        true
    };
    world.client.api::<ConfigMap>().modify(&key, balsa_model::strategy::Part::Main, change).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(&world, "phippy", &["cat", "/gift/gift.txt"]).await.1 != "captain" {
        assert!(Instant::now() < deadline, "a changed ConfigMap reaches the container");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let uid = world.find("phippy").await.unwrap().metadata.uid.unwrap();
    end(&world, &["phippy"]).await;
    let log = world.directory.path().join(format!("logs/default_phippy_{uid}/c/0.log"));
    assert!(
        std::fs::read_to_string(log).unwrap().contains(" stdout F said"),
        "the log outlives the container"
    );
}

/// What is mounted below the node's directory, and as what.
fn mounted(world: &World) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let below = world.directory.path().display().to_string();
    let lines = table.lines().filter(|line| line.contains(&below));
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_lie_in_memory_and_stay_when_the_agent_starts_again() {
    let mut world = world().await;
    world.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"word": "moon"}})).await;
    world.create::<ConfigMap>(json!({"metadata": {"name": "gift"}, "data": {"gift.txt": "goldie"}})).await;
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    world
        .pod(
            "p",
            json!({
                "securityContext": {"fsGroup": 77},
                "volumes": [
                    {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
                    {"name": "all", "projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "gift"}}]}},
                    {"name": "me", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    {"name": "gift", "configMap": {"name": "gift"}},
                ],
                "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"],
                    "volumeMounts": (["secret", "all", "me", "gift"].map(mount))}],
            }),
        )
        .await;
    world.ready("p").await;
    let shell = async |script: &str| run(&world, "p", &["sh", "-c", script]).await;
    let kinds = "busybox grep -E ' /(secret|all|me|gift) ' /proc/mounts | busybox awk '{print $2, $3, substr($4,1,2)}' | busybox sort";
    let kinds = shell(kinds).await.1;
    let lines: Vec<&str> = kinds.lines().collect();
    assert!(lines[1].starts_with("/gift ") && !lines[1].contains("tmpfs"), "{kinds}");
    for (line, of) in [(0, "/all tmpfs ro"), (2, "/me tmpfs ro"), (3, "/secret tmpfs ro")] {
        assert_eq!(lines[line], of, "{kinds}");
    }
    let shown = "cat /secret/word /all/word /all/gift.txt; busybox stat -L -c ' %a %g' /secret/word; busybox stat -c '%a %g' /secret";
    assert_eq!(shell(shown).await.1, "moonmoongoldie 440 77\n3777 77");
    assert_eq!(mounted(&world), ["tmpfs"; 3]);

    world.stop().await;
    world.start().await;
    let key = balsa_model::Key::new("default", "s");
    let change = |secret: &mut Secret| {
        secret.data = Some([("word".to_owned(), k8s_openapi::ByteString(b"sun".to_vec()))].into());
        true
    };
    world.client.api::<Secret>().modify(&key, balsa_model::strategy::Part::Main, change).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(&world, "p", &["cat", "/secret/word", "/all/word"]).await.1 != "sunsun" {
        assert!(Instant::now() < deadline, "a changed Secret reaches the container");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(mounted(&world), ["tmpfs"; 3], "nothing is mounted twice");
    end(&world, &["p"]).await;
    assert_eq!(mounted(&world), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_writes_counts_against_its_limit() {
    let world = world().await;
    let script = shell("busybox dd if=/dev/zero of=/tmp/big bs=1M count=3; exec sleep 1000");
    let limit = |text: &str| {
        json!({"containers": [{"name": "c", "image": IMAGE, "command": script,
            "resources": {"limits": {"ephemeral-storage": text}}}]})
    };
    world.pod("modest", limit("8Mi")).await;
    world.pod("greedy", limit("2Mi")).await;
    let status = world.until("greedy", "put out", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    world.ready("modest").await;
    end(&world, &["modest", "greedy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_probes_and_words_of_the_dying() {
    let world = world().await;
    let last_words = shell("echo it was me > /dev/termination-log; exit 7");
    world.pod("crash", json!({"containers": [{"name": "c", "image": IMAGE, "command": last_words}]})).await;
    world
        .pod(
            "sick",
            json!({"containers": [{
                "name": "c", "image": IMAGE, "command": ["sleep", "1000"],
                "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1},
            }]}),
        )
        .await;
    world
        .pod(
            "nowhere",
            json!({"containers": [{"name": "c", "image": IMAGE, "command": ["/no/such/program"]}]}),
        )
        .await;
    let looping = |status: &_| waiting(status) == "CrashLoopBackOff" && first(status).restart_count >= 2;
    let status = world.until("crash", "in a crash loop", looping).await;
    let last = first(&status).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.message.as_deref()), (7, Some("it was me\n")));
    world.until("sick", "restarted by its liveness probe", |status| first(status).restart_count >= 1).await;
    let status =
        world.until("nowhere", "in a crash loop", |status| waiting(status) == "CrashLoopBackOff").await;
    let last = first(&status).last_state.unwrap().terminated.unwrap();
    assert_eq!(last.reason.as_deref(), Some("StartError"), "{last:?}");
    assert!(world.reasons().await.iter().any(|reason| reason == "Unhealthy"));
    end(&world, &["crash", "sick", "nowhere"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_in_good_order() {
    let world = world().await;
    let polite = shell("trap 'echo goodbye; exit 0' TERM; while true; do sleep 0.1; done");
    let hook = json!({"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /shared/hook"]}}});
    world
        .pod(
            "polite",
            json!({
                "terminationGracePeriodSeconds": 20,
                "volumes": [{"name": "shared", "hostPath": {"path": world.directory.path().join("shared")}}],
                "containers": [{"name": "c", "image": IMAGE, "command": polite, "lifecycle": hook,
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
            }),
        )
        .await;
    world
        .pod(
            "deaf",
            json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": IMAGE, "command": shell("trap '' TERM; while true; do sleep 0.1; done")}]}),
        )
        .await;
    world.ready("polite").await;
    world.ready("deaf").await;
    let began = Instant::now();
    end(&world, &["polite", "deaf"]).await;
    assert!(began.elapsed() < Duration::from_secs(15), "neither waits for its whole patience");
    assert_eq!(std::fs::read_to_string(world.directory.path().join("shared/hook")).unwrap(), "bye\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_restarts_nothing() {
    let mut world = world().await;
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let spec = json!({"containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"], "readinessProbe": probe}]});
    world.pod("web", spec.clone()).await;
    world.pod("fragile", spec).await;
    let before = first(&world.ready("web").await);
    let fragile = first(&world.ready("fragile").await).container_id.unwrap();
    world.stop().await;
    let id = ContainerId::new(fragile.trim_start_matches("docker://"));
    world.runtime.kill(&id, "SIGKILL").await.unwrap();
    world.runtime.wait(&id).await.unwrap();
    world.start().await;
    let status = world
        .until("fragile", "restarted", |status| first(status).restart_count == 1 && first(status).ready)
        .await;
    assert_eq!(condition(&status, "Ready"), "True");
    let after = first(&world.ready("web").await);
    assert_eq!((after.container_id, after.restart_count), (before.container_id, 0));
    end(&world, &["web", "fragile"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_by_address_service_and_name() {
    let mut world = unstarted().await;
    let (cluster, node) = (world.config.cluster.clone(), world.config.node_name.clone());
    let network = KernelNetworkConfig::new(&cluster, &node, "10.231.0.0/16".parse().unwrap());
    world.network = Arc::new(KernelNetwork::new(network));
    world.config.cluster_cidr = "10.231.0.0/16".parse().unwrap();
    world.config.pod_cidr = Some("10.231.9.0/24".parse().unwrap());
    // The node's resolver itself: no service leads to it here.
    world.config.cluster_dns = Some("10.231.9.1".parse().unwrap());
    world.start().await;
    world
        .pod(
            "web",
            json!({"containers": [{
                "name": "c", "image": IMAGE,
                "command": shell("echo here I am > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"),
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/index.html", "port": "http"}, "periodSeconds": 1},
                "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }]}),
        )
        .await;
    world
        .pod("visitor", json!({"containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"]}]}))
        .await;
    let address = world.ready("web").await.pod_ip.unwrap();
    world.ready("visitor").await;
    world
        .create::<Service>(json!({"metadata": {"name": "web"}, "spec": {
            "clusterIP": "10.97.9.9", "clusterIPs": ["10.97.9.9"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}}))
        .await;
    world
        .create::<EndpointSlice>(json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": world.config.node_name}]}))
        .await;
    let direct = format!("http://{address}:8080/index.html");
    assert_eq!(run(&world, "visitor", &["wget", "-qO-", &direct]).await.1, "here I am");
    let service = ["wget", "-qO-", "http://10.97.9.9/index.html"];
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(&world, "visitor", &service).await.1 != "here I am" {
        assert!(Instant::now() < deadline, "the service leads to the pod");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, found) = run(&world, "visitor", &["nslookup", "web.default.svc.cluster.local"]).await;
    assert!(found.contains("10.97.9.9"), "{found}");
    end(&world, &["web", "visitor"]).await;
    world.stop().await;
    PodNetwork::remove(&Netns::Current, &bridge_name(&cluster, &node)).await.unwrap();
    ServiceProxy::remove_table(&Netns::Current, &table_of(&cluster)).await.unwrap();
}
