//! A machine is taken out of service and back, by kubectl: cordon, drain, uncordon, taint. And an object is
//! changed in an editor.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use balsa_testkit::{Output, has_kubectl, kubectl_program, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::{NAMESPACE, Node, PATIENCE, pod, text};

pub(crate) fn acts(node: &Node) {
    an_evicted_pod_says_so(node);
    if !has_kubectl() {
        println!("there is no kubectl here: nothing is edited, cordoned, drained and tainted");
        return;
    }
    node.apply(include_str!("maintenance.yaml"));
    an_object_is_edited(node);
    a_node_is_looked_into(node);
    let nodes = node.cluster.node_names();
    let [stays, goes] = [&nodes[0], &nodes[1]];
    both_are_ready(node);
    no_new_pod_comes_to_a_cordoned_node(node, stays, goes);
    a_drained_node_has_only_its_daemons(node, stays, goes);
    a_taint_keeps_away_and_drives_out(node, stays, goes);
}

/// Its owner tells by that whether it failed by itself; a finalizer keeps it, to be looked at.
fn an_evicted_pod_says_so(node: &Node) {
    node.apply(&pod("evicted", "IMAGE", "exec sleep 86400", &Value::Null));
    node.patch("pods/evicted", &json!({"metadata": {"finalizers": ["node.test/look"]}}));
    let uid = node.ready("evicted")["metadata"]["uid"].clone();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/evicted/eviction");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"},
        "deleteOptions": {"preconditions": {"uid": uid}}});
    let (code, said) = node.request(Method::POST, &path, &eviction);
    assert_eq!(code, 201, "{said}");
    let evicted = node.pod("evicted", "is going", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let why =
        conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").expect("it says why");
    assert_eq!(why["reason"], "EvictionByEvictionAPI", "{why}");
    assert_eq!(why["message"], "Eviction API: evicting");
    node.patch("pods/evicted", &json!({"metadata": {"finalizers": null}}));
}

/// One command of kubectl in the namespace.
fn kubectl(node: &Node, line: &str) -> Output {
    node.cluster.kubectl(["-n", NAMESPACE].into_iter().chain(line.split(' ')))
}

