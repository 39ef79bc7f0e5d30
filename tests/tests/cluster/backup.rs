//! A backup leads back to any revision that its history holds.

use balsa_testkit::LoneServer;
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

#[track_caller]
fn ask(server: &LoneServer, method: Method, path: &str, body: &Value) -> Value {
    let answer = server.request(method, path, body).unwrap();
    assert!(answer.code < 300, "{path}: {}", answer.body);
    answer.body
}

fn map(name: &str, text: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"text": text}})
}

fn service(name: &str, address: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

/// An object without what a change of it changes by itself.
fn bare(mut object: Value) -> Value {
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    object
}

#[test]
fn a_backup_leads_back_to_an_earlier_revision() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let server = LoneServer::start(&home.path().join("data"), &[]);
    ask(&server, Method::POST, MAPS, &map("changed", "before"));
    let lost = ask(&server, Method::POST, MAPS, &map("lost", "before"));
    let owner = ask(&server, Method::POST, SERVICES, &service("owner", &Value::Null));
    let changed = ask(&server, Method::GET, &format!("{MAPS}/changed"), &Value::Null);
    let then = ask(&server, Method::GET, MAPS, &Value::Null)["metadata"]["resourceVersion"].clone();
    let then = then.as_str().unwrap();

    // The address goes to another Service, and a name to another object.
    ask(&server, Method::PUT, &format!("{MAPS}/changed"), &map("changed", "after"));
    ask(&server, Method::DELETE, &format!("{MAPS}/lost"), &Value::Null);
    ask(&server, Method::POST, MAPS, &map("lost", "after"));
    ask(&server, Method::POST, MAPS, &map("new", "after"));
    ask(&server, Method::DELETE, &format!("{SERVICES}/owner"), &Value::Null);
    ask(&server, Method::POST, SERVICES, &service("heir", &owner["spec"]["clusterIP"]));
    let now = ask(&server, Method::GET, MAPS, &Value::Null)["metadata"]["resourceVersion"].clone();
    let now: u64 = now.as_str().unwrap().parse().unwrap();
    let file = path("backup");
    let told = server.balsa(&["backup", "save", &file]).ok();
    assert!(told.contains("back to revision 0"), "{told}");
    let device = server.balsa(&["backup", "save", "/dev/null"]);
    assert!(device.stderr.contains("no regular file"), "{device:?}");
    server.stop();

    // What the history does not hold is refused, and leaves nothing that looks like a cluster.
    let restored = path("restored");
    let restore = |revision: &str| {
        let words = ["backup", "restore", &file, "--data-dir", &restored, "--revision", revision];
        std::process::Command::new(balsa_testkit::balsa()).args(words).output().unwrap()
    };
    let refused = restore("999999");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("out of reach"), "{said}");
    // What was cut off in the middle is not taken for a cluster either, and does not stand in the way.
    let half = std::path::Path::new(&restored);
    std::fs::create_dir_all(half.join("log/db")).unwrap();
    std::fs::write(half.join("restoring"), "").unwrap();
    let words = ["server", "--data-dir", &restored, "--port", "0"];
    let unfinished = std::process::Command::new(balsa_testkit::balsa()).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&unfinished.stderr).into_owned();
    assert!(!unfinished.status.success() && said.contains("did not finish"), "{said}");
    let back = restore(then);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));

    let server = LoneServer::start(restored.as_ref(), &[]);
    for (path, before) in [("lost", lost), ("changed", changed)] {
        let found = ask(&server, Method::GET, &format!("{MAPS}/{path}"), &Value::Null);
        let revision: u64 = found["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > now, "revisions only grow: {revision}");
        assert_eq!(bare(found), bare(before));
    }
    let found = ask(&server, Method::GET, &format!("{SERVICES}/owner"), &Value::Null);
    assert_eq!(bare(found), bare(owner.clone()));
    for gone in [format!("{MAPS}/new"), format!("{SERVICES}/heir")] {
        assert_eq!(server.request(Method::GET, &gone, &Value::Null).unwrap().code, 404, "{gone}");
    }
    // The address has an owner again.
    let thief = service("thief", &owner["spec"]["clusterIP"]);
    assert_eq!(server.request(Method::POST, SERVICES, &thief).unwrap().code, 422);
}
