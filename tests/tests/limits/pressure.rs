//! Many requests at once: who asks for too much waits for themselves, and is told when it is enough.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use balsa_testkit::{Connection, LoneServer, Rest};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::MAPS;

/// How long a noisy user makes noise.
const NOISE: Duration = Duration::from_secs(3);
/// For what controllers do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Far more than a quiet user's request takes beside a noisy one, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(2);

pub(crate) fn server(home: &tempfile::TempDir, more: &[&str]) -> LoneServer {
    LoneServer::start(&home.path().join("data"), more)
}

/// Lets users write ConfigMaps, who are impersonated below.
pub(crate) fn allow(server: &LoneServer, users: &[&str]) {
    let subjects: Vec<Value> = users
        .iter()
        .map(|user| json!({"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}))
        .collect();
    let binding = json!({
        "metadata": {"name": "users"}, "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(server.request(Method::POST, path, &binding).unwrap().code, 201);
}

/// One request as `user`, or as the administrator: the code, and after how long to try again.
async fn ask(
    connection: &mut Connection,
    user: Option<&str>,
    method: Method,
    path: &str,
    body: &Value,
) -> (u16, Option<String>) {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(user) = user {
        request = request.header("impersonate-user", user);
    }
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = connection.exchange(request.body(body).unwrap()).await.unwrap();
    let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), retry)
}

/// Creates objects on many connections at once until told to stop: how often which code was the answer.
async fn make_noise(
    rest: Rest,
    user: Option<&'static str>,
    connections: usize,
    stop: Arc<AtomicBool>,
) -> BTreeMap<u16, usize> {
    let noise = (0..connections).map(|n| {
        let (rest, stop) = (rest.clone(), stop.clone());
        async move {
            let mut codes = BTreeMap::new();
            let mut connection = rest.connect().await.unwrap();
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let body = json!({"metadata": {"name": format!("noise-{n}-{i}")}, "data": {"text": "x".repeat(2000)}});
                let (code, retry) = ask(&mut connection, user, Method::POST, MAPS, &body).await;
                assert!(code != 429 || retry.is_some(), "429 says when to try again");
                *codes.entry(code).or_insert(0) += 1;
            }
            codes
        }
    });
    let mut all = BTreeMap::new();
    for (code, count) in futures::future::join_all(noise).await.into_iter().flatten() {
        *all.entry(code).or_insert(0) += count;
    }
    all
}

pub(crate) fn metric(server: &LoneServer, line: &str) -> f64 {
    let text = server.request(Method::GET, "/metrics", &Value::Null).unwrap().body;
    let lines = text.as_str().unwrap().lines();
    let values = lines.filter_map(|found| found.strip_prefix(line)?.trim().parse::<f64>().ok());
    values.sum()
}

#[test]
fn a_noisy_user_does_not_starve_a_quiet_one() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home, &["--max-mutating-requests-inflight", "4"]);
    allow(&server, &["noisy", "quiet"]);
    let rest = server.rest().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let noise = runtime.spawn(make_noise(rest.clone(), Some("noisy"), 200, stop.clone()));
    let (mut quiet, mut longest) = (0, Duration::ZERO);
    runtime.block_on(async {
        let mut connection = rest.connect().await.unwrap();
        let started = Instant::now();
        while started.elapsed() < NOISE {
            let asked = Instant::now();
            let body = json!({"metadata": {"name": format!("quiet-{quiet}")}});
            let (code, _) = ask(&mut connection, Some("quiet"), Method::POST, MAPS, &body).await;
            assert_eq!(code, 201);
            let (code, _) = ask(&mut connection, Some("quiet"), Method::GET, MAPS, &Value::Null).await;
            assert_eq!(code, 200);
            longest = longest.max(asked.elapsed());
            quiet += 1;
        }
    });
    // The noisy one waits for itself: with the few seats of its level, most of its requests are in its queue.
    let waiting = metric(&server, "apiserver_current_inqueue_requests{request_kind=\"mutating\"}");
    stop.store(true, Ordering::Relaxed);
    let noisy = runtime.block_on(noise).unwrap();
    println!(
        "quiet: {quiet} writes and lists, the longest pair {longest:?}; noisy: {noisy:?}, {waiting} waiting"
    );
    assert!(longest < SOON, "{longest:?}");
    assert!(noisy.contains_key(&201), "{noisy:?}");
    assert!(waiting > 100.0, "{waiting}");
}

#[test]
fn a_full_queue_is_told_and_reads_go_on() {
    let home = tempfile::tempdir().unwrap();
    // Of the log's own queue, in which administrators wait too.
    let server = server(&home, &["--max-pending", "2"]);
    let rest = server.rest().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let noise = runtime.spawn(make_noise(rest.clone(), None, 50, stop.clone()));
    let mut read = 0;
    runtime.block_on(async {
        let mut connection = rest.connect().await.unwrap();
        let started = Instant::now();
        while started.elapsed() < NOISE {
            let (code, _) =
                ask(&mut connection, None, Method::GET, "/api/v1/namespaces/default", &Value::Null).await;
            assert_eq!(code, 200, "reads need no place in the queue");
            read += 1;
        }
    });
    stop.store(true, Ordering::Relaxed);
    let codes = runtime.block_on(noise).unwrap();
    println!("{read} reads beside {codes:?}");
    assert!(codes.contains_key(&429) && codes.contains_key(&201), "{codes:?}");
    assert!(codes.keys().all(|code| [201, 429].contains(code)), "{codes:?}");
    assert!(metric(&server, "balsa_log_proposals_failed_total{reason=\"overloaded\"}") > 0.0);
    // The leader's own work has room beside it.
    assert!(!server.said().contains("was not renewed"), "{}", server.said());
}

#[test]
fn watches_are_limited_user_by_user() {
    let home = tempfile::tempdir().unwrap();
    let server = server(&home, &["--max-watches", "6"]);
    allow(&server, &["noisy", "quiet"]);
    let rest = server.rest().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let watch = async |user: &str| {
            let request = Request::builder().uri(format!("{MAPS}?watch=1")).header("impersonate-user", user);
            rest.stream(request.body(Bytes::new()).unwrap()).await.unwrap()
        };
        let mut held = Vec::new();
        for _ in 0..3 {
            let (parts, watch) = watch("noisy").await;
            assert_eq!(parts.status, 200);
            held.push(watch);
        }
        let (parts, _) = watch("noisy").await;
        assert_eq!(parts.status, 429, "one user has half of them");
        let (parts, _quiet) = watch("quiet").await;
        assert_eq!(parts.status, 200);
        // One that ends makes room.
        held.pop();
        let deadline = Instant::now() + SOON * 5;
        while watch("noisy").await.0.status != 200 {
            assert!(Instant::now() < deadline, "in vain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
