//! What options do to what is printed and written, on a server alone: nothing here needs a node.

use balsa_testkit::{Cluster, Lines, Options, Output, has_kubectl, wait_until};
use serde_json::Value;

use crate::{PATIENCE, dry_run, ok, web};

const ZOO: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: cage-10, labels: {animal: owl, zoo.io/house: north}}
data: {rooms: 1500m}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cage-9, labels: {animal: bear}}
data: {rooms: '12'}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: feeder}
spec:
  replicas: 1
  selector: {matchLabels: {app: feeder}}
  template:
    metadata: {labels: {app: feeder}}
    spec: {containers: [{name: feeder, image: feeder}]}
";

#[test]
fn options_do_what_fingers_expect() {
    let cluster = Cluster::start(Options::nodes(0));
    applied_objects_are_shown(&cluster);
    the_server_merges(&cluster);
    what_a_client_applied_becomes_the_servers(&cluster);
    lists_are_sorted_and_have_other_columns(&cluster);
    workloads_are_scaled(&cluster);
    events_have_all_forms(&cluster);
    types_are_listed(&cluster);
    what_is_described_reads_like_kubectl(&cluster);
    what_a_manifest_names_is_watched(&cluster);
    who_set_a_field_is_shown_if_asked(&cluster);
    dry_run::nothing_is_sent(&cluster, ZOO);
    web::manifests_are_fetched(&cluster);
    cluster.down();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn apply(cluster: &Cluster, options: &str, manifest: &str) -> Output {
    cluster.balsa_with(["apply", "-f", "-"].into_iter().chain(options.split_whitespace()), manifest)
}

fn applied_objects_are_shown(cluster: &Cluster) {
    assert_eq!(apply(cluster, "-l animal=owl", ZOO).ok(), "configmap/cage-10 created\n");
    assert_eq!(
        apply(cluster, "-o name", ZOO).ok(),
        "configmap/cage-10\nconfigmap/cage-9\ndeployment.apps/feeder\n"
    );
    let one = json(&apply(cluster, "-l animal=bear -o json", ZOO).ok());
    assert_eq!((one["kind"].as_str(), &one["data"]["rooms"]), (Some("ConfigMap"), &"12".into()));
    let all: Value = serde_yaml_ng::from_str(&apply(cluster, "-o yaml", ZOO).ok()).unwrap();
    assert_eq!((all["kind"].as_str(), all["items"].as_array().map(Vec::len)), (Some("List"), Some(3)));
    assert!(apply(cluster, "-l animal=yeti", ZOO).fails().contains("no objects passed to apply"));
    let unnamed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: cage-}";
    assert_eq!(
        apply(cluster, "", unnamed).fails(),
        "error: from cage-: cannot use generate name with apply\n"
    );
}

fn the_server_merges(cluster: &Cluster) {
    let sign = |text: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: sign}}\ndata: {{text: {text}}}\n")
    };
    assert!(
        apply(cluster, "--force-conflicts", &sign("a")).fails().contains("only works with --server-side")
    );
    let dry = "configmap/sign serverside-applied (server dry run)\n";
    assert_eq!(apply(cluster, "--server-side --dry-run=server", &sign("a")).ok(), dry);
    assert!(cluster.balsa(["get", "cm", "sign"]).fails().contains("not found"));
    let applied = "configmap/sign serverside-applied\n";
    assert_eq!(apply(cluster, "--server-side", &sign("a")).ok(), applied);
    let said = apply(cluster, "--server-side --field-manager=guest", &sign("b")).fails();
    assert!(said.contains("conflict with \"balsa\"") && said.contains("--force-conflicts"), "{said}");
    let forced = "--server-side --field-manager=guest --force-conflicts";
    assert_eq!(apply(cluster, forced, &sign("b")).ok(), applied);
    assert_eq!(ok(cluster, "get cm sign -o jsonpath={.data.text}"), "b");
}

