//! What takes more than a command: a watch that sees a change, an editor, deletions that are not waited for, and what
//! they leave behind.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use balsa_testkit::{Cluster, Lines, Output, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::Version;

const PATIENCE: Duration = Duration::from_secs(60);

/// A kubectl at work in a namespace of its own.
struct Hand<'a> {
    cluster: &'a Cluster,
    program: &'a Path,
    namespace: String,
}

pub(crate) fn acts(cluster: &Cluster, version: &Version, folder: &Path) {
    let namespace = format!("flows-{}", version.name);
    let hand = Hand { cluster, program: &version.program, namespace };
    hand.cluster.balsa_with(["apply", "-f", "-"], &hand.namespace()).ok();
    a_change_is_watched(&hand);
    an_object_is_edited(&hand, folder);
    a_deletion_is_not_waited_for(&hand);
    dependents_stay_or_go(&hand);
    a_token_ends_with_what_it_is_bound_to(&hand);
    a_secret_holds_a_token_of_its_account(&hand);
    an_ingress_gets_the_default_class(&hand);
    a_claim_that_names_its_class_as_of_old_gets_no_other(&hand);
    a_refused_port_is_paid_once(&hand);
    hand.cluster.balsa_with(["delete", "-f", "-"], &hand.namespace()).ok();
}

impl Hand<'_> {
    fn namespace(&self) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", self.namespace)
    }

    fn run(&self, line: &str) -> Output {
        let line = format!("-n {} {line}", self.namespace);
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.cluster.run_kubectl(self.program, &words)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }
}

fn a_refused_port_is_paid_once(hand: &Hand<'_>) {
    hand.ok("create service nodeport has --tcp=80");
    let port = hand.ok("get service has -o jsonpath={.spec.ports[0].nodePort}");
    hand.ok("create quota paid --hard=services=9");
    let refused = hand.run(&format!("create service nodeport wants --tcp=80 --node-port={port}")).fails();
    assert!(refused.contains("provided port is already allocated"), "{refused}");
    let used = hand.ok("get quota paid -o jsonpath={.status.used.services}");
    assert!(matches!(used.trim(), "1" | "2"), "{used} of 9");
}

