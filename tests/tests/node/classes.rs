//! A RuntimeClass says by which of the engine's runtimes a pod is run.

use balsa_testkit::docker;
use serde_json::json;

use crate::{Node, pod};

pub(crate) fn act(node: &Node) {
    for (name, handler) in [("usual", "runc"), ("exotic", "no-such-runtime")] {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name},
            "handler": handler});
        node.cluster.apply(&class.to_string());
        let class = json!({"runtimeClassName": name});
        node.apply(&pod(&format!("of-class-{name}"), "IMAGE", "exec sleep 86400", &class));
    }
    node.ready("of-class-usual");
    for container in ["POD", "main"] {
        let id = node.container("of-class-usual", container).id;
        let runtime = docker(["inspect", "-f", "{{.HostConfig.Runtime}}", &id]).ok();
        assert_eq!(runtime.trim(), "runc", "{container}");
    }
    node.event("of-class-exotic", "FailedCreatePodSandBox: Failed to create pod sandbox: ");
    let told = node.event("of-class-exotic", "no-such-runtime");
    assert!(told.contains("runtime"), "{told}");
    for name in ["usual", "exotic"] {
        node.delete("pods", &format!("of-class-{name}"));
        node.cluster.balsa(["delete", "runtimeclass", name]).ok();
    }
}
