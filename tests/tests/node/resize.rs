//! Other sizes for containers that run: given when the node has room, in place or by a start anew.

use balsa_testkit::{Cluster, Options, docker, images as local};
use serde_json::{Value, json};

use crate::{NAMESPACE, Node, pod, status, text};

const SCRIPT: &str = "exec sleep 86400";

#[test]
fn sizes_wait_for_room_and_containers_start_anew_where_they_are_to() {
    // A node of its own: what others have of it matters here.
    let node = Node::start(Cluster::start(Options::nodes(1)), local::busybox("1"));
    node.apply(include_str!("namespace.yaml"));
    let name = &node.cluster.node_names()[0];
    let told = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
    let all = 1000 * text(&told["status"]["allocatable"]["cpu"]).parse::<u32>().unwrap();
    let memory = |size: &str| json!({"cpu": "100m", "memory": size});
    let grows = json!({"resources": {"requests": memory("16Mi"), "limits": {"memory": "32Mi"}}});
    let mut grows: Value = serde_json::from_str(&pod("grows", "IMAGE", SCRIPT, &grows)).unwrap();
    grows["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.apply(&grows.to_string());
    let most = json!({"resources": {"requests": {"cpu": format!("{}m", all - 500)}}});
    node.apply(&pod("large", "IMAGE", SCRIPT, &most));
    let id = node.ready("grows")["status"]["containerStatuses"][0]["containerID"].clone();
    node.ready("large");

    resize(&node, &json!({"requests": {"cpu": format!("{}m", all + 1)}}));
    let why = format!("Node didn't have enough capacity: cpu, requested: {}, capacity: {all}", all + 1);
    is_pending(&node, "Infeasible", &why);
    // It takes no more than it has: there is room for others.
    node.apply(&pod("small", "IMAGE", SCRIPT, &json!({"resources": {"requests": {"cpu": "100m"}}})));
    node.ready("small");

    resize(&node, &json!({"requests": {"cpu": "450m"}}));
    let why = format!(
        "Node didn't have enough resource: cpu, requested: 450, used: {}, capacity: {all}",
        all - 400
    );
    let pod = is_pending(&node, "Deferred", &why);
    assert_eq!(status(&pod)["allocatedResources"]["cpu"], "100m");
    let shown = node.cluster.balsa(["get", "pod", "grows", "-n", NAMESPACE, "-o", "yaml"]).ok();
    assert!(shown.contains("PodResizePending"), "{shown}");
    node.delete("pods", "large");
    let pod = node.pod("grows", "is resized", |pod| status(pod)["allocatedResources"]["cpu"] == "450m");
    assert_eq!((condition(&pod), &status(&pod)["containerID"]), (None, &id), "in place");
    // 450 thousandths of a processor, as a kubelet counts shares.
    assert_eq!(inspected(&node, "{{.HostConfig.CpuShares}}"), "460");

    resize(&node, &json!({"requests": {"memory": "24Mi"}, "limits": {"memory": "48Mi"}}));
    let pod = node.pod("grows", "is started anew", |pod| {
        status(pod)["restartCount"] == 1 && status(pod)["ready"] == true
    });
    assert_ne!(status(&pod)["containerID"], id);
    assert_eq!(status(&pod)["resources"]["limits"]["memory"], "48Mi");
    assert_eq!(inspected(&node, "{{.HostConfig.Memory}}"), (48 << 20).to_string());
    node.event("grows", "Killing: Container main resize requires restart");
    node.cluster.balsa(["delete", "namespace", NAMESPACE, "--timeout=120s"]).ok();
    node.cluster.down();
}

fn resize(node: &Node, resources: &Value) {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/grows/resize");
    let answer = node.cluster.patch(&path, "application/strategic-merge-patch+json", &patch).unwrap();
    assert_eq!(answer.code, 200, "{}", answer.body);
}

/// The condition of a pod that waits for its size.
fn condition(pod: &Value) -> Option<&Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "PodResizePending")
}

/// Waits until the pod says that its size has to wait, and why.
fn is_pending(node: &Node, reason: &str, why: &str) -> Value {
    let is = |pod: &Value| condition(pod).is_some_and(|condition| condition["reason"] == reason);
    let pod = node.pod("grows", &format!("is {reason}"), is);
    let told = condition(&pod).unwrap();
    assert_eq!((&told["status"], text(&told["message"])), (&json!("True"), why));
    pod
}

/// What Docker has of the container.
fn inspected(node: &Node, format: &str) -> String {
    let id = node.container("grows", "main").id;
    docker(["inspect", "--format", format, id.as_str()]).ok().trim().to_owned()
}
