//! Past the storage quota only what makes room is taken; below it everything is again.

use std::time::Duration;

use balsa_testkit::{LoneServer, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::MAPS;

const PATIENCE: Duration = Duration::from_secs(30);
const NODES: &str = "/api/v1/nodes";
const QUOTA: &[&str] = &["--storage-quota", "2Mi"];
/// More of these than this exceed it.
const MANY: usize = 60;

fn map(name: &str, bytes: usize) -> Value {
    json!({"metadata": {"name": name}, "data": {"text": "x".repeat(bytes)}})
}

fn code(server: &LoneServer, method: Method, path: &str, body: &Value) -> u16 {
    server.request(method, path, body).unwrap().code
}

fn patch(server: &LoneServer, path: &str, patch: &Value) -> u16 {
    let patch = patch.to_string().into_bytes();
    let answer = server.rest().unwrap().raw_now(Method::PATCH, path, "application/merge-patch+json", patch);
    answer.unwrap().code
}

fn verbose(server: &LoneServer) -> String {
    let answer = server.request(Method::GET, "/readyz?verbose", &Value::Null).unwrap();
    assert_eq!(answer.code, 200, "reads are served: {}", answer.body);
    answer.body.as_str().unwrap().to_owned()
}

/// Creates objects until one is refused; how many there are then, and the refusal.
fn fill(server: &LoneServer) -> (usize, Value) {
    for n in 0..MANY {
        let answer = server.request(Method::POST, MAPS, &map(&format!("full-{n}"), 100 << 10)).unwrap();
        if answer.code != 201 {
            assert_eq!(answer.code, 507, "{}", answer.body);
            return (n, answer.body);
        }
    }
    panic!("{MANY} objects and no refusal: {}", server.said());
}

#[test]
fn a_full_quota_makes_the_cluster_read_only_until_there_is_room() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = LoneServer::start(&data, QUOTA);
    assert!(verbose(&server).contains("[+]storage-quota ok"));
    assert_eq!(code(&server, Method::POST, MAPS, &map("small", 10)), 201);
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}});
    assert_eq!(code(&server, Method::POST, MAPS, &held), 201);
    assert_eq!(code(&server, Method::POST, NODES, &json!({"metadata": {"name": "there"}})), 201);
    let (count, refusal) = fill(&server);

    // Everybody is told, and what to do.
    assert_eq!(refusal["reason"], "InsufficientStorage");
    assert!(refusal["message"].as_str().unwrap().contains("--storage-quota"), "{refusal}");
    assert!(verbose(&server).contains("[!]storage-quota the storage quota is exceeded"));
    assert!(server.balsa(&["status"]).ok().contains("READ-ONLY"));
    let metrics = server.request(Method::GET, "/metrics", &Value::Null).unwrap().body;
    assert!(metrics.as_str().unwrap().contains("balsa_storage_alarm 1"));
    let manifest = home.path().join("map.yaml");
    std::fs::write(&manifest, "{apiVersion: v1, kind: ConfigMap, metadata: {name: by-grpc}}").unwrap();
    let refused = server.balsa(&["apply", "-f", &manifest.display().to_string()]).fails();
    assert!(refused.contains("storage quota"), "{refused}");

    // Nothing grows; what makes room, or none, is taken, and reads are.
    let (small, first) = (format!("{MAPS}/small"), format!("{MAPS}/full-0"));
    assert_eq!(code(&server, Method::PUT, &small, &map("small", 100)), 507);
    assert_eq!(code(&server, Method::PUT, &small, &map("small", 10)), 200);
    assert_eq!(code(&server, Method::GET, &first, &Value::Null), 200);
    // Status is told, or nodes would be taken for dead; and what is on its way out may go.
    let images = json!({"status": {"images": [{"names": ["x".repeat(100)], "sizeBytes": 1}]}});
    assert_eq!(patch(&server, &format!("{NODES}/there/status"), &images), 200);
    assert_eq!(
        patch(&server, &format!("{NODES}/there"), &json!({"spec": {"providerID": "x".repeat(100)}})),
        507
    );
    let held = format!("{MAPS}/held");
    assert_eq!(code(&server, Method::DELETE, &held, &Value::Null), 200);
    assert_eq!(patch(&server, &held, &json!({"metadata": {"finalizers": null}})), 200);
    assert_eq!(code(&server, Method::GET, &held, &Value::Null), 404);

    // It is in the log: a restart knows it.
    server.kill9();
    let server = LoneServer::start(&data, QUOTA);
    assert_eq!(code(&server, Method::POST, MAPS, &map("after-restart", 10)), 507);

    // Nobody has to say so when there is room again. How much had to go depends on how much came in between two
    // looks at the quota.
    assert_eq!(code(&server, Method::DELETE, &first, &Value::Null), 200);
    for n in 1..count {
        assert_eq!(code(&server, Method::DELETE, &format!("{MAPS}/full-{n}"), &Value::Null), 200);
    }
    wait_until("there is room again", PATIENCE, || {
        let answer = server.request(Method::POST, MAPS, &map("again", 10))?;
        if answer.code == 201 { Ok(()) } else { Err(answer.body.to_string()) }
    });
    assert!(verbose(&server).contains("[+]storage-quota ok"));

    // Or a larger quota.
    for n in 0..MANY {
        if code(&server, Method::POST, MAPS, &map(&format!("more-{n}"), 100 << 10)) == 507 {
            break;
        }
    }
    assert_eq!(code(&server, Method::POST, MAPS, &map("too-much", 10)), 507);
    server.stop();
    let server = LoneServer::start(&data, &["--storage-quota", "0"]);
    wait_until("without a quota everything is taken", PATIENCE, || {
        let answer = server.request(Method::POST, MAPS, &map("much", 100 << 10))?;
        if answer.code == 201 { Ok(()) } else { Err(answer.body.to_string()) }
    });
}