/// Fields that left the manifest leave the object, also where it was applied by a client before.
fn what_a_client_applied_becomes_the_servers(cluster: &Cluster) {
    let board = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: board}}\ndata: {{{data}}}\n")
    };
    let managers = || {
        let object = json(&ok(cluster, "get cm board -o json"));
        let managed = cluster.read("/api/v1/namespaces/default/configmaps/board").unwrap();
        let managed = managed["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut who: Vec<_> =
            managed.iter().map(|entry| (text(&entry["manager"]), text(&entry["operation"]))).collect();
        who.sort();
        (who, object["data"].clone(), object["metadata"]["annotations"].clone())
    };
    apply(cluster, "", &board("a: '1', b: '2'")).ok();
    let (who, ..) = managers();
    assert_eq!(who, [("balsa-client-side-apply".to_owned(), "Update".to_owned())]);
    apply(cluster, "--server-side", &board("a: '1'")).ok();
    let (who, data, annotations) = managers();
    assert_eq!(who, [("balsa".to_owned(), "Apply".to_owned())]);
    assert_eq!(data, serde_json::json!({"a": "1"}), "what left the manifest has left the object");
    assert!(annotations.as_object().is_none_or(serde_json::Map::is_empty), "{annotations}");
}

fn lists_are_sorted_and_have_other_columns(cluster: &Cluster) {
    let cages = "get cm -l animal -o name --sort-by";
    assert_eq!(ok(cluster, &format!("{cages} .metadata.name")), "configmap/cage-9\nconfigmap/cage-10\n");
    assert_eq!(ok(cluster, &format!("{cages} {{.data.rooms}}")), "configmap/cage-10\nconfigmap/cage-9\n");
    assert!(cluster.balsa("get cm --sort-by=.nothing".split(' ')).fails().contains("--sort-by"));
    let columns =
        "get cm -l animal -o custom-columns=NAME:.metadata.name,LIGHT:.data.light,ROOMS:.data.rooms";
    assert_eq!(
        ok(cluster, columns),
        "NAME      LIGHT    ROOMS\ncage-10   <none>   1500m\ncage-9    <none>   12\n"
    );
    let said = ok(cluster, "get cm cage-9 cage-10 -L animal,zoo.io/house --show-kind");
    let rows: Vec<Vec<&str>> = said.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "DATA", "AGE", "ANIMAL", "HOUSE"]);
    assert_eq!((rows[1][0], rows[1][3], rows[2][4]), ("configmap/cage-9", "bear", "north"));
    let said = cluster.balsa("get cm cage-9 nothing cage-10 -o name".split(' '));
    assert_eq!((said.code, said.stdout.as_str()), (1, "configmap/cage-9\nconfigmap/cage-10\n"));
    assert!(said.stderr.contains("configmaps \"nothing\" not found"), "{said}");

    // A page at a time is all of it, and in the same order.
    let all = ok(cluster, "get cm,deploy -A -o name --chunk-size=0");
    assert!(all.lines().count() > 3, "{all}");
    assert_eq!(ok(cluster, "get cm,deploy -A -o name --chunk-size=1"), all);

    let mut documents = Lines::of(cluster, "get cm -l animal -w -o yaml");
    documents.until("the first", |line| line == "  name: cage-10");
    documents.until("the next", |line| line == "---");
}

