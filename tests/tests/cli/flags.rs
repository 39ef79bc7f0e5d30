//! What flags make commands do, where it is more than what is printed: what is waited for, what is watched, and what
//! goes along with what is deleted. On a server alone: its pods wait for a node for ever, which is all that they have to.

use std::time::{Duration, Instant};

use balsa_testkit::{Cluster, Lines, Options, Output, wait_until};

use crate::{PATIENCE, ok};

const HOUSES: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: lions, labels: {of: houses}}
spec:
  selector: {matchLabels: {app: lions}}
  template:
    metadata: {labels: {app: lions}}
    spec: {containers: [{name: lion, image: registry.test/lion}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: bears, labels: {of: houses}}
spec:
  selector: {matchLabels: {app: bears}}
  template:
    metadata: {labels: {app: bears}}
    spec: {containers: [{name: bear, image: registry.test/bear}]}
";
const MAPS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: north, labels: {of: maps}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: south, labels: {of: maps}}
";

#[test]
fn flags_do_what_they_say() {
    let cluster = Cluster::start(Options::nodes(0));
    all_are_waited_for(&cluster);
    patience_ends_or_does_not(&cluster);
    everything_everywhere_is_watched(&cluster);
    what_is_not_there_is_no_mistake(&cluster);
    dependents_stay_or_go(&cluster);
    deletions_are_waited_for_or_not(&cluster);
    all_of_a_selection_is_deleted(&cluster);
    fields_that_do_not_exist_are_passed_over_if_asked(&cluster);
    cluster.down();
}

fn with(cluster: &Cluster, line: &str, manifest: &str) -> Output {
    cluster.balsa_with(line.split_whitespace(), manifest)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Writes a value into a map, as somebody else.
fn write(cluster: &Cluster, name: &str, value: &str) {
    let text =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{ready: '{value}'}}\n");
    with(cluster, "apply --server-side --force-conflicts -f -", &text).ok();
}

fn all_are_waited_for(cluster: &Cluster) {
    with(cluster, "apply -f -", HOUSES).ok();
    let both = ["deployment.apps/bears condition met", "deployment.apps/lions condition met"];
    let said = ok(cluster, "wait deploy --all --for=jsonpath={.status.replicas}=1 --timeout=60s");
    assert_eq!(sorted(&said), both);
    assert_eq!(sorted(&with(cluster, "wait -f - --for=create", HOUSES).ok()), both);
    let said = ok(cluster, "wait pods --all -A --for=condition=PodScheduled=false --timeout=60s");
    assert_eq!(said.lines().count(), 2, "{said}");
    // The last one counts.
    with(cluster, "apply -f -", MAPS).ok();
    let waiting = Lines::of(cluster, "wait cm -l of=maps --for=jsonpath={.data.ready}=yes --timeout=60s");
    write(cluster, "south", "yes");
    write(cluster, "north", "yes");
    let (status, said) = waiting.end();
    assert!(status.success(), "{said:?}");
    assert_eq!(sorted(&said.join("\n")), ["configmap/north condition met", "configmap/south condition met"]);
    // One that does not exist yet.
    let waiting = Lines::of(cluster, "wait cm/west --for=create --timeout=60s");
    write(cluster, "west", "no");
    assert_eq!(waiting.end().1, ["configmap/west condition met"]);
}

fn patience_ends_or_does_not(cluster: &Cluster) {
    let begun = Instant::now();
    let said = cluster.balsa("wait cm/west --for=jsonpath={.data.ready}=yes --timeout=1s".split(' '));
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (1, "error: timed out waiting for the condition on configmap/west\n")
    );
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
    // One look, and no wait at all.
    let said = cluster.balsa("wait cm/west --for=jsonpath={.data.ready}=yes --timeout=0s".split(' '));
    assert_eq!(said.code, 1, "{said}");
    assert_eq!(
        ok(cluster, "wait cm/west --for=jsonpath={.data.ready}=no --timeout=0s"),
        "configmap/west condition met\n"
    );
    let endless = Lines::of(cluster, "wait cm/west --for=jsonpath={.data.ready}=yes --timeout=-1s");
    write(cluster, "west", "yes");
    assert!(endless.end().0.success());
    let said = cluster.balsa("wait secret --all --for=create".split(' '));
    assert!(said.fails().contains("no matching resources found"));
}

