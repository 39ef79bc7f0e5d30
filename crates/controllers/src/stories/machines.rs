//! Nodes get ranges, fall silent and lose their pods; claims get volumes on them.

use std::sync::Arc;
use std::time::Duration;

use balsa_model::strategy::DeleteOptions;
use balsa_model::{Failure, Kind};
use balsa_rt::{Clock, ManualClock};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Value, json};

use super::cluster::{Cluster, from, namespace};
use crate::ControllerConfig;
use crate::token_secrets::TokenSource;

async fn put_node(cluster: &Cluster, name: &str) {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}});
    cluster.create::<Node>(from(node)).await;
    let mut ready = cluster.find::<Node>("", name).await.unwrap();
    ready.status = Some(from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})));
    cluster.client.api::<Node>().update(&ready, balsa_model::strategy::Part::Status).await.unwrap();
}

fn from_value<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config() -> ControllerConfig {
    ControllerConfig {
        cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
        node_period: Duration::from_millis(20),
        root_ca: "PEM".to_owned(),
        tokens: Some(Arc::new(Signed)),
        local_path_dir: "/data".to_owned(),
        ..ControllerConfig::default()
    }
}

/// Signs with its own hand.
struct Signed;

impl TokenSource for Signed {
    fn token(&self, account: &ServiceAccount, secret: &str) -> Result<String, Failure> {
        Ok(format!("{} in {secret}", account.metadata.name.as_deref().unwrap_or_default()))
    }
}

fn pod(name: &str, node: &str, seconds: i64) -> Pod {
    from(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "nodeName": node, "containers": [{"name": "c", "image": "i"}],
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                         "tolerationSeconds": seconds}]}}))
}

#[tokio::test]
async fn pods_leave_a_node_that_falls_silent() {
    let clock = ManualClock::at("2025-01-01T00:00:00Z".parse().unwrap());
    let cluster = Cluster::start(clock.clock(), config());
    cluster.create(namespace("default")).await;
    cluster.create(namespace("kube-node-lease")).await;
    put_node(&cluster, "alive").await;
    put_node(&cluster, "dead").await;
    cluster
        .wait::<Node>("both have ranges of their own", |nodes| {
            let mut ranges: Vec<_> = nodes.iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.clone()).collect();
            ranges.sort();
            ranges == ["10.244.0.0/24", "10.244.1.0/24"]
                && nodes.iter().all(|n| n.spec.as_ref().unwrap().taints.is_none())
        })
        .await;
    cluster
        .wait::<Event>("each was welcomed once", |events| {
            let mut told: Vec<_> = events.iter().filter_map(|event| event.message.as_deref()).collect();
            told.sort_unstable();
            told == ["alive", "dead"].map(|n| format!("Node {n} event: Registered Node {n} in Controller"))
        })
        .await;
    let lease = json!({"metadata": {"name": "alive", "namespace": "kube-node-lease"}, "spec": {}});
    cluster.create::<Lease>(from(lease)).await;
    cluster.create(pod("patient", "dead", 3600)).await;
    cluster.create(pod("hasty", "dead", 10)).await;
    cluster.create(pod("safe", "alive", 0)).await;
    let unreachable = |nodes: &[Node]| {
        let taints = |name: &str| {
            let node = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(name)).unwrap();
            node.spec.as_ref().unwrap().taints.clone().unwrap_or_default()
        };
        assert!(taints("alive").is_empty(), "it renews its lease");
        taints("dead").iter().filter(|t| t.key == "node.kubernetes.io/unreachable").count() == 2
    };
    let start = clock.now();
    pass_time_until::<Node>(&cluster, &clock, "the dead one is unreachable", unreachable).await;
    assert!(clock.now().duration_since(start).as_secs() >= 39);
    assert_eq!(cluster.list::<Pod>().await.len(), 3, "all of them tolerate it for a while");
    let evicted = |pods: &[Pod]| {
        let deleting = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some());
        deleting.map(|pod| pod.metadata.name.as_deref().unwrap()).eq(["hasty"])
    };
    pass_time_until::<Pod>(&cluster, &clock, "the hasty one is evicted", evicted).await;
    cluster.delete::<Node>("", "dead", DeleteOptions::default()).await;
    let safe_alone = |pods: &[Pod]| pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).eq(["safe"]);
    pass_time_until::<Pod>(&cluster, &clock, "pods of a node that is gone go", safe_alone).await;
}