/// The pods of an app that are not about to end: names and nodes.
fn pods(node: &Node, app: &str) -> Result<Vec<(String, String)>, String> {
    let list =
        node.cluster.read(&format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3D{app}"))?;
    let stay =
        |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running";
    let pods = list["items"].as_array().into_iter().flatten().filter(stay);
    Ok(pods
        .map(|pod| (text(&pod["metadata"]["name"]).to_owned(), text(&pod["spec"]["nodeName"]).to_owned()))
        .collect())
}

#[track_caller]
fn all_are_on(node: &Node, app: &str, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    wait_until(&format!("the pods of {app} are on {expected:?}"), PATIENCE, || {
        let found = pods(node, app)?;
        let mut on: Vec<&str> = found.iter().map(|(_, node)| node.as_str()).collect();
        on.sort_unstable();
        if on == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn both_are_ready(node: &Node) {
    kubectl(node, "rollout status deploy/steady --timeout=120s").ok();
    kubectl(node, "rollout status daemonset/daemon --timeout=120s").ok();
}

/// A program that changes the file it is given, and keeps a copy of what it was given last.
fn editor(folder: &Path, name: &str, change: &str) -> PathBuf {
    let program = folder.join(name);
    std::fs::write(&program, format!("#!/bin/sh\ncp \"$1\" \"$0.seen\"; sed -i '{change}' \"$1\"\n"))
        .unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    program
}

fn an_object_is_edited(node: &Node) {
    let folder = tempfile::tempdir().unwrap();
    let edit = |name: &str, change: &str| {
        let editor = editor(folder.path(), name, change);
        let words = ["edit", "deployment", "steady", "-n", NAMESPACE];
        let environment = [("KUBE_EDITOR", editor.as_path()), ("TMPDIR", folder.path())];
        node.cluster.program(Path::new(&kubectl_program()), words, &environment)
    };
    let replicas = || node.get("deployments", "steady").unwrap()["spec"]["replicas"].clone();
    let said = edit("more", "s/replicas: 2/replicas: 3/").ok();
    assert!(said.contains("deployment.apps/steady edited"), "{said}");
    assert_eq!(replicas(), 3);
    // What is wrong is told in the file, which comes again; left as it is, nothing is saved.
    let refused = edit("wrong", "s/replicas: 3/replicas: -3/").fails();
    assert!(refused.contains("deployments.apps \"steady\" is invalid"), "{refused}");
    let seen = std::fs::read_to_string(folder.path().join("wrong.seen")).unwrap();
    assert!(seen.contains("# * spec.replicas: Invalid value: -3"), "{seen}");
    assert_eq!(replicas(), 3);
    let said = edit("nothing", "s/nothing/at all/");
    assert!(said.stderr.contains("Edit cancelled, no changes made.") && said.code == 0, "{said}");
    edit("fewer", "s/replicas: 3/replicas: 2/").ok();
    assert_eq!(replicas(), 2);
}

/// `kubectl debug node/…` has the machine's files at `/host`, and is no matter to anything else there.
fn a_node_is_looked_into(node: &Node) {
    let name = node.cluster.node_names().remove(0);
    let seen = node.shared().join("seen");
    std::fs::write(&seen, "from a debugger").unwrap();
    let command = format!("debug node/{name} --image={} -- cat /host{}", node.image, seen.display());
    let said = kubectl(node, &command).ok();
    let pod = said.split_whitespace().find(|word| word.starts_with("node-debugger-")).expect(&said);
    node.pod(pod, "has ended well", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(kubectl(node, &format!("logs {pod}")).ok(), "from a debugger");
    node.delete("pods", pod);
}

fn no_new_pod_comes_to_a_cordoned_node(node: &Node, stays: &str, goes: &str) {
    let said = kubectl(node, &format!("cordon {goes}")).ok();
    assert_eq!(said.trim(), format!("node/{goes} cordoned"));
    let row = kubectl(node, &format!("get node {goes} --no-headers")).ok();
    assert_eq!(row.split_whitespace().nth(1), Some("Ready,SchedulingDisabled"), "{row}");
    let before = pods(node, "steady").unwrap();
    kubectl(node, "scale deploy/steady --replicas=4").ok();
    wait_until("the new pods run on the other node", PATIENCE, || {
        let mut found = pods(node, "steady")?;
        let all = found.len();
        found.retain(|pod| !before.contains(pod));
        if all == 4 && found.iter().all(|(_, node)| node == stays) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    kubectl(node, "scale deploy/steady --replicas=2").ok();
    both_are_ready(node);
}

fn a_drained_node_has_only_its_daemons(node: &Node, stays: &str, goes: &str) {
    let refused = kubectl(node, &format!("drain {goes}")).fails();
    assert!(refused.contains("cannot delete DaemonSet-managed Pods") && refused.contains(goes), "{refused}");
    all_are_on(node, "steady", &[stays, goes]);
    let drain = format!("drain {goes} --ignore-daemonsets --pod-selector=app=steady --timeout=120s");
    let said = kubectl(node, &drain).ok();
    assert!(said.contains("pod/steady-") && said.contains(" evicted"), "{said}");
    assert!(said.contains(&format!("node/{goes} drained")), "{said}");
    all_are_on(node, "steady", &[stays, stays]);
    all_are_on(node, "daemon", &[stays, goes]);
    let budget = node.cluster.read("/apis/policy/v1/namespaces/node/poddisruptionbudgets/steady").unwrap();
    assert_eq!(budget["status"]["expectedPods"], 2, "{budget}");

    let said = kubectl(node, &format!("uncordon {goes}")).ok();
    assert_eq!(said.trim(), format!("node/{goes} uncordoned"));
    kubectl(node, "scale deploy/steady --replicas=3").ok();
    all_are_on(node, "steady", &[stays, stays, goes]);
    both_are_ready(node);
}

fn a_taint_keeps_away_and_drives_out(node: &Node, stays: &str, goes: &str) {
    let said = kubectl(node, &format!("taint node {goes} kite=flies:NoSchedule")).ok();
    assert_eq!(said.trim(), format!("node/{goes} tainted"));
    all_are_on(node, "steady", &[stays, stays, goes]);
    kubectl(node, &format!("taint node {goes} kite=flies:NoExecute")).ok();
    all_are_on(node, "steady", &[stays, stays, stays]);
    all_are_on(node, "daemon", &[stays]);
    let said = kubectl(node, &format!("taint node {goes} kite-")).ok();
    assert_eq!(said.trim(), format!("node/{goes} untainted"));
    all_are_on(node, "daemon", &[stays, goes]);
}