fn a_change_is_watched(hand: &Hand<'_>) {
    hand.ok("create configmap seen");
    let line = format!("-n {} get configmap -w --output-watch-events", hand.namespace);
    let mut rows = Lines::of_program(hand.program, hand.cluster, &line);
    let is = |wanted: [&'static str; 3]| move |row: &str| row.split_whitespace().take(3).eq(wanted);
    rows.until("what is there", is(["ADDED", "seen", "0"]));
    hand.ok("patch configmap seen -p {\"data\":{\"a\":\"b\"}}");
    rows.until("the change", is(["MODIFIED", "seen", "1"]));
    hand.ok("create configmap later");
    rows.until("what comes", is(["ADDED", "later", "0"]));
    hand.ok("delete configmap seen");
    rows.until("the end", is(["DELETED", "seen", "1"]));
}

fn a_token_ends_with_what_it_is_bound_to(hand: &Hand<'_>) {
    hand.ok("create serviceaccount bound");
    hand.ok("create secret generic lease --from-literal=a=b");
    let token = hand.ok("create token bound --bound-object-kind=Secret --bound-object-name=lease");
    let is_good = || {
        let review = json!({"spec": {"token": token.trim()}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = hand.cluster.rest().call_now(Method::POST, path, &review).unwrap();
        answer.body.pointer("/status/authenticated").and_then(Value::as_bool).unwrap_or_default()
    };
    assert!(is_good(), "while the secret is there");
    hand.ok("delete secret lease");
    assert!(!is_good(), "after it has gone");
    // Another one of that name is not meant.
    hand.ok("create secret generic lease --from-literal=a=b");
    assert!(!is_good(), "while another secret is there");
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt"});
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/bound/token", hand.namespace);
    let request = json!({"spec": {"boundObjectRef": reference}});
    let refused = hand.cluster.rest().call_now(Method::POST, &path, &request).unwrap();
    assert_eq!(refused.body["message"], "cannot bind token to object of type /v1, Kind=ConfigMap");
}

fn a_secret_holds_a_token_of_its_account(hand: &Hand<'_>) {
    hand.ok("create serviceaccount held");
    let secret = json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": "held",
        "annotations": {"kubernetes.io/service-account.name": "held"}}});
    let path = format!("/api/v1/namespaces/{}/secrets", hand.namespace);
    hand.cluster.rest().call_now(Method::POST, &path, &secret).unwrap();
    let read = || hand.run("get secret held -o go-template={{.data.token|base64decode}}");
    wait_until("the secret holds a token", PATIENCE, || {
        if read().stdout.contains('.') { Ok(()) } else { Err("it holds none".to_owned()) }
    });
    let token = read().ok();
    let review = || {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let asked = json!({"spec": {"token": token}});
        hand.cluster.rest().call_now(Method::POST, path, &asked).unwrap().body["status"].clone()
    };
    let user = format!("system:serviceaccount:{}:held", hand.namespace);
    assert_eq!(review()["user"]["username"], user.as_str());
    let request = format!("--token={token} get --raw /api");
    hand.ok(&request);
    let label = "get secret held -L kubernetes.io/legacy-token-last-used --no-headers";
    wait_until("the secret tells the day of its use", PATIENCE, || {
        let line = hand.ok(label);
        let last = line.split_whitespace().last().unwrap_or_default();
        if last.starts_with("20") && last.len() == "2026-11-29".len() { Ok(()) } else { Err(line) }
    });
    hand.ok("delete secret held");
    assert_eq!(review()["authenticated"], Value::Null, "it is good while the secret is there");
    let refused = hand.run(&request);
    assert!(refused.stderr.contains("You must be logged in to the server"), "{refused:?}");
}