/// Waits until so many watch ConfigMaps: before, a change would not be one to them.
fn watched_by(cluster: &Cluster, count: usize) {
    wait_until(&format!("{count} watch"), PATIENCE, || {
        let metrics = cluster.read("/metrics")?;
        let lines = metrics.as_str().unwrap_or_default().lines();
        let mut gauges = lines.filter(|line| line.starts_with("apiserver_longrunning_requests{"));
        let gauge = gauges.find(|line| line.contains("resource=\"configmaps\"")).unwrap_or_default();
        match gauge.rsplit(' ').next().unwrap().parse::<usize>() {
            Ok(number) if count == number => Ok(()),
            _ => Err(gauge.to_owned()),
        }
    });
}

fn everything_everywhere_is_watched(cluster: &Cluster) {
    watched_by(cluster, 0);
    let mut rows = Lines::of(cluster, "get cm -A -l of=watch -w");
    let mut names = Lines::of(cluster, "get cm -A -l of=watch --watch-only -o name");
    let mut yaml = Lines::of(cluster, "get cm -A -l of=watch -w -o yaml");
    let mut one = Lines::of(cluster, "get cm/first -n kube-public -w --no-headers");
    watched_by(cluster, 4);
    let map = |namespace: &str, name: &str| {
        let meta = format!("{{name: {name}, namespace: {namespace}, labels: {{of: watch}}}}");
        with(
            cluster,
            "apply -f -",
            &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata: {{a: '1'}}\n"),
        )
        .ok();
    };
    map("kube-public", "first");
    map("default", "second");
    let words = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    rows.until("the headings", |row| words(row) == ["NAMESPACE", "NAME", "DATA", "AGE"]);
    rows.until("the first", |row| words(row)[..3] == ["kube-public", "first", "1"]);
    rows.until("the second", |row| words(row)[..3] == ["default", "second", "1"]);
    names.until("the name", |row| row == "configmap/first");
    names.until("the other name", |row| row == "configmap/second");
    yaml.until("the namespace", |row| row == "  namespace: kube-public");
    one.until("no headings", |row| words(row)[..2] == ["first", "1"]);
    ok(cluster, "delete cm/second");
    rows.until("its end", |row| words(row)[..2] == ["default", "second"]);
    assert!(cluster.balsa("get cm,secret -A -w".split(' ')).fails().contains("one type"));
}

fn what_is_not_there_is_no_mistake(cluster: &Cluster) {
    assert_eq!(ok(cluster, "get cm nothing --ignore-not-found"), "");
    assert_eq!(
        ok(cluster, "get cm nothing north --ignore-not-found -o name").trim(),
        "configmap/north",
        "the others are shown"
    );
    assert_eq!(ok(cluster, "delete cm nothing --ignore-not-found"), "");
    assert_eq!(cluster.balsa("delete cm nothing".split(' ')).code, 1);
    // A type that there is none of is one.
    assert_eq!(cluster.balsa("get nothings nothing --ignore-not-found".split(' ')).code, 1);
}

