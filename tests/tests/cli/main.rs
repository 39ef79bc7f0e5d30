//! The command line, as fingers that know kubectl use it: what it prints, its exit codes, and what it says
//! when something is wrong. Also how a server is configured, and how an agent is turned away.
#![allow(clippy::unwrap_used)]

mod config;
mod dry_run;
mod flags;
mod forms;
mod mistakes;
mod ranges;
mod server;
mod tokens;
mod web;
mod yaml;

use std::time::Duration;

use balsa_testkit::{Cluster, Lines, Options, Output, images, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn commands_do_what_fingers_expect() {
    let image = images::busybox("1");
    let cluster = Cluster::start(Options::nodes(1));
    the_cluster_is_looked_at(&cluster);
    manifests_are_applied(&cluster, &image);
    objects_are_printed_in_all_forms(&cluster);
    several_are_selected(&cluster);
    changes_are_watched(&cluster);
    one_is_described(&cluster);
    logs_are_read(&cluster);
    commands_are_run(&cluster);
    what_happened_is_told(&cluster);
    mistakes::are_told(&cluster);
    tokens::that_open_nothing_are_told(&cluster);
    things_are_deleted(&cluster, &image);
    cluster.down();
}

/// It has to succeed; its standard output.
#[track_caller]
fn ok(cluster: &Cluster, line: &str) -> String {
    cluster.balsa(line.split_whitespace()).ok()
}

fn the_cluster_is_looked_at(cluster: &Cluster) {
    let said = ok(cluster, "version");
    assert!(said.starts_with("Client: balsa ") && said.contains("\nServer: balsa "), "{said}");
    let version: Value = serde_json::from_str(&ok(cluster, "version -o json")).unwrap();
    assert_eq!(version["client"]["kubernetes"], version["server"]["kubernetes"]);
    assert!(!ok(cluster, "version --client").contains("Server"));

    let said = ok(cluster, "api-resources");
    let row = |plural: &str| {
        let row =
            said.lines().find(|row| row.starts_with(plural)).unwrap_or_else(|| panic!("{plural}: {said}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("NAME "), ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    assert_eq!(row("pods "), ["pods", "po", "v1", "true", "Pod"]);
    assert_eq!(row("deployments "), ["deployments", "deploy", "apps/v1", "true", "Deployment"]);
    let said = ok(cluster, "api-resources --namespaced=false --no-headers");
    assert!(said.contains("nodes ") && !said.contains("pods ") && !said.contains("NAME"), "{said}");

    let node = cluster.node_name();
    let said = ok(cluster, "get nodes");
    assert!(said.starts_with("NAME ") && said.contains(&format!("\n{node} ")), "{said}");
    assert!(!said.contains("INTERNAL-IP") && ok(cluster, "get no -o wide").contains("INTERNAL-IP"), "{said}");
    let said = ok(cluster, &format!("wait node/{node} --for=condition=Ready"));
    assert_eq!(said, format!("node/{node} condition met\n"));
}

fn manifests_are_applied(cluster: &Cluster, image: &str) {
    let text = include_str!("zoo.yaml").replace("IMAGE", image);
    let said = cluster
        .balsa_with(
            ["apply", "-f", "-", "--dry-run=server"],
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: zoo}",
        )
        .ok();
    assert_eq!(said, "namespace/zoo created (server dry run)\n");
    assert!(cluster.balsa(["get", "ns", "zoo"]).fails().contains("not found"));
    let said = cluster.apply(&text);
    let wanted = "namespace/zoo created\nconfigmap/sign created\nservice/keeper created\ndeployment.apps/keeper created\npod/parrot created\n";
    assert_eq!(said, wanted);
    // A pod's token volume is the server's doing and no change.
    let said = cluster.apply(&text);
    assert_eq!(said, wanted.replace("created", "unchanged"));
    let said = cluster.apply(&text.replace("open from nine", "closed"));
    assert!(said.contains("configmap/sign configured\nservice/keeper unchanged\n"), "{said}");
    // A field that leaves the manifest leaves the object.
    cluster.apply(&text.replace("  hours: open from nine\n", ""));
    assert_eq!(ok(cluster, "get cm sign -n zoo -o jsonpath={.data.hours}"), "");
    // Files, and directories of them.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), &text).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not a manifest").unwrap();
    for path in [folder.path().to_owned(), folder.path().join("all.yaml")] {
        let said = cluster.balsa(["apply".as_ref(), "-f".as_ref(), path.as_os_str()]).ok();
        assert_eq!(said.lines().count(), 5, "{said}");
    }
    ok(cluster, "wait deploy/keeper pod/parrot -n zoo --for=jsonpath={.metadata.name}");
    ok(cluster, "wait deploy/keeper -n zoo --for=condition=Available --timeout=60s");
    ok(cluster, "wait pod -l app=parrot -n zoo --for=condition=Ready --timeout=60s");
}

fn objects_are_printed_in_all_forms(cluster: &Cluster) {
    let said = ok(cluster, "get pod parrot -n zoo");
    let mut rows = said.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows.next().unwrap()[..4], ["parrot", "1/1", "Running", "0"]);
    let said = ok(cluster, "get pod parrot -n zoo -o wide --no-headers");
    assert!(said.starts_with("parrot") && said.contains(&cluster.node_name()), "{said}");
    let object: Value = serde_json::from_str(&ok(cluster, "get pod/parrot -n zoo -o json")).unwrap();
    assert_eq!((object["kind"].as_str(), object["metadata"]["name"].as_str()), (Some("Pod"), Some("parrot")));
    assert!(object["metadata"].get("managedFields").is_none());
    let said = ok(cluster, "get pod/parrot -n zoo -o yaml");
    assert!(said.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n"), "{said}");
    assert_eq!(ok(cluster, "get pod/parrot cm/sign -n zoo -o name"), "pod/parrot\nconfigmap/sign\n");
    let list: Value = serde_json::from_str(&ok(cluster, "get pods -n zoo -o json")).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("List"), 3));
    let path = "get pods -n zoo -l app=parrot -o jsonpath={.items[*].spec.containers[0].name}";
    assert_eq!(ok(cluster, path), "parrot");
    // What a manifest names.
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sign, namespace: zoo}";
    assert_eq!(cluster.balsa_with(["get", "-f", "-", "-o", "name"], manifest).ok(), "configmap/sign\n");
}