fn a_claim_that_names_its_class_as_of_old_gets_no_other(hand: &Hand<'_>) {
    let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims?dryRun=All", hand.namespace);
    let class_of = |annotations: Value| {
        let claim = json!({"metadata": {"name": "c", "annotations": annotations}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let rest = hand.cluster.rest();
        rest.call_now(Method::POST, &path, &claim).unwrap().body["spec"]["storageClassName"].clone()
    };
    assert_eq!(class_of(json!({})), "local-path");
    assert_eq!(class_of(json!({"volume.beta.kubernetes.io/storage-class": "mine"})), Value::Null);
}

fn an_ingress_gets_the_default_class(hand: &Hand<'_>) {
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let rest = hand.cluster.rest();
    // The last is the newest, or was made in the second of the one before it and is first by name.
    for (letter, is_default) in [("a", "false"), ("c", "true"), ("b", "true")] {
        let mark = json!({"ingressclass.kubernetes.io/is-default-class": is_default});
        let class = json!({"metadata": {"name": format!("{}-{letter}", hand.namespace), "annotations": mark},
            "spec": {"controller": "example.com/nobody"}});
        rest.call_now(Method::POST, classes, &class).unwrap();
    }
    let class_of = |name: &str, annotations: Value| {
        let ingress = json!({"metadata": {"name": name, "annotations": annotations},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{}/ingresses", hand.namespace);
        rest.call_now(Method::POST, &path, &ingress).unwrap().body["spec"]["ingressClassName"].clone()
    };
    assert_eq!(class_of("none", json!({})), format!("{}-b", hand.namespace));
    assert_eq!(class_of("old", json!({"kubernetes.io/ingress.class": "mine"})), Value::Null);
    for letter in ["a", "b", "c"] {
        hand.ok(&format!("delete ingressclass {}-{letter}", hand.namespace));
    }
}

/// A program that changes the file it is given, and keeps a copy of what it was given last.
fn an_object_is_edited(hand: &Hand<'_>, folder: &Path) {
    hand.ok("create configmap edited --from-literal=a=b");
    let edit = |change: &str| {
        let editor = folder.join("editor");
        let script = format!("#!/bin/sh\ncp \"$1\" \"$0.seen\"; sed -i '{change}' \"$1\"\n");
        std::fs::write(&editor, script).unwrap();
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = [("EDITOR", editor.as_path()), ("TMPDIR", folder)];
        let words = ["-n", &hand.namespace, "edit", "configmap", "edited"];
        hand.cluster.program(hand.program, words, &environment)
    };
    let said = edit("s/a: b/a: c/").ok();
    assert!(said.contains("configmap/edited edited"), "{said}");
    assert_eq!(hand.ok("get configmap edited -o jsonpath={.data}"), "{\"a\":\"c\"}");
    // What is wrong is told in the file, which comes again; left as it is, nothing is saved.
    let refused = edit("s/a: c/a b: c/").fails();
    assert!(refused.contains("configmaps \"edited\" is invalid"), "{refused}");
    let seen = std::fs::read_to_string(folder.join("editor.seen")).unwrap();
    assert!(seen.contains("# * data[a b]: Invalid value"), "{seen}");
    assert_eq!(hand.ok("get configmap edited -o jsonpath={.data}"), "{\"a\":\"c\"}");
    let said = edit("s/nothing/at all/");
    assert!(said.code == 0 && said.stderr.contains("Edit cancelled, no changes made."), "{said}");
}

fn a_deletion_is_not_waited_for(hand: &Hand<'_>) {
    hand.ok("create configmap held");
    hand.ok("patch configmap held --type=merge -p {\"metadata\":{\"finalizers\":[\"flows.test/keeper\"]}}");
    let said = hand.run("delete configmap held --timeout=1s");
    assert!(said.code != 0 && said.stderr.contains("timed out waiting"), "who waits is late: {said}");
    let said = hand.ok("delete configmap held --wait=false");
    assert!(said.starts_with("configmap \"held\" deleted"), "{said}");
    assert!(hand.ok("get configmap held -o jsonpath={.metadata.deletionTimestamp}").starts_with("20"));
    let line = format!("-n {} delete configmap held", hand.namespace);
    let mut waiting = Lines::of_program(hand.program, hand.cluster, &line);
    waiting.until("it is under way", |line| line.starts_with("configmap \"held\" deleted"));
    hand.ok("patch configmap held --type=merge -p {\"metadata\":{\"finalizers\":null}}");
    assert!(waiting.end().0.success(), "it is gone");
    assert!(hand.run("get configmap held").fails().contains("not found"));
}

/// A Deployment's set and pods: no node is there to run them, and they are there all the same.
fn dependents_stay_or_go(hand: &Hand<'_>) {
    const BELOW: &str = "get replicasets,pods -l app=shoal -o name";
    const OWNERS: &str =
        "get replicasets -l app=shoal -o jsonpath={.items[*].metadata.ownerReferences[*].kind}";
    let wait = |what: &str, line: &str, is_so: &dyn Fn(&str) -> bool| {
        wait_until(what, PATIENCE, || match hand.run(line).result()? {
            said if is_so(&said) => Ok(said),
            said => Err(said),
        })
    };
    let make = || {
        hand.ok("create deployment shoal --image=registry.test/app:v1 --replicas=2");
        wait("a set and two pods", BELOW, &|said| said.lines().count() == 3)
    };
    let before = make();
    hand.ok("delete deployment shoal --cascade=orphan");
    assert!(hand.run("get deployment shoal").fails().contains("not found"));
    assert_eq!(hand.ok(OWNERS), "", "they belong to nobody");
    assert_eq!(hand.ok(BELOW), before, "they stay");

    assert_eq!(make(), before, "a new one of that name takes them up");
    wait("they are its own", OWNERS, &|said| said == "Deployment");
    hand.ok("delete deployment shoal --cascade=foreground");
    assert_eq!(hand.ok(BELOW), "", "when it is gone, so are they");

    make();
    hand.ok("delete deployment shoal --cascade=background");
    wait("those below go, too", BELOW, &str::is_empty);
}
