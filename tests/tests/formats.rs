//! What an earlier release wrote is read by this one: a data directory of each format, kept in the
//! repository, is started from and serves what it holds.
//!
//! `golden/formats/NAME.tar.gz` holds `server.json` and `log/` of a server that was killed while it worked
//! (so that its write-ahead log has what its tables do not), and `expected.json`: what it had answered. One
//! is added when a format changes, and none is ever made anew:
//!
//! ```sh
//! BALSA_FORMAT=format-2 cargo test -p balsa-tests --test formats -- --ignored
//! ```
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use balsa_testkit::{LoneServer, root};
use http::Method;
use serde_json::{Map, Value, json};

const NAMESPACE: &str = "/api/v1/namespaces/kept";

fn folder() -> PathBuf {
    root().join("tests/golden/formats")
}

#[track_caller]
fn ask(server: &LoneServer, method: Method, path: &str, body: &Value) -> Value {
    let answer = server.request(method, path, body).unwrap();
    assert!(answer.code < 300, "{path}: {}", answer.body);
    answer.body
}

#[track_caller]
fn tar(arguments: &[&str], directory: &Path) {
    let status = Command::new("tar").args(arguments).current_dir(directory).status().unwrap();
    assert!(status.success(), "tar {arguments:?}");
}

/// Objects that nobody but their owner changes, with their collections.
fn objects() -> Vec<(String, Value)> {
    let core = |plural: &str| format!("{NAMESPACE}/{plural}");
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/kept/roles".to_owned();
    let mut objects = vec![
        (core("secrets"), json!({"metadata": {"name": "secret"}, "stringData": {"key": "value"}})),
        (
            core("services"),
            json!({"metadata": {"name": "service"}, "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}}),
        ),
        (
            rbac,
            json!({"metadata": {"name": "role"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses".to_owned(),
            json!({"metadata": {"name": "kept", "labels": {"shelf": "upper"}}, "provisioner": "example.com/none"}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(),
            json!({"metadata": {"name": "kept"}, "value": 7}),
        ),
    ];
    for n in 0..20 {
        let body = json!({"metadata": {"name": format!("map-{n}"), "labels": {"n": n.to_string()}}, "data": {"text": n.to_string().repeat(50)}});
        objects.push((core("configmaps"), body));
    }
    objects
}

#[test]
fn every_format_that_ever_was_is_read() {
    let archives: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!archives.is_empty());
    for archive in archives {
        let home = tempfile::tempdir().unwrap();
        tar(&["-xzf", &archive.display().to_string()], home.path());
        let expected = std::fs::read_to_string(home.path().join("expected.json")).unwrap();
        let expected: Map<String, Value> = serde_json::from_str(&expected).unwrap();
        assert!(expected.len() > 20, "{}", archive.display());
        // New keys: an archive has none.
        std::fs::create_dir(home.path().join("data/pki")).unwrap();
        let server = LoneServer::start(&home.path().join("data"), &[]);
        for (path, answer) in &expected {
            assert_eq!(
                &ask(&server, Method::GET, path, &Value::Null),
                answer,
                "{}: {path}",
                archive.display()
            );
        }
        // It goes on from there: what is taken is taken, and revisions grow.
        let map = json!({"metadata": {"name": "new"}});
        let written = ask(&server, Method::POST, &format!("{NAMESPACE}/configmaps"), &map);
        let revision = |object: &Value| -> u64 {
            object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
        };
        assert!(expected.values().all(|answer| revision(answer) < revision(&written)));
        let thief = json!({"metadata": {"name": "thief"}, "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}});
        let refused = server.request(Method::POST, &format!("{NAMESPACE}/services"), &thief).unwrap();
        assert_eq!(refused.code, 422, "{}", refused.body);
        server.stop();
    }
}

#[test]
#[ignore = "writes a fixture, once a format"]
fn write_a_fixture() {
    let name = std::env::var("BALSA_FORMAT").expect("BALSA_FORMAT names it");
    let archive = folder().join(format!("{name}.tar.gz"));
    assert!(!archive.exists(), "{} is there, and stays as it is", archive.display());
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = LoneServer::start(&data, &[]);
    ask(&server, Method::POST, "/api/v1/namespaces", &json!({"metadata": {"name": "kept"}}));
    let mut expected = Map::new();
    for (collection, body) in objects() {
        let made = ask(&server, Method::POST, &collection, &body);
        expected.insert(format!("{collection}/{}", made["metadata"]["name"].as_str().unwrap()), Value::Null);
    }
    // A list of then, of which the history tells; after it changes, removals, and a restart in between.
    let maps = format!("{NAMESPACE}/configmaps");
    let listed = ask(&server, Method::GET, &maps, &Value::Null);
    let then = listed["metadata"]["resourceVersion"].as_str().unwrap();
    let past = format!("{maps}?resourceVersion={then}&resourceVersionMatch=Exact");
    for n in 0..5 {
        let path = format!("{maps}/map-{n}");
        let body = json!({"metadata": {"name": format!("map-{n}")}, "data": {"text": "changed"}});
        ask(&server, Method::PUT, &path, &body);
    }
    server.stop();
    let server = LoneServer::start(&data, &[]);
    for n in 5..10 {
        let path = format!("{maps}/map-{n}");
        ask(&server, Method::DELETE, &path, &Value::Null);
        expected.remove(&path);
    }
    for (path, answer) in &mut expected {
        *answer = ask(&server, Method::GET, path, &Value::Null);
    }
    expected.insert(past.clone(), ask(&server, Method::GET, &past, &Value::Null));
    server.kill9();
    std::fs::write(home.path().join("expected.json"), serde_json::to_string(&expected).unwrap()).unwrap();
    std::fs::create_dir_all(folder()).unwrap();
    let archive = archive.display().to_string();
    // RocksDB's own diary and lock are no data.
    let words = [
        "-czf",
        &archive,
        "--exclude=LOG*",
        "--exclude=LOCK",
        "expected.json",
        "data/server.json",
        "data/log",
    ];
    tar(&words, home.path());
}