fn several_are_selected(cluster: &Cluster) {
    let said = ok(cluster, "get deploy,svc,po -n zoo");
    assert!(
        said.contains("deployment.apps/keeper")
            && said.contains("service/keeper")
            && said.contains("pod/parrot"),
        "{said}"
    );
    let said = ok(cluster, "get pods -A");
    assert!(said.starts_with("NAMESPACE ") && said.contains("\nzoo "), "{said}");
    let said = ok(cluster, "get pods -A -l app=keeper -o name");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(ok(cluster, "get pods -n zoo -l app!=keeper -o name"), "pod/parrot\n");
    let said =
        ok(cluster, "get pods -n zoo --field-selector metadata.name=parrot --show-labels --no-headers");
    assert!(said.ends_with("app=parrot\n"), "{said}");
    let Output { code, stdout, stderr, .. } = cluster.balsa(["get", "pods"]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (0, "", "No resources found in default namespace.\n")
    );
}

fn changes_are_watched(cluster: &Cluster) {
    let mut rows = Lines::of(cluster, "get deploy keeper -n zoo -w");
    rows.until("headings", |row| row.starts_with("NAME "));
    rows.until("what is there", |row| row.contains("2/2"));
    assert_eq!(ok(cluster, "scale deploy/keeper -n zoo --replicas=1"), "deployment.apps/keeper scaled\n");
    rows.until("the change", |row| row.contains("1/1"));
    let said =
        cluster.balsa(["scale", "deploy", "keeper", "-n", "zoo", "--replicas=3", "--current-replicas=2"]);
    assert!(said.fails().contains("Expected replicas to be 2, was 1"));
    let mut names = Lines::of(cluster, "get pods -n zoo -o name --watch-only");
    ok(cluster, "scale deploy/keeper -n zoo --replicas=2");
    names.until("a new pod", |row| row.starts_with("pod/keeper-"));
    rows.until("two again", |row| row.contains("2/2"));
}

