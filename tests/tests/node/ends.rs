//! What a node says of pods that it ends, because they take more than they may, and of containers that it cannot
//! start or that have ended.

use serde_json::json;

use crate::{NAMESPACE, Node, pod, status, text};

pub(crate) fn acts(node: &Node) {
    let limit = json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}}});
    let script = "dd if=/dev/zero of=/tmp/big bs=1M count=3; exec sleep 86400";
    node.apply(&pod("greedy", "IMAGE", script, &limit));
    let limit = json!({"resources": {"limits": {"ephemeral-storage": "64Mi"}}});
    node.apply(&pod("modest", "IMAGE", script, &limit));
    node.apply(&pod("late", "IMAGE", "exec sleep 86400", &json!({"activeDeadlineSeconds": 3})));
    node.apply(&pod("nameless", "busyBOX:1", "exec sleep 86400", &json!({})));
    node.apply(&half_over());
    node.apply(&sealed());

    names_that_are_none_are_told(node);
    who_has_ended_cannot_be_talked_to(node);
    what_the_engine_cannot_seal_is_refused(node);
    late_ones_are_ended(node);
    greedy_ones_are_put_out(node);
    for name in ["greedy", "modest", "late", "nameless", "half-over", "sealed"] {
        node.delete("pods", name);
    }
}

/// A pod that goes on with one of its two containers.
fn half_over() -> String {
    let container =
        |name: &str, script: &str| json!({"name": name, "image": "IMAGE", "command": ["sh", "-c", script]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "half-over", "namespace": NAMESPACE},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [container("over", "exit 0"), container("going", "exec sleep 86400")]}})
    .to_string()
}

/// A pod with a mount below which nothing shall be written, either.
fn sealed() -> String {
    let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sealed", "namespace": NAMESPACE},
        "spec": {"terminationGracePeriodSeconds": 1, "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "main", "image": "IMAGE", "command": ["sleep", "86400"], "volumeMounts": [mount]}]}})
    .to_string()
}

fn names_that_are_none_are_told(node: &Node) {
    let why = "Failed to apply default image tag \"busyBOX:1\": couldn't parse image name \"busyBOX:1\": \
        invalid reference format: repository name (library/busyBOX) must be lowercase";
    let pod = node.waits("nameless", "InvalidImageName");
    assert_eq!(text(&status(&pod)["state"]["waiting"]["message"]), why);
    node.event("nameless", &format!("InspectFailed: {why}"));
    node.event("nameless", "Failed: Error: InvalidImageName");
}

fn who_has_ended_cannot_be_talked_to(node: &Node) {
    node.pod("half-over", "is over by half", |pod| {
        let all = pod["status"]["containerStatuses"].as_array();
        all.into_iter().flatten().any(|c| c["name"] == "over" && c["state"]["terminated"]["exitCode"] == 0)
    });
    for verb in [
        &["exec", "half-over", "-c", "over", "-n", NAMESPACE, "--", "true"][..],
        &["attach", "half-over", "-c", "over", "-n", NAMESPACE],
    ] {
        let said = node.cluster.balsa(verb).fails();
        assert!(said.contains("container not found (\"over\")"), "{said}");
    }
    node.cluster.balsa(["exec", "half-over", "-c", "going", "-n", NAMESPACE, "--", "true"]).ok();
}

/// Docker can since version 25.
fn what_the_engine_cannot_seal_is_refused(node: &Node) {
    let name = text(
        &node.pod("sealed", "has a node", |pod| pod["spec"]["nodeName"].is_string())["spec"]["nodeName"],
    )
    .to_owned();
    let told = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
    if told["status"]["runtimeHandlers"][0]["features"]["recursiveReadOnlyMounts"] == true {
        let pod = node.ready("sealed");
        assert_eq!(status(&pod)["volumeMounts"][0]["recursiveReadOnly"], "Enabled");
        return;
    }
    let pod = node.waits("sealed", "CreateContainerConfigError");
    assert_eq!(
        text(&status(&pod)["state"]["waiting"]["message"]),
        "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not supported by the runtime"
    );
}

fn late_ones_are_ended(node: &Node) {
    let why = "Pod was active on the node longer than the specified deadline";
    let pod = node.pod("late", "is ended", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!((text(&pod["status"]["reason"]), text(&pod["status"]["message"])), ("DeadlineExceeded", why));
    node.event("late", &format!("DeadlineExceeded: {why}"));
}

fn greedy_ones_are_put_out(node: &Node) {
    let why = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    let pod = node.pod("greedy", "is put out", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!((text(&pod["status"]["reason"]), text(&pod["status"]["message"])), ("Evicted", why));
    node.event("greedy", &format!("Evicted: {why}"));
    node.ready("modest");
}
