//! Flow schemas and priority levels: requests go where they say, and each level has its part.

use std::collections::BTreeMap;

use balsa_testkit::{LoneServer, Rest, wait_until};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::MAPS;
use crate::pressure::{PATIENCE, allow, metric, server};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// What a schema or a level is, with its uid.
fn read(server: &LoneServer, resource: &str, name: &str) -> Value {
    wait_until(&format!("{resource} {name}"), PATIENCE, || {
        let path = format!("{GROUP}/{resource}/{name}");
        let answer = server.request(Method::GET, &path, &Value::Null).map_err(|error| error.to_string())?;
        if answer.code == 200 { Ok(answer.body) } else { Err(answer.body.to_string()) }
    })
}

fn create(server: &LoneServer, resource: &str, object: &Value) -> (u16, Value) {
    let answer = server.request(Method::POST, &format!("{GROUP}/{resource}"), object).unwrap();
    (answer.code, answer.body)
}

/// A schema that sends all that a user does to a level.
fn schema(user: &str, level: &str) -> Value {
    json!({"metadata": {"name": user}, "spec": {
        "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level},
        "rules": [{
            "subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                "clusterScope": true, "namespaces": ["*"]}],
        }],
    }})
}

/// The schema and the level that an answer names.
async fn told(rest: &Rest, user: &str, path: &str) -> (u16, [String; 2]) {
    let mut request = Request::builder().uri(path);
    if !user.is_empty() {
        request = request.header("impersonate-user", user);
    }
    let mut connection = rest.connect().await.unwrap();
    let answer = connection.exchange(request.body(Bytes::new()).unwrap()).await.unwrap();
    let header =
        |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let names = ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];
    (answer.status().as_u16(), names.map(header))
}

#[test]
fn requests_go_to_the_level_that_their_schema_names() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home, &["--max-mutating-requests-inflight", "40"]);
    allow(&server, &["slow", "kim"]);
    let (rest, runtime) = (server.rest().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let uids = |schema: &str, level: &str| {
        let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
        [uid(read(&server, "flowschemas", schema)), uid(read(&server, "prioritylevelconfigurations", level))]
    };
    for (user, path, schema, level, code) in [
        ("", MAPS, "exempt", "exempt", 200),
        ("kim", MAPS, "global-default", "global-default", 200),
        ("kim", "/readyz", "probes", "exempt", 200),
        ("kim", "/api/v1/nodes", "global-default", "global-default", 403),
    ] {
        let answered = runtime.block_on(told(&rest, user, path));
        assert_eq!(answered, (code, uids(schema, level)), "{user} {path}");
    }

    // A schema whose level is not there says so, and takes nothing.
    assert_eq!(create(&server, "flowschemas", &schema("slow", "narrow")).0, 201);
    is_dangling(&server, "True");
    assert_eq!(runtime.block_on(told(&rest, "slow", MAPS)).1, uids("global-default", "global-default"));
    let narrow = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    assert_eq!(create(&server, "prioritylevelconfigurations", &narrow).0, 201);
    is_dangling(&server, "False");
    assert_eq!(runtime.block_on(told(&rest, "slow", MAPS)).1, uids("slow", "narrow"));

    // One write at a time, and whoever comes beside it is refused; others go on.
    let codes = runtime.block_on(many(&rest, "slow"));
    assert!(codes.contains_key(&201) && codes.contains_key(&429), "{codes:?}");
    assert_eq!(runtime.block_on(many(&rest, "kim")).keys().collect::<Vec<_>>(), [&201]);
    let counted = |line: &str| metric(&server, line);
    let refused = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"narrow\",flow_schema=\"slow\",reason=\"concurrency-limit\"}";
    assert!(counted(refused) > 0.0);
    let worked = "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"global-default\",flow_schema=\"global-default\"}";
    assert!(counted(worked) >= 40.0);
    // Of 400 reads and 40 writes, one part of 246 each, rounded up.
    assert_eq!(counted("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"narrow\"}"), 3.0);
}

fn is_dangling(server: &LoneServer, status: &str) {
    wait_until(&format!("dangling: {status}"), PATIENCE, || {
        let schema = read(server, "flowschemas", "slow");
        let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
        match conditions.iter().any(|c| c["type"] == "Dangling" && c["status"] == status) {
            true => Ok(()),
            false => Err(schema["status"].to_string()),
        }
    });
}

/// Forty creates at once: how often which code was the answer.
async fn many(rest: &Rest, user: &str) -> BTreeMap<u16, usize> {
    let asked = (0..40).map(|n| async move {
        let body = json!({"metadata": {"name": format!("{user}-{n}")}}).to_string();
        let request = Request::builder().method(Method::POST).uri(MAPS).header("impersonate-user", user);
        let request = request.header("content-type", "application/json").body(Bytes::from(body)).unwrap();
        let mut connection = rest.connect().await.unwrap();
        connection.exchange(request).await.unwrap().status().as_u16()
    });
    let mut codes = BTreeMap::new();
    for code in futures::future::join_all(asked).await {
        *codes.entry(code).or_insert(0) += 1;
    }
    codes
}

#[test]
fn what_every_cluster_must_have_stays_or_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home, &[]);
    for (resource, name) in [("flowschemas", "catch-all"), ("prioritylevelconfigurations", "exempt")] {
        let mut object = read(&server, resource, name);
        let spec = &mut object["spec"];
        if resource == "flowschemas" {
            spec["matchingPrecedence"] = 9.into();
        } else {
            spec["type"] = "Limited".into();
        }
        let path = format!("{GROUP}/{resource}/{name}");
        let refused = server.request(Method::PUT, &path, &object).unwrap();
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains("must equal the fixed value"));
        let uid = object["metadata"]["uid"].clone();
        assert_eq!(server.request(Method::DELETE, &path, &Value::Null).unwrap().code, 200);
        wait_until(&format!("{name} is there again"), PATIENCE, || {
            let again = read(&server, resource, name);
            if again["metadata"]["uid"] == uid { Err("not yet".to_owned()) } else { Ok(()) }
        });
    }
}

#[test]
fn parts_of_the_control_plane_tell_how_they_are() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home, &[]);
    let (rest, runtime) = (server.rest().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let ask = async |path: &str| {
        let mut connection = rest.connect().await.unwrap();
        let request = Request::builder().uri(path).body(Bytes::new()).unwrap();
        let answer = connection.exchange(request).await.unwrap();
        let warning = answer.headers().get("warning").map(|value| value.to_str().unwrap().to_owned());
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        (answer.status().as_u16(), warning, body)
    };
    let (code, warning, list) = runtime.block_on(ask("/api/v1/componentstatuses"));
    assert_eq!((code, &list["kind"]), (200, &json!("ComponentStatusList")));
    assert_eq!(warning.as_deref(), Some("299 - \"v1 ComponentStatus is deprecated in v1.19+\""));
    let items = list["items"].as_array().unwrap();
    let names: Vec<&str> = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    assert!(items.iter().all(|item| item["conditions"] == healthy), "{list}");
    let (code, _, one) = runtime.block_on(ask("/api/v1/componentstatuses/scheduler"));
    assert_eq!((code, &one["kind"], &one["conditions"]), (200, &json!("ComponentStatus"), &healthy));
    assert_eq!(runtime.block_on(ask("/api/v1/componentstatuses/nobody")).0, 404);
}
