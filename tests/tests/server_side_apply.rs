//! Server-side apply as a user of kubectl sees it: managers, conflicts, taking over by force and from
//! client-side apply, diffs, and the parts of an object that have owners of their own.
#![allow(clippy::unwrap_used)]

use balsa_testkit::{Cluster, Options, has_kubectl};
use serde_json::Value;

fn config_map(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, namespace: default}}\ndata: {{{data}}}\n")
}

fn deployment(replicas: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: default}}\nspec:\n  {replicas}\n  \
         selector: {{matchLabels: {{app: d}}}}\n  template:\n    metadata: {{labels: {{app: d}}}}\n    \
         spec: {{containers: [{{name: main, image: registry.test/app}}]}}\n"
    )
}

/// Who owns something of an object, and how: `manager operation subresource`.
fn owners(cluster: &Cluster, object: &str) -> Vec<String> {
    let text = cluster.kubectl(["get", object, "-o", "json", "--show-managed-fields"]).ok();
    let object: Value = serde_json::from_str(&text).unwrap();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let word = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let told = |entry: &Value| {
        ["manager", "operation", "subresource"]
            .map(|field| word(entry, field))
            .join(" ")
            .trim_end()
            .to_owned()
    };
    // The annotation that kubectl keeps for those who still apply from the client is nobody's concern here.
    entries.iter().map(told).filter(|owner| owner != "kubectl-last-applied Apply").collect()
}

fn version(cluster: &Cluster, object: &str) -> String {
    cluster.kubectl(["get", object, "-o", "jsonpath={.metadata.resourceVersion}"]).ok()
}

#[test]
fn kubectl_applies_on_the_server() {
    if !has_kubectl() {
        eprintln!("left out: there is no kubectl");
        return;
    }
    let cluster = Cluster::start(Options::nodes(0));
    takes_over_from_the_client(&cluster);
    conflicts_are_told_and_forced(&cluster);
    diffs_are_the_servers(&cluster);
    parts_have_owners(&cluster);
    cluster.down();
}

/// What kubectl applied from the client, kubectl applies on the server without being asked.
fn takes_over_from_the_client(cluster: &Cluster) {
    cluster.kubectl_with(["apply", "-f", "-"], &config_map("a: '1', b: '1'")).ok();
    assert_eq!(owners(cluster, "configmap/c"), ["kubectl-client-side-apply Update"]);
    let said = cluster.kubectl_with(["apply", "--server-side", "-f", "-"], &config_map("a: '2'")).ok();
    assert!(said.contains("serverside-applied"), "{said}");
    assert_eq!(owners(cluster, "configmap/c"), ["kubectl Apply"]);
    let data = cluster.kubectl(["get", "configmap/c", "-o", "jsonpath={.data}"]).ok();
    assert_eq!(data, r#"{"a":"2"}"#);
    let before = version(cluster, "configmap/c");
    cluster.kubectl_with(["apply", "--server-side", "-f", "-"], &config_map("a: '2'")).ok();
    assert_eq!(version(cluster, "configmap/c"), before, "an apply that changes nothing is no new version");
}

fn conflicts_are_told_and_forced(cluster: &Cluster) {
    let edit = r#"{"data":{"a":"edited"}}"#;
    cluster.kubectl(["patch", "configmap/c", "--type=merge", "--field-manager=editor", "-p", edit]).ok();
    assert_eq!(owners(cluster, "configmap/c"), ["editor Update"]);
    let apply = ["apply", "--server-side", "-f", "-"];
    let said = cluster.kubectl_with(apply, &config_map("a: '3'")).fails();
    assert!(
        said.contains("Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a"),
        "{said}"
    );
    assert!(said.contains("--force-conflicts"), "{said}");
    let force = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    cluster.kubectl_with(force, &config_map("a: '3'")).ok();
    assert_eq!(owners(cluster, "configmap/c"), ["kubectl Apply"]);
    // Without managers nothing is shown unless somebody asks.
    let shown = cluster.kubectl(["get", "configmap/c", "-o", "yaml"]).ok();
    assert!(!shown.contains("managedFields"), "{shown}");
    let shown = cluster.kubectl(["get", "configmap/c", "-o", "yaml", "--show-managed-fields"]).ok();
    assert!(shown.contains("f:data:\n        f:a: {}"), "{shown}");
}

fn diffs_are_the_servers(cluster: &Cluster) {
    let diff = ["diff", "--server-side", "-f", "-"];
    let same = cluster.kubectl_with(diff, &config_map("a: '3'"));
    assert_eq!(same.code, 0, "{same}");
    let other = cluster.kubectl_with(diff, &config_map("a: '4'"));
    assert_eq!(other.code, 1, "{other}");
    assert!(other.stdout.contains("+  a: \"4\""), "{other}");
}

fn parts_have_owners(cluster: &Cluster) {
    let apply = ["apply", "--server-side", "-f", "-"];
    cluster.kubectl_with(apply, &deployment("replicas: 1")).ok();
    cluster.kubectl(["scale", "deployment/d", "--replicas=3"]).ok();
    let owners = owners(cluster, "deployment/d");
    assert!(owners.contains(&"kubectl Update scale".to_owned()), "{owners:?}");
    let said = cluster.kubectl_with(apply, &deployment("replicas: 1")).fails();
    assert!(
        said.contains("conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{said}"
    );
    // Who no longer names the replicas leaves them to whoever does.
    cluster.kubectl_with(apply, &deployment("paused: true")).ok();
    let replicas = cluster.kubectl(["get", "deployment/d", "-o", "jsonpath={.spec.replicas}"]).ok();
    assert_eq!(replicas, "3");
}
