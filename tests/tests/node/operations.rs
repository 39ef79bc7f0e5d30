//! Whether the parts are well, and their numbers, under the names that dashboards know.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use balsa_testkit::get;
use http::Method;
use serde_json::Value;

use crate::{Node, text};

/// Of the server.
const SERVER: &[&str] = &[
    "apiserver_request_duration_seconds_bucket{",
    "apiserver_request_total{",
    "balsa_state_watchers{",
    "apiserver_storage_objects{",
    "apiserver_longrunning_requests{",
    "balsa_raft_term",
    "balsa_raft_is_leader 1",
    "balsa_log_apply_lag",
    "balsa_log_fsync_seconds_count",
    "workqueue_adds_total{",
    "workqueue_depth{",
    "workqueue_queue_duration_seconds_count{",
    "workqueue_work_duration_seconds_count{",
    "scheduler_schedule_attempts_total{",
];
/// Of a node.
const AGENT: &[&str] = &[
    "kubelet_running_pods",
    "kubelet_running_containers{container_state=\"running\"}",
    "kubelet_pod_start_duration_seconds_count",
    "kubelet_runtime_operations_total{operation_type=\"start_container\"}",
    "kubelet_runtime_operations_duration_seconds_count{",
    "prober_probe_total{",
    "kubeproxy_sync_proxy_rules_duration_seconds_count",
    "coredns_dns_requests_total{",
];

pub(crate) fn acts(node: &Node) {
    the_server_says_how_it_is(node);
    each_node_says_how_it_is(node);
    private_keys_are_private(&node.cluster.data_dir());
}

/// Wherever the server, its nodes and the kubeconfig keep one.
fn private_keys_are_private(data_dir: &Path) {
    let (mut folders, mut keys) = (vec![data_dir.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() && holds_key(&std::fs::read(&path).unwrap_or_default()) {
                assert_eq!(metadata.mode() & 0o777, 0o600, "{}", path.display());
                keys += 1;
            }
        }
    }
    assert!(keys >= 3, "the authority's, the administrator's and the node's at least: {keys}");
}

/// A key in PEM, or in base64 as kubeconfigs have it.
fn holds_key(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    text.contains("PRIVATE KEY-----") || text.contains("client-key-data")
}

fn the_server_says_how_it_is(node: &Node) {
    for path in ["/livez", "/readyz", "/healthz", "/readyz?verbose"] {
        let said = text_at(node, path);
        assert!(said.starts_with("ok") || said.contains("[+]leader ok"), "{path}: {said}");
    }
    has(&text_at(node, "/metrics"), SERVER);
    let counted = text_at(node, "/metrics");
    let request = counted.lines().find(|line| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"pods\"")
            && line.contains("verb=\"")
    });
    assert!(request.is_some(), "requests are counted by verb and resource");
}

fn each_node_says_how_it_is(node: &Node) {
    for name in node.cluster.node_names() {
        let agent = node.cluster.agent(&name).unwrap();
        for path in ["/livez", "/readyz", "/healthz"] {
            assert_eq!(get(agent, path).unwrap(), "ok", "{path}");
        }
        has(&get(agent, "/metrics").unwrap(), AGENT);
    }
}

/// A document that is no JSON.
fn text_at(node: &Node, path: &str) -> String {
    let (code, body) = node.request(Method::GET, path, &Value::Null);
    assert_eq!(code, 200, "{path}: {body}");
    text(&body).to_owned()
}

#[track_caller]
fn has(metrics: &str, expected: &[&str]) {
    let missing: Vec<_> =
        expected.iter().filter(|start| !metrics.lines().any(|line| line.starts_with(**start))).collect();
    let names: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert!(missing.is_empty(), "there is no {missing:?} in {names:#?}");
}
