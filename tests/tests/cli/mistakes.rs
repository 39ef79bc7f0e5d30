//! Wrong input: an exit code that is not 0, and a line that says what to do.

use balsa_testkit::{Cluster, Output};

pub(crate) fn are_told(cluster: &Cluster) {
    let head = "metadata: {name: c, namespace: zoo}";
    let cases: &[(&str, String, i32, &str)] = &[
        // What fingers type wrong.
        ("get", String::new(), 1, "say what: a type (`pods`)"),
        ("get podz", String::new(), 1, "doesn't have a resource type \"podz\"; `balsa api-resources` lists"),
        ("get pod nobody -n zoo", String::new(), 1, "pods \"nobody\" not found"),
        ("get pod parrot -A", String::new(), 1, "name its namespace with -n"),
        ("get pods -o tabel", String::new(), 2, "there are wide, yaml, json, name, jsonpath=EXPRESSION"),
        ("get pods -l app=(", String::new(), 1, "found '('"),
        ("gte pods", String::new(), 2, "unrecognized subcommand 'gte'"),
        ("delete pods -n zoo", String::new(), 1, "name them, or select with -l or --all"),
        ("scale svc/keeper -n zoo --replicas=2", String::new(), 1, "services have no replicas"),
        ("scale deploy/keeper -n zoo --replicas=-1", String::new(), 2, "-1 is not in 0.."),
        ("logs parrot -n zoo -c nobody", String::new(), 1, "it has parrot"),
        ("logs parrot -n zoo --since=soon", String::new(), 1, "write it like 30s, 5m or 1h30m"),
        ("exec parrot -n zoo", String::new(), 2, "<COMMAND>"),
        ("wait pod/parrot -n zoo --for=happy", String::new(), 1, "there are condition=NAME"),
        ("wait pod/parrot -n zoo --for=condition=Happy --timeout=1s", String::new(), 1, "timed out"),
        ("token create --ttl=0s", String::new(), 1, "must end some time after now"),
        // What manifests have wrong.
        ("apply -f -", String::new(), 1, "no objects passed: name a manifest"),
        ("apply -f /nowhere.yaml", String::new(), 1, "/nowhere.yaml: No such file"),
        ("apply -f -", "kind: ConfigMap".to_owned(), 1, "apiVersion not set"),
        (
            "apply -f -",
            "apiVersion: v1\nkind: Podd\nmetadata: {name: a}".to_owned(),
            1,
            "no matches for kind \"Podd\"",
        ),
        (
            "apply -f -",
            format!("apiVersion: v1\nkind: ConfigMap\n{head}\ndata: {{a: \"open"),
            1,
            "standard input",
        ),
        (
            "apply -f -",
            format!("apiVersion: v1\nkind: ConfigMap\n{head}\ndatas: {{}}"),
            1,
            "unknown field \"datas\"",
        ),
        (
            "apply -f -",
            format!("apiVersion: v1\nkind: ConfigMap\n{head}\ndata: {{a: 1}}"),
            1,
            "of type string",
        ),
        (
            "apply -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name, namespace: zoo}".to_owned(),
            1,
            "metadata.name: Invalid value: \"Bad_Name\"",
        ),
        (
            "apply -n default -f -",
            format!("apiVersion: v1\nkind: ConfigMap\n{head}"),
            1,
            "pass --namespace=zoo",
        ),
    ];
    let mut wrong = Vec::new();
    for (line, input, code, text) in cases {
        let said = cluster.balsa_with(line.split_whitespace(), input);
        if said.code != *code || !said.stderr.contains(text) || !said.stdout.is_empty() {
            wrong.push(format!("want {code} and {text:?}, got {said}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    others_are_applied_all_the_same(cluster);
}

/// One bad document keeps none of the others from being applied, and the command fails.
fn others_are_applied_all_the_same(cluster: &Cluster) {
    let good =
        |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: zoo}}\n");
    let text = format!("{}---\n{}---\n{}", good("one"), good("Bad_Name"), good("two"));
    let Output { code, stdout, stderr, .. } = cluster.balsa_with(["apply", "-f", "-"], &text);
    assert_eq!((code, stdout.as_str()), (1, "configmap/one created\nconfigmap/two created\n"), "{stderr}");
    assert!(stderr.contains("configmap/Bad_Name: "), "{stderr}");
}
