//! A server by itself: what it logs for a log shipper, and how it ends while somebody watches.

use std::time::{Duration, Instant};

use balsa_testkit::{LoneServer, Watch};
use http::Method;
use serde_json::{Value, json};

/// Far more than it takes, on a machine that does other things too; less than the five seconds for which a server waits
/// for requests that do not end.
const SOON: Duration = Duration::from_secs(4);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn a_log_in_json_is_json_line_by_line() {
    let home = tempfile::tempdir().unwrap();
    let (data, json) = (home.path().join("data"), &["--log-format", "json"]);
    let mut server = LoneServer::start(&data, json);
    // One that cannot start says so in the same form.
    let mut second = LoneServer::spawn(&data, json, &[]);
    assert!(!second.ends().success(), "there is one on this directory already");
    server.stops();

    let log = server.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "no {field}: {line}");
        }
        assert!(["ERROR", "WARN", "INFO"].contains(&line["level"].as_str().unwrap()), "{line}");
    }
    let told = |what: &str| lines.iter().find(|line| line["message"].as_str().unwrap().contains(what));
    let answers = told("the server answers").expect(&log);
    assert!(
        answers["address"].is_string() && answers["kubeconfig"].is_string(),
        "fields of their own: {answers}"
    );
    assert_eq!(told("already").expect(&log)["level"], "ERROR");
}

#[test]
fn watches_end_when_a_server_is_asked_to_stop() {
    let home = tempfile::tempdir().unwrap();
    let mut server = LoneServer::start(&home.path().join("data"), &[]);
    let rest = server.rest().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut watches: Vec<Watch> = Vec::new();
    for path in [MAPS, "/api/v1/pods", "/apis/apps/v1/deployments"] {
        watches.push(runtime.block_on(rest.watch(&format!("{path}?watch=1"))).unwrap());
    }
    let made = server.request(Method::POST, MAPS, &json!({"metadata": {"name": "the-last"}})).unwrap();
    assert_eq!(made.code, 201, "{}", made.body);

    let asked = Instant::now();
    server.stops();
    assert!(asked.elapsed() < SOON, "it waited for its watches: {:?}", asked.elapsed());
    let mut told = Vec::new();
    for mut watch in watches {
        // Every event whole, and then the end, not a connection that breaks.
        let rest = async {
            while let Some(event) = watch.next().await? {
                told.push(event["object"]["metadata"]["name"].clone());
            }
            anyhow::Ok(())
        };
        runtime.block_on(async { tokio::time::timeout(SOON, rest).await }).unwrap().unwrap();
    }
    assert!(told.contains(&"the-last".into()), "{told:?}");
}