fn workloads_are_scaled(cluster: &Cluster) {
    let mut changes = Lines::of(cluster, "get deploy feeder -w -o json");
    changes.until("what is there", |line| line.trim() == "\"replicas\": 1,");
    assert_eq!(ok(cluster, "scale deploy --all --replicas=2"), "deployment.apps/feeder scaled\n");
    changes.until("the change", |line| line.trim() == "\"replicas\": 2,");
    assert_eq!(ok(cluster, "scale deploy/feeder --replicas=3 -o name"), "deployment.apps/feeder\n");
    let manifest = ZOO.rsplit_once("---").map_or(ZOO, |(_, deployment)| deployment);
    let words = "scale -f - --replicas=0 --current-replicas=3 -o jsonpath={.spec.replicas}";
    assert_eq!(cluster.balsa_with(words.split(' '), manifest).ok(), "0");
    let scale = json(&ok(cluster, "get deploy feeder --subresource=scale -o json"));
    assert_eq!((scale["kind"].as_str(), &scale["spec"]["replicas"]), (Some("Scale"), &0.into()));
    assert_eq!(scale["status"]["selector"], "app=feeder");
    let table = ok(cluster, "get deploy --subresource=scale --no-headers");
    assert_eq!(table.split_whitespace().take(2).collect::<Vec<_>>(), ["feeder", "0"]);
    assert!(ok(cluster, "get deploy feeder --subresource=status -o yaml").contains("\nstatus:"));
    for (line, why) in [
        ("get cm cage-9 --subresource=scale", "configmaps have no scale"),
        ("get cm cage-9 --subresource=status", "configmaps have no status of their own"),
        ("get deploy --subresource=scale -w", "--watch and --subresource do not go together"),
    ] {
        assert!(cluster.balsa(line.split(' ')).fails().contains(why), "{line}");
    }
    let said = cluster.balsa("scale deploy/nobody deploy/feeder --replicas=1".split(' '));
    assert_eq!((said.code, said.stdout.as_str()), (1, "deployment.apps/feeder scaled\n"));
    assert!(said.stderr.contains("\"nobody\" not found"), "{said}");
    for (line, why) in [
        ("scale deploy --replicas=1", "no name was specified"),
        ("scale deploy -l app=nobody --replicas=1", "no objects passed to scale"),
        ("scale deploy/feeder --replicas=1 --current-replicas=7", "Expected replicas to be 7, was 1"),
    ] {
        assert!(cluster.balsa(line.split(' ')).fails().contains(why), "{line}");
    }
}

fn events_have_all_forms(cluster: &Cluster) {
    let about = "events --for deploy/feeder";
    let list = json(&ok(cluster, &format!("{about} -o json")));
    assert_eq!((list["kind"].as_str(), list["items"][0]["kind"].as_str()), (Some("List"), Some("Event")));
    let said = ok(cluster, &format!("{about} -o name"));
    assert!(!said.is_empty() && said.lines().all(|line| line.starts_with("event/feeder.")), "{said}");
    let mut objects = Lines::of(cluster, &format!("{about} -w -o json"));
    objects.until("one that has happened", |line| line.contains("\"reason\": \"ScalingReplicaSet\""));
    ok(cluster, "scale deploy/feeder --replicas=5");
    objects.until("one that happens", |line| line.contains("from 1 to 5"));
    let said = cluster.balsa("events -n kube-public -o json".split(' '));
    assert_eq!(said.stderr, "No events found in kube-public namespace.\n");
}

fn types_are_listed(cluster: &Cluster) {
    let said = ok(cluster, "api-resources --api-group=apps -o name");
    assert!(
        said.starts_with("controllerrevisions.apps\n") && said.contains("\ndeployments.apps\n"),
        "{said}"
    );
    let said = ok(cluster, "api-resources --namespaced --api-group= -o wide");
    let heading: Vec<&str> = said.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(heading[5..], ["VERBS", "CATEGORIES"]);
    let pods = said.lines().find(|row| row.starts_with("pods ")).unwrap();
    assert!(pods.contains("create,delete,deletecollection,get,list,patch,update,watch"), "{pods}");
    assert!(pods.ends_with(" all") && !said.contains("\nnodes "), "{said}");
    let said =
        ok(cluster, "api-resources --categories=all --verbs=list,deletecollection --sort-by=kind -o name");
    let names: Vec<&str> = said.lines().collect();
    assert!(names.starts_with(&["cronjobs.batch", "daemonsets.apps", "deployments.apps"]), "{said}");
    assert!(names.contains(&"pods") && !names.contains(&"configmaps"), "{said}");
    let said = ok(cluster, "api-resources --sort-by=name -o name");
    let names: Vec<&str> = said.lines().filter_map(|name| name.split('.').next()).collect();
    assert!(names.is_sorted() && names.len() > 20, "{said}");
    assert_eq!(ok(cluster, "api-resources --verbs=fly -o name"), "");
}

