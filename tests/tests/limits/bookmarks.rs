//! Bookmarks: how a watch tells where its initial state ends, and how far it is when nothing happens to it.

use std::time::Duration;

use balsa_testkit::{Cluster, Options, Watch};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::MAPS;

/// A quiet watch is told something once a minute.
const PATIENCE: Duration = Duration::from_secs(90);
const OURS: &str = "/api/v1/namespaces/default/configmaps?watch=1&labelSelector=of%3Dbookmarks";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const INITIAL: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
const END: &str = "k8s.io/initial-events-end";

#[test]
fn watches_tell_how_far_they_are() {
    let cluster = Cluster::start(Options::nodes(0));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(story(&cluster));
    drop(runtime);
    cluster.down();
}

async fn story(cluster: &Cluster) {
    create(cluster, MAPS, "first").await;
    let start = create(cluster, MAPS, "second").await;
    // One that only listens, from here to the end.
    let mut quiet = open(cluster, &format!("{OURS}&allowWatchBookmarks=1&resourceVersion={start}")).await;
    the_end_of_the_initial_state_is_marked(cluster).await;
    who_asks_for_none_gets_none(cluster, start).await;
    each_form_has_its_bookmarks(cluster).await;
    the_last_word_of_a_watch_is_where_to_go_on(cluster).await;

    let elsewhere = create(cluster, SECRETS, "of-another-kind").await;
    let told = loop {
        let event = next(&mut quiet).await.unwrap();
        if event["type"] == "ADDED" {
            continue;
        }
        assert_eq!((&event["type"], mark(&event)), (&"BOOKMARK".into(), &Value::Null), "{event}");
        if revision(&event) >= elsewhere {
            break event;
        }
    };
    let object = &told["object"];
    assert_eq!((&object["kind"], &object["apiVersion"]), (&"ConfigMap".into(), &"v1".into()), "{told}");
}

/// Makes an object that the watches are about, or not; its revision.
async fn create(cluster: &Cluster, path: &str, name: &str) -> u64 {
    let object = json!({"metadata": {"name": name, "labels": {"of": "bookmarks"}}});
    let answer = cluster.rest().call(Method::POST, path, &object).await.unwrap();
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn open(cluster: &Cluster, path: &str) -> Watch {
    cluster.rest().watch(path).await.unwrap()
}

async fn next(watch: &mut Watch) -> Option<Value> {
    tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap()
}

/// All that it says until it ends.
async fn all(mut watch: Watch) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(event) = next(&mut watch).await {
        events.push(event);
    }
    events
}

fn revision(event: &Value) -> u64 {
    event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// `"true"` where the initial state ends.
fn mark(event: &Value) -> &Value {
    &event["object"]["metadata"]["annotations"][END]
}

/// What each event is: its type, its object's name, and whether it is the mark.
fn told<'a>(events: &'a [Value]) -> Vec<(&'a str, &'a str, bool)> {
    let one = |event: &'a Value| {
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (event["type"].as_str().unwrap(), name, mark(event) == "true")
    };
    events.iter().map(one).collect()
}

async fn the_end_of_the_initial_state_is_marked(cluster: &Cluster) {
    let mut watch = open(cluster, &format!("{OURS}&allowWatchBookmarks=true&{INITIAL}")).await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(next(&mut watch).await.unwrap());
    }
    assert_eq!(
        told(&events),
        [("ADDED", "first", false), ("ADDED", "second", false), ("BOOKMARK", "", true)],
        "{events:?}"
    );
    let newest = events[..2].iter().map(revision).max().unwrap();
    assert!(revision(&events[2]) >= newest, "a list would have had that revision: {events:?}");
    // What comes now is a change.
    let changed = create(cluster, MAPS, "third").await;
    let event = next(&mut watch).await.unwrap();
    assert_eq!(
        (told(std::slice::from_ref(&event))[0], revision(&event)),
        (("ADDED", "third", false), changed)
    );

    // Where there is nothing the mark comes alone, at once.
    let nothing = OURS.replace("bookmarks", "nothing");
    let mut watch = open(cluster, &format!("{nothing}&allowWatchBookmarks=true&{INITIAL}")).await;
    let event = next(&mut watch).await.unwrap();
    assert_eq!(told(&[event])[0], ("BOOKMARK", "", true));
}

async fn who_asks_for_none_gets_none(cluster: &Cluster, start: u64) {
    let shortly = format!("{OURS}&timeoutSeconds=1");
    let events = all(open(cluster, &format!("{shortly}&{INITIAL}")).await).await;
    assert!(events.len() == 3 && events.iter().all(|event| event["type"] == "ADDED"), "{events:?}");
    let events = all(open(cluster, &format!("{shortly}&resourceVersion={start}")).await).await;
    assert_eq!(told(&events), [("ADDED", "third", false)], "{events:?}");
    // Two parameters that mean each other.
    let lone = format!("{OURS}&sendInitialEvents=true");
    let refused = cluster.rest().call(Method::GET, &lone, &Value::Null).await.unwrap();
    let message = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 422 && message.contains("resourceVersionMatch"), "{message}");
}

async fn each_form_has_its_bookmarks(cluster: &Cluster) {
    for form in ["Table", "PartialObjectMetadata"] {
        let request = Request::get(format!("{OURS}&allowWatchBookmarks=true&timeoutSeconds=1&{INITIAL}"))
            .header("accept", format!("application/json;as={form};g=meta.k8s.io;v=v1"))
            .body(Bytes::new())
            .unwrap();
        let (_, watch) = cluster.rest().stream(request).await.unwrap();
        let events = all(watch).await;
        let kinds: Vec<_> = events.iter().map(|event| event["object"]["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, [form; 5], "{events:?}");
        let types: Vec<_> = told(&events).into_iter().map(|(kind, _, marked)| (kind, marked)).collect();
        let added = ("ADDED", false);
        assert_eq!(types, [added, added, added, ("BOOKMARK", true), ("BOOKMARK", false)], "{events:?}");
        if form == "Table" {
            assert_eq!(events[3]["object"]["rows"], json!([]), "a mark is no row");
            assert!(events[0]["object"]["columnDefinitions"].is_array());
        }
    }
}

/// A watch that ends says how far it was, so that whoever goes on from there is not refused for having slept.
async fn the_last_word_of_a_watch_is_where_to_go_on(cluster: &Cluster) {
    let from = create(cluster, MAPS, "fourth").await;
    let path = format!("{OURS}&allowWatchBookmarks=true");
    let short = open(cluster, &format!("{path}&resourceVersion={from}&timeoutSeconds=2")).await;
    let elsewhere = create(cluster, SECRETS, "secret").await;
    let events = all(short).await;
    let last = events.last().unwrap();
    assert_eq!(told(&events), [("BOOKMARK", "", false)], "{events:?}");
    assert!(revision(last) >= elsewhere, "nothing happened to it up to {elsewhere}: {last}");
    let mut again = open(cluster, &format!("{path}&resourceVersion={}", revision(last))).await;
    create(cluster, MAPS, "fifth").await;
    let event = next(&mut again).await.unwrap();
    assert_eq!(told(&[event])[0], ("ADDED", "fifth", false));
}