fn one_is_described(cluster: &Cluster) {
    let said = ok(cluster, "describe pod parrot -n zoo");
    assert!(said.starts_with("Name:"), "{said}");
    for part in ["Namespace:", "Labels:", "app=parrot", "Containers:", "Events:", "Started container parrot"]
    {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let said = ok(cluster, "describe deploy/keeper -n zoo --show-events=false");
    assert!(said.contains("Replicas:") && !said.contains("Events:"), "{said}");
}

fn logs_are_read(cluster: &Cluster) {
    assert_eq!(ok(cluster, "logs parrot -n zoo --tail=2"), "two\nthree\n");
    assert_eq!(ok(cluster, "logs pod/parrot parrot -n zoo"), "one\ntwo\nthree\n");
    let said = ok(cluster, "logs deploy/keeper -n zoo");
    assert_eq!(said, "here\n");
    let said = ok(cluster, "logs -l app=keeper -n zoo --prefix");
    // A pod that is ending may still be among them.
    assert!(said.lines().count() >= 2, "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("[pod/keeper-") && line.ends_with("/keeper] here")),
        "{said}"
    );
    let said = ok(cluster, "logs parrot -n zoo --timestamps --limit-bytes=20");
    assert!(said.starts_with("20") && said.len() == 20, "{said}");
    let mut lines = Lines::of(cluster, "logs parrot -n zoo -f");
    lines.until("what is there", |line| line == "three");
    ok(cluster, "exec parrot -n zoo -- touch /tmp/speak");
    lines.until("what comes", |line| line == "pieces of eight");
}

fn commands_are_run(cluster: &Cluster) {
    let run = |line: &str, script: &str, input: &str| {
        let words = line.split_whitespace().chain(["-n", "zoo", "--", "sh", "-c", script]);
        cluster.balsa_with(words, input)
    };
    let failed = run("exec parrot", "echo out; echo err >&2; exit 7", "");
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"), "{failed}");
    assert!(failed.stderr.starts_with("err\n"), "{failed}");
    assert_eq!(run("exec -i pod/parrot -c parrot", "cat", "polly").ok(), "polly");
    assert!(run("exec deploy/keeper", "hostname", "").ok().starts_with("keeper-"));
    let missing = cluster.balsa("exec parrot -n zoo -- /bin/nothing".split(' '));
    assert!(missing.code == 126 && missing.to_string().contains("no such file"), "{missing}");
}

fn what_happened_is_told(cluster: &Cluster) {
    let said = ok(cluster, "events -n zoo --for pod/parrot");
    assert!(said.contains("Started") && !said.contains("keeper"), "{said}");
    let said = ok(cluster, "events -A --types=Normal --no-headers");
    assert!(said.contains("zoo") && said.contains("ScalingReplicaSet"), "{said}");
    // A killed container's log is still there.
    ok(cluster, "exec parrot -n zoo -- kill 1");
    wait_until("the container is started again", PATIENCE, || {
        let count =
            ok(cluster, "get pod parrot -n zoo -o jsonpath={.status.containerStatuses[0].restartCount}");
        if count == "1" { Ok(()) } else { Err(count) }
    });
    let said = ok(cluster, "logs parrot -n zoo --previous");
    assert!(said.contains("pieces of eight"), "{said}");
}

fn things_are_deleted(cluster: &Cluster, image: &str) {
    assert_eq!(
        ok(cluster, "delete cm sign -n zoo --dry-run"),
        "configmap \"sign\" deleted (server dry run)\n"
    );
    assert_eq!(ok(cluster, "delete cm sign -n zoo"), "configmap \"sign\" deleted\n");
    assert_eq!(ok(cluster, "delete cm sign -n zoo --ignore-not-found"), "");
    let mut gone = Lines::of(cluster, "wait pod/parrot -n zoo --for=delete --timeout=60s");
    assert_eq!(ok(cluster, "delete pod -l app=parrot -n zoo --now"), "pod \"parrot\" deleted\n");
    gone.until("it is gone", |line| line == "pod/parrot condition met");
    assert_eq!(ok(cluster, "get pods -n zoo -l app=parrot -o name"), "");
    let text = include_str!("zoo.yaml").replace("IMAGE", image);
    let said = cluster.balsa_with(["delete", "-f", "-", "--ignore-not-found", "--timeout=120s"], &text).ok();
    assert!(
        said.contains("namespace \"zoo\" deleted") && said.contains("deployment.apps \"keeper\" deleted"),
        "{said}"
    );
    assert!(cluster.balsa(["get", "ns", "zoo"]).fails().contains("not found"));
}
