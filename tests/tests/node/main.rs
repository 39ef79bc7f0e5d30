//! What a node does with pods, read line by line from the list of what must be there: images from a real
//! registry, containers as their pod describes them, volumes, Services and names, logs, health and numbers; and what a cluster has from the start.
//!
//! One cluster of two nodes for all acts: the pods of all of them are applied first and come up beside each
//! other, so that nobody waits for what another act could have started.
#![allow(clippy::unwrap_used)]

mod admission;
mod certificates;
mod classes;
mod containers;
mod ends;
mod images;
mod logs;
mod maintenance;
mod network;
mod operations;
mod registry;
mod resize;
mod rollout;
mod start;
mod userspace;
mod volumes;

use std::path::Path;
use std::time::Duration;

use balsa_testkit::{Cluster, Container, Options, Output, images as local, wait_until};
use http::Method;
use serde_json::{Value, json};

const NAMESPACE: &str = "node";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_node_does_what_pods_say() {
    let image = local::busybox("1");
    let node = Node::start(Cluster::start(Options::nodes(2)), image);
    node.apply(include_str!("namespace.yaml"));
    for manifest in [containers::PODS, volumes::PODS, network::PODS, logs::PODS] {
        node.apply(manifest);
    }
    containers::acts(&node);
    volumes::acts(&node);
    network::acts(&node);
    logs::acts(&node);
    ends::acts(&node);
    classes::act(&node);
    operations::acts(&node);
    images::acts(&node);
    admission::acts(&node);
    rollout::act(&node);
    maintenance::acts(&node);
    node.cluster.balsa(["delete", "namespace", NAMESPACE, "--timeout=120s"]).ok();
    volumes::what_is_retained_stays(&node);
    node.cluster.down();
}

/// The cluster, and the words in which the acts speak about it.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    /// A busybox that every node has.
    image: String,
    /// A directory of the machine that pods may have.
    shared: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(cluster: Cluster, image: String) -> Self {
        let shared = tempfile::Builder::new().prefix("balsa-shared-").tempdir().unwrap();
        Self { cluster, image, shared }
    }

    /// Makes the cluster hold a manifest; `IMAGE` in it is the busybox, `SHARED` a directory of the machine,
    /// `HEALTH` a program of the machine with gRPC's health service.
    pub(crate) fn apply(&self, manifest: &str) {
        let shared = self.shared().display().to_string();
        let manifest = manifest.replace("IMAGE", &self.image).replace("SHARED", &shared);
        self.cluster.apply(&manifest.replace("HEALTH", env!("CARGO_BIN_EXE_health")));
    }

    /// What `SHARED` stands for.
    pub(crate) fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// An object of the namespace.
    pub(crate) fn get(&self, resource: &str, name: &str) -> Result<Value, String> {
        let group = match resource {
            "deployments" => "apis/apps/v1",
            _ => "api/v1",
        };
        self.cluster.read(&format!("/{group}/namespaces/{NAMESPACE}/{resource}/{name}"))
    }

    /// Waits until a pod is as it should be.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_until(&format!("pod {name}: {what}"), PATIENCE, || {
            let pod = self.get("pods", name)?;
            if is_so(&pod) {
                Ok(pod)
            } else {
                Err(format!("{}\n{}", pod["status"], self.events(name).join("\n")))
            }
        })
    }

    /// Waits until a pod is Ready.
    #[track_caller]
    pub(crate) fn ready(&self, name: &str) -> Value {
        self.pod(name, "is ready", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    }

    /// The first container of a pod, as its status has it, waits for this reason.
    pub(crate) fn waits(&self, name: &str, reason: &str) -> Value {
        self.pod(name, &format!("waits: {reason}"), |pod| status(pod)["state"]["waiting"]["reason"] == reason)
    }

    /// The messages of the events about a pod, with their reasons.
    pub(crate) fn events(&self, pod: &str) -> Vec<String> {
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.kind%3DPod%2CinvolvedObject.name%3D{pod}"
        );
        let list = self.cluster.read(&path).unwrap_or_default();
        let events = list["items"].as_array().cloned().unwrap_or_default();
        events
            .iter()
            .map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"])))
            .collect()
    }

    /// Waits for an event about a pod whose `Reason: message` has this in it.
    #[track_caller]
    pub(crate) fn event(&self, pod: &str, part: &str) -> String {
        wait_until(&format!("{pod} has an event with {part:?}"), PATIENCE, || {
            let events = self.events(pod);
            events.iter().find(|event| event.contains(part)).cloned().ok_or_else(|| events.join("\n"))
        })
    }

    /// Runs a shell script in a pod's container.
    pub(crate) fn run(&self, pod: &str, script: &str) -> Output {
        self.cluster.balsa(["exec", "-n", NAMESPACE, pod, "--", "sh", "-c", script])
    }

    /// A script that has to succeed; what it prints, trimmed.
    #[track_caller]
    pub(crate) fn shell(&self, pod: &str, script: &str) -> String {
        self.run(pod, script).ok().trim().to_owned()
    }

    /// Changes fields of an object.
    #[track_caller]
    pub(crate) fn patch(&self, path: &str, patch: &Value) {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{path}");
        let answer = self.cluster.patch(&path, "application/merge-patch+json", patch).unwrap();
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
    }

    /// Deletes an object of the namespace and waits until it is gone.
    #[track_caller]
    pub(crate) fn delete(&self, resource: &str, name: &str) {
        self.cluster.balsa(["delete", resource, name, "-n", NAMESPACE, "--timeout=120s"]).ok();
    }

    /// One request, whatever is answered.
    pub(crate) fn request(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.cluster.request(method, path, body).unwrap();
        (answer.code, answer.body)
    }

    /// The containers of a pod, as Docker has them.
    pub(crate) fn containers(&self, pod: &str) -> Vec<Container> {
        let nodes = self.cluster.node_names();
        let all = nodes.iter().flat_map(|node| balsa_testkit::containers(node, NAMESPACE));
        all.filter(|container| container.pod == pod).collect()
    }

    /// One container of a pod, as Docker has it; `POD` is the sandbox.
    #[track_caller]
    pub(crate) fn container(&self, pod: &str, name: &str) -> Container {
        let found =
            self.containers(pod).into_iter().find(|container| container.name == name && container.running);
        found.unwrap_or_else(|| panic!("{pod} has no running container {name}"))
    }
}

/// The status of a pod's first container.
pub(crate) fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A pod that runs a shell script in the busybox.
pub(crate) fn pod(name: &str, image: &str, script: &str, more: &Value) -> String {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": image, "command": ["sh", "-c", script]}]}});
    for (field, value) in more.as_object().into_iter().flatten() {
        match field.as_str() {
            "imagePullPolicy" | "ports" | "resources" => pod["spec"]["containers"][0][field] = value.clone(),
            _ => pod["spec"][field] = value.clone(),
        }
    }
    pod.to_string()
}
