//! Monitoring as people run it: pods, services, endpoints, slices, nodes and servers are found by kubernetes_sd with a
//! service account's token, scraped, and followed as they change.

use balsa_testkit::{Cluster, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::clients::{Clients, PATIENCE};
use crate::prometheus::{Prometheus, ca};

/// A token of a service account, as `kubectl create token` gets it.
pub(crate) fn token(cluster: &Cluster, namespace: &str, account: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = cluster.request(Method::POST, &path, &body).unwrap();
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body["status"]["token"].as_str().unwrap().to_owned()
}

pub(crate) fn tells(cluster: &Cluster, clients: &Clients, image: &str) {
    cluster.apply(&include_str!("discovery.yaml").replace("IMAGE", image));
    let token = token(cluster, "prometheus", "prometheus");
    let ca = ca(&cluster.kubeconfig());
    let configuration = include_str!("discovery.yml").replace("SERVER", &cluster.address());
    let prometheus =
        Prometheus::start_victoria_metrics(clients, &configuration, &[("token", &token), ("ca.crt", &ca)]);

    let pods = prometheus.until("greetings_total{job='pods'}", 2, 7.0);
    let node = cluster.node_name();
    assert!(pods.iter().all(|labels| labels["node"] == *node && labels["owner"] == "ReplicaSet"), "{pods:?}");
    let services = prometheus.until("greetings_total{job='services'}", 1, 7.0);
    assert_eq!(services[0]["service"], "metered");
    let endpoints = prometheus.until("greetings_total{job='endpoints'}", 2, 7.0);
    assert_eq!(names(&endpoints), names(&pods));
    let slices = prometheus.until("greetings_total{job='endpointslices'}", 2, 7.0);
    assert!(slices.iter().all(|labels| labels["ready"] == "true"), "{slices:?}");
    let nodes = prometheus.until("up{job='nodes'}", 1, 1.0);
    assert_eq!(nodes[0]["kubernetes_io_os"], "linux");
    prometheus.until("up{job='kubelets'}", 1, 1.0);
    prometheus.until("up{job='servers'}", 1, 1.0);
    prometheus.until("balsa_raft_is_leader{job='servers'}", 1, 1.0);

    // What comes and goes is followed.
    cluster.balsa(["scale", "deployment/metered", "-n", "prometheus", "--replicas=3"]).ok();
    prometheus.until("up{job='pods'}", 3, 1.0);
    cluster.balsa(["scale", "deployment/metered", "-n", "prometheus", "--replicas=1"]).ok();
    prometheus.until("up{job='endpoints'}", 1, 1.0);
    drop(prometheus);
    cluster.balsa(["delete", "namespace", "prometheus"]).ok();
    wait_until("the namespace is gone", PATIENCE, || {
        let path = "/api/v1/namespaces/prometheus";
        let answer = cluster.request(Method::GET, path, &Value::Null)?;
        if answer.code == 404 { Ok(()) } else { Err(answer.body.to_string()) }
    });
}

fn names(series: &[Value]) -> Vec<&Value> {
    let mut names: Vec<&Value> = series.iter().map(|labels| &labels["pod"]).collect();
    names.sort_by_key(|name| name.as_str());
    names
}
