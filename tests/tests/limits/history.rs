//! The history ends somewhere: whoever wants to go on from before is told so, by every way in, and clients
//! that follow list again.

use std::time::{Duration, Instant};

use balsa_testkit::{Cluster, Options, Watch};
use futures::TryStreamExt as _;
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::MAPS;

const PATIENCE: Duration = Duration::from_secs(60);
const HISTORY: &[&str] = &["--history-changes", "50"];
/// Without what controllers put there.
const OURS: &str = "/api/v1/namespaces/default/configmaps?labelSelector=of%3Dhistory";
/// Far more changes than are kept.
const MANY: usize = 150;

#[test]
fn what_is_no_longer_known_is_told_and_clients_list_again() {
    let mut cluster = Cluster::start(Options::nodes(0).with(HISTORY));
    let runtime = Runtime::new().unwrap();
    create(&cluster, &["first", "second"]);
    runtime.block_on(what_never_was_is_told_at_once(&cluster));
    let all = cluster.read(OURS).unwrap();
    let start = all["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // Of another revision: a list that is read in pages is remembered.
    create(&cluster, &["third"]);
    let page = cluster.read(&format!("{OURS}&limit=1")).unwrap();
    let follower = runtime.block_on(Follower::at_the_end_of_its_list(&cluster));

    // What is kept is told from there on.
    runtime.block_on(change(&cluster, 10));
    assert_eq!(runtime.block_on(first_event(&cluster, &start))["type"], "ADDED", "the third");
    runtime.block_on(change(&cluster, MANY));

    let event = runtime.block_on(first_event(&cluster, &start));
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ERROR"), &json!("Status")), "{event}");
    is_gone(&event["object"], "too old resource version: ");
    lists_of_the_past_are_refused(&cluster, &start);
    runtime.block_on(follower.lists_again());
    a_list_in_pages_goes_on_by_the_token_in_the_refusal(&mut cluster, &page);
    cluster.down();
}

fn create(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let map = json!({"metadata": {"name": name, "labels": {"of": "history"}}});
        let answer = cluster.request(Method::POST, MAPS, &map).unwrap();
        assert_eq!(answer.code, 201, "{}", answer.body);
    }
}

/// Changes one object so many times.
async fn change(cluster: &Cluster, times: usize) {
    let mut connection = cluster.rest().connect().await.unwrap();
    for n in 0..times {
        let patch = json!({"data": {"count": n.to_string()}}).to_string().into_bytes();
        let path = format!("{MAPS}/first");
        let answer = connection.raw(Method::PATCH, &path, "application/merge-patch+json", patch).await;
        assert_eq!(answer.unwrap().code, 200);
    }
}

/// What a watch says first that goes on from a revision.
async fn first_event(cluster: &Cluster, revision: &str) -> Value {
    let path = format!("{OURS}&watch=1&resourceVersion={revision}");
    let mut watch: Watch = cluster.rest().watch(&path).await.unwrap();
    tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap()
}

/// A revision of another cluster, or of before a restore: nobody waits until as much has happened here.
async fn what_never_was_is_told_at_once(cluster: &Cluster) {
    let begun = Instant::now();
    let event = first_event(cluster, "987654321").await;
    is_gone(&event["object"], "Too large resource version: 987654321, current: ");
    for path in [OURS.to_owned(), format!("{MAPS}/first?"), format!("{OURS}&limit=1")] {
        let path = format!("{path}&resourceVersion=987654321");
        let answer = cluster.rest().call(Method::GET, &path, &Value::Null).await.unwrap();
        let said = (answer.code, &answer.body["details"]["causes"][0]["reason"]);
        assert_eq!(said, (504, &json!("ResourceVersionTooLarge")), "{}", answer.body);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[track_caller]
fn is_gone(status: &Value, message: &str) {
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{status}");
    assert!(status["message"].as_str().unwrap().starts_with(message), "{status}");
}

fn lists_of_the_past_are_refused(cluster: &Cluster, revision: &str) {
    let path = format!("{OURS}&resourceVersion={revision}&resourceVersionMatch=Exact");
    let answer = cluster.request(Method::GET, &path, &Value::Null).unwrap();
    assert_eq!(answer.code, 410, "{}", answer.body);
    is_gone(&answer.body, "The resourceVersion for the provided list is too old.");
}

/// The server remembers lists that somebody is in the middle of; after a restart it knows of none.
fn a_list_in_pages_goes_on_by_the_token_in_the_refusal(cluster: &mut Cluster, page: &Value) {
    let next = |token: &Value| format!("{OURS}&limit=10&continue={}", token.as_str().unwrap());
    let path = next(&page["metadata"]["continue"]);
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let rest = cluster.read(&path).unwrap();
    assert_eq!(rest["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
    cluster.kill9();
    cluster.restart();
    let answer = cluster.request(Method::GET, &path, &Value::Null).unwrap();
    assert_eq!(answer.code, 410, "{}", answer.body);
    is_gone(&answer.body, "The provided continue parameter is too old");
    let inconsistent = cluster.read(&next(&answer.body["metadata"]["continue"])).unwrap();
    assert_eq!(names(&inconsistent), names(&rest));
}

/// A program written with kube-rs that has listed, and not yet begun to watch.
struct Follower(std::pin::Pin<Box<dyn futures::Stream<Item = watcher::Result<watcher::Event<ConfigMap>>>>>);

impl Follower {
    async fn at_the_end_of_its_list(cluster: &Cluster) -> Self {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config).unwrap(), "default");
        let mut follower = Self(Box::pin(watcher(api, watcher::Config::default())));
        while !matches!(follower.next().await, Ok(watcher::Event::InitDone)) {}
        follower
    }

    async fn next(&mut self) -> watcher::Result<watcher::Event<ConfigMap>> {
        tokio::time::timeout(PATIENCE, self.0.try_next()).await.unwrap().map(Option::unwrap)
    }

    /// It is refused once, and then told everything anew.
    async fn lists_again(mut self) {
        let refused = self.next().await.unwrap_err();
        assert!(matches!(&refused, watcher::Error::WatchError(status) if status.code == 410), "{refused:?}");
        let mut seen = Vec::new();
        loop {
            match self.next().await.unwrap() {
                watcher::Event::InitApply(map) => seen.push(map),
                watcher::Event::InitDone => break,
                other => assert!(matches!(other, watcher::Event::Init), "{other:?}"),
            }
        }
        let first = seen.iter().find(|map| map.name_any() == "first").unwrap();
        assert_eq!(first.data.as_ref().unwrap()["count"], (MANY - 1).to_string());
    }
}