/// What kubectl says of them, but for the time zone and spaces at the ends of lines.
fn what_is_described_reads_like_kubectl(cluster: &Cluster) {
    if !has_kubectl() {
        println!("there is no kubectl here to compare descriptions with");
        return;
    }
    apply(cluster, "", include_str!("everything.yaml")).ok();
    let pod = ok(cluster, "get pods -l app=feeder -o jsonpath={.items[0].metadata.name}");
    let told = |text: String| {
        let lines = text.lines().map(str::trim_end).filter(|line| !line.starts_with("CreationTimestamp"));
        lines.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    for what in [
        &format!("pod {pod}"),
        "pod everything",
        "deploy feeder",
        "svc kubernetes",
        "cm cage-9",
        "cm drawer",
        "secret drawer",
    ] {
        wait_until("balsa describes as kubectl does", PATIENCE, || {
            let ours = told(ok(cluster, &format!("describe {what} --show-events=false")));
            let kubectl = format!("describe {what} --show-events=false");
            let wanted = told(cluster.kubectl(kubectl.split(' ')).ok());
            // Controllers may have been at work between the two.
            if ours == wanted { Ok(()) } else { Err(format!("{ours}\nkubectl:\n{wanted}")) }
        });
    }
    let said = ok(cluster, "describe deploy feeder");
    assert!(said.contains("Events:\n  Type    Reason") && said.contains("ScalingReplicaSet"), "{said}");
    let said = ok(cluster, "describe cm cage-9");
    assert!(
        said.starts_with("Name:         cage-9\nNamespace:    default\nLabels:       animal=bear\n"),
        "{said}"
    );
}

fn what_a_manifest_names_is_watched(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let (all, one) = (folder.path().join("zoo.yaml"), folder.path().join("owl.yaml"));
    std::fs::write(&all, ZOO).unwrap();
    std::fs::write(&one, ZOO.split("---").next().unwrap()).unwrap();
    let words = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut rows = Lines::of(cluster, &format!("get -f {} -w", one.display()));
    let mut maps = Lines::of(cluster, &format!("get -f {} --watch-only -o json", one.display()));
    rows.until("what is there", |row| words(row)[..2] == ["cage-10", "1"]);
    // A change is seen whenever it is made, but one that was made before the watch began.
    let path = "/api/v1/namespaces/default/configmaps/cage-10";
    let add = |name: &str| {
        let patch = serde_json::json!({"data": {name: "1"}});
        assert_eq!(cluster.patch(path, "application/merge-patch+json", &patch).unwrap().code, 200);
    };
    add("light");
    rows.until("the change", |row| words(row)[..2] == ["cage-10", "2"]);
    let said = cluster.balsa(["get", "-w", "-f", &all.to_string_lossy()]).fails();
    assert!(said.contains("the manifests name several"), "{said}");
    drop(rows);
    ok(cluster, "delete cm cage-10");
    maps.until("its end", |line| line.trim() == "\"name\": \"cage-10\",");
}

fn who_set_a_field_is_shown_if_asked(cluster: &Cluster) {
    let managed = |options: &str| {
        json(&ok(cluster, &format!("get cm cage-9 -o json {options}")))["metadata"]["managedFields"].clone()
    };
    assert_eq!(managed(""), Value::Null);
    assert_eq!(managed("--show-managed-fields")[0]["manager"], "balsa-client-side-apply");
    let mut watched = Lines::of(cluster, "get cm cage-9 -w -o yaml --show-managed-fields");
    watched.until("who", |line| line.trim() == "manager: balsa-client-side-apply");
}