fn dependents_stay_or_go(cluster: &Cluster) {
    let sets = "get rs,pods -l app=lions -o name";
    let before = ok(cluster, sets);
    assert_eq!(before.lines().count(), 2, "{before}");
    ok(cluster, "delete deploy lions --cascade=orphan");
    wait_until("its set belongs to nobody", PATIENCE, || {
        let owners =
            ok(cluster, "get rs -l app=lions -o jsonpath={.items[*].metadata.ownerReferences[*].name}");
        if owners.is_empty() { Ok(()) } else { Err(owners) }
    });
    assert_eq!(ok(cluster, sets), before, "they stay");
    // A new one of that name takes them up.
    with(cluster, "apply -f -", HOUSES).ok();
    let owner = "get rs -l app=lions -o jsonpath={.items[*].metadata.ownerReferences[*].kind}";
    wait_until("the set is adopted", PATIENCE, || match ok(cluster, owner) {
        owner if owner == "Deployment" => Ok(()),
        owner => Err(owner),
    });
    assert_eq!(ok(cluster, sets), before);

    // First those below: when it is gone, so are they.
    assert_eq!(
        ok(cluster, "delete deploy lions --cascade=foreground"),
        "deployment.apps \"lions\" deleted\n"
    );
    assert_eq!(ok(cluster, sets), "");
    // First it, and soon those below.
    assert_eq!(ok(cluster, "delete deploy bears --cascade=background -o name"), "deployment.apps/bears\n");
    wait_until("those below are gone", PATIENCE, || {
        let left = ok(cluster, "get rs,pods -l app=bears -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn deletions_are_waited_for_or_not(cluster: &Cluster) {
    let held = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [zoo.io/keeper]}\n";
    with(cluster, "apply -f -", held).ok();
    let begun = Instant::now();
    let said = cluster.balsa("delete cm held --timeout=1s".split(' '));
    assert_eq!((said.code, said.stdout.as_str()), (1, "configmap \"held\" deleted\n"), "{said}");
    assert!(said.stderr.contains("timed out waiting for the condition on configmap/held"), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // It is marked, and whoever does not wait is not told of an error.
    assert!(ok(cluster, "get cm held -o jsonpath={.metadata.deletionTimestamp}").starts_with("20"));
    assert_eq!(ok(cluster, "delete cm held --wait=false"), "configmap \"held\" deleted\n");
    let mut waiting = Lines::of(cluster, "delete cm held");
    let gone = Lines::of(cluster, "wait cm/held --for=delete --timeout=60s");
    let patch = serde_json::json!({"metadata": {"finalizers": null}});
    let path = "/api/v1/namespaces/default/configmaps/held";
    waiting.until("it is under way", |line| line == "configmap \"held\" deleted");
    assert_eq!(cluster.patch(path, "application/merge-patch+json", &patch).unwrap().code, 200);
    assert!(waiting.end().0.success(), "it is gone");
    assert_eq!(gone.end().1, ["configmap/held condition met"]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: c}]}\n";
    with(cluster, "apply -f -", pod).ok();
    assert_eq!(ok(cluster, "delete pod p --grace-period=0 --force"), "pod \"p\" force deleted\n");
}

fn all_of_a_selection_is_deleted(cluster: &Cluster) {
    with(cluster, "apply -f -", MAPS).ok();
    ok(cluster, "delete cm --all --field-selector metadata.name=west");
    assert_eq!(ok(cluster, "get cm -l of=maps -o name"), "configmap/north\nconfigmap/south\n");
    let said = ok(cluster, "delete cm -A -l of=watch --dry-run");
    assert_eq!(said, "configmap \"first\" deleted (server dry run)\n");
    assert_eq!(ok(cluster, "delete cm -A -l of=watch"), "configmap \"first\" deleted\n");
    let said = ok(cluster, "delete cm --all --field-selector metadata.name!=kube-root-ca.crt");
    assert_eq!(sorted(&said), ["configmap \"north\" deleted", "configmap \"south\" deleted"]);
    assert_eq!(ok(cluster, "get cm -o name"), "configmap/kube-root-ca.crt\n");
}

fn fields_that_do_not_exist_are_passed_over_if_asked(cluster: &Cluster) {
    let odd = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\ndata: {a: '1'}\ndatum: {b: '2'}\n";
    let said = with(cluster, "apply -f -", odd);
    assert!(said.code == 1 && said.stderr.contains("unknown field \"datum\""), "{said}");
    assert!(cluster.balsa(["get", "cm", "odd"]).fails().contains("not found"));
    let said = with(cluster, "apply -f - --validate=warn", odd);
    assert_eq!((said.code, said.stdout.as_str()), (0, "configmap/odd created\n"), "{said}");
    assert!(said.stderr.contains("unknown field \"datum\""), "{said}");
    ok(cluster, "delete cm odd");
    let said = with(cluster, "apply -f - --validate=ignore", odd);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said}");
    assert_eq!(ok(cluster, "get cm odd -o jsonpath={.data}{.datum}"), "{\"a\":\"1\"}");
}