/// Lets the clock run, second by second, with the live node renewing its lease, until `condition` holds.
async fn pass_time_until<K: Kind>(
    cluster: &Cluster,
    clock: &ManualClock,
    what: &str,
    condition: impl Fn(&[K]) -> bool,
) {
    for _ in 0..2000 {
        if condition(&cluster.list::<K>().await) {
            return;
        }
        clock.advance(Duration::from_secs(1));
        let renewed = MicroTime(clock.now());
        cluster
            .change::<Lease>("kube-node-lease", "alive", |lease| {
                lease.spec.get_or_insert_default().renew_time = Some(renewed.clone());
            })
            .await;
        // The controllers look in their period; forty of these steps fit into a lease.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn every_namespace_has_its_account_and_certificate() {
    let cluster = Cluster::start(Clock::system(), config());
    cluster.create(namespace("team")).await;
    let named = |name: Option<&String>, wanted: &str| name.is_some_and(|name| name == wanted);
    cluster
        .wait::<ServiceAccount>("its account", |all| {
            all.iter().any(|a| named(a.metadata.name.as_ref(), "default"))
        })
        .await;
    let is_there =
        |all: &[ConfigMap]| all.iter().any(|c| c.data.as_ref().is_some_and(|data| data["ca.crt"] == "PEM"));
    cluster.wait::<ConfigMap>("its certificate", is_there).await;
    cluster.delete::<ConfigMap>("team", "kube-root-ca.crt", DeleteOptions::default()).await;
    cluster.wait::<ConfigMap>("it comes back", is_there).await;
}

#[tokio::test]
async fn a_secret_gets_the_token_of_its_account_and_goes_with_it() {
    let cluster = Cluster::start(Clock::system(), config());
    cluster.create(namespace("team")).await;
    let account = |name: &str, secrets: Value| {
        from::<ServiceAccount>(json!({"metadata": {"name": name, "namespace": "team"}, "secrets": secrets}))
    };
    let secret = |name: &str, account: &str| {
        from::<Secret>(json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": name,
            "namespace": "team", "annotations": {"kubernetes.io/service-account.name": account}}}))
    };
    cluster.create(account("robot", json!([]))).await;
    cluster.create(account("other", json!([{"name": "robots"}]))).await;
    cluster.create(secret("robots", "robot")).await;
    cluster
        .wait::<Secret>("it is filled", |all| {
            let data = all.first().and_then(|secret| secret.data.as_ref());
            data.is_some_and(|data| data.contains_key("ca.crt") && data["token"].0 == b"robot in robots")
        })
        .await;
    cluster.create(secret("nobodys", "nobody")).await;
    cluster.wait::<Secret>("whose account is none goes", |all| all.len() == 1).await;
    cluster.delete::<ServiceAccount>("team", "robot", DeleteOptions::default()).await;
    cluster.create(account("robot", json!([]))).await;
    cluster.wait::<Secret>("another of the name is another", <[Secret]>::is_empty).await;
    cluster
        .wait::<ServiceAccount>("it is named no more", |all| {
            all.iter().all(|account| account.secrets.as_ref().is_none_or(Vec::is_empty))
        })
        .await;
}

#[tokio::test]
async fn a_claim_gets_a_volume_where_its_pod_goes() {
    let cluster = Cluster::start(Clock::system(), config());
    cluster.create(namespace("default")).await;
    put_node(&cluster, "a").await;
    let class = json!({"metadata": {"name": "local-path", "annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "balsa.dev/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.create::<StorageClass>(from(class)).await;
    let claim = json!({"metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create::<PersistentVolumeClaim>(from(claim)).await;
    cluster
        .wait::<PersistentVolumeClaim>("it takes the default class", |claims| {
            claims[0].spec.as_ref().unwrap().storage_class_name.as_deref() == Some("local-path")
        })
        .await;
    assert!(cluster.list::<PersistentVolume>().await.is_empty(), "nobody wants it yet");
    cluster
        .change::<PersistentVolumeClaim>("default", "data", |claim| {
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert("volume.kubernetes.io/selected-node".to_owned(), "a".to_owned());
        })
        .await;
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.phase.clone());
    cluster.wait::<PersistentVolumeClaim>("it is bound", |c| phase(&c[0]).as_deref() == Some("Bound")).await;
    let volumes = cluster.list::<PersistentVolume>().await;
    let path = &volumes[0].spec.as_ref().unwrap().local.as_ref().unwrap().path;
    assert!(path.starts_with("/data/pvc-"), "{path}");
    cluster.delete::<PersistentVolumeClaim>("default", "data", DeleteOptions::default()).await;
    cluster
        .wait::<PersistentVolume>("the volume waits for its node to clean up", |volumes| {
            let held = volumes[0].metadata.finalizers.clone().unwrap_or_default();
            volumes[0].metadata.deletion_timestamp.is_some() && held == ["balsa.dev/local-path-cleanup"]
        })
        .await;
    let name = volumes[0].metadata.name.clone().unwrap();
    cluster.change::<PersistentVolume>("", &name, |volume| volume.metadata.finalizers = None).await;
    cluster.wait::<PersistentVolume>("it is gone", <[_]>::is_empty).await;
}
