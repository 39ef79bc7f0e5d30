//! A server that is killed with -9 again and again while clients write: every acknowledged object is
//! there afterwards, no revision is given out twice, and a watch that resumes sees every event once.
//!
//! `BALSA_KILLS` says how many times; a hundred unless told.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use balsa_rt::TaskKind;
use balsa_testkit::{Answer, Cluster, Connection, Options, Rest, Watch, wait_until};
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries while the server is away.
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients were told.
#[derive(Default)]
struct Record {
    /// Created objects and their revisions; only those that were acknowledged.
    created: Mutex<BTreeMap<String, u64>>,
    /// The highest count that each writer has had acknowledged in its own counter.
    counts: Mutex<BTreeMap<String, u64>>,
    /// Every revision of an acknowledged write.
    revisions: Mutex<BTreeSet<u64>>,
    /// Acknowledged writes so far.
    acknowledged: AtomicU64,
    /// Set when the writers should end.
    enough: AtomicBool,
    /// Set when they have.
    written: AtomicBool,
}

impl Record {
    /// Notes a revision; panics if it was given out before.
    fn revision(&self, answer: &Answer) -> u64 {
        let revision = revision_of(&answer.body);
        assert!(self.revisions.lock().unwrap().insert(revision), "revision {revision} was given out twice");
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        revision
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let kills: u64 = std::env::var("BALSA_KILLS").map_or(100, |text| text.parse().unwrap());
    let mut cluster = Cluster::start(Options::nodes(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let rest = cluster.rest();
    let record = Arc::new(Record::default());
    let start = runtime.block_on(rest.call(Method::GET, PATH, &Value::Null)).unwrap();
    let watcher =
        balsa_rt::spawn(TaskKind::Test, watch(rest.clone(), revision_of(&start.body), record.clone()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| balsa_rt::spawn(TaskKind::Test, write(rest.clone(), writer, record.clone())))
        .collect();

    for kill in 0..kills {
        // At another moment of the writers' work each time.
        written(&record, 10 + kill * 7 % 60);
        cluster.kill9();
        cluster.restart();
    }
    written(&record, 20);
    record.enough.store(true, Ordering::Relaxed);
    for writer in writers {
        runtime.block_on(writer).unwrap().expect("no writer panicked");
    }
    record.written.store(true, Ordering::Relaxed);
    let (seen, resumed) = runtime.block_on(watcher).unwrap().expect("the watcher did not panic").unwrap();

    let list = runtime.block_on(rest.call(Method::GET, PATH, &Value::Null)).unwrap();
    everything_is_there(&record, &list.body);
    every_event_came_once(&record, &seen, &resumed);
    println!("{kills} kills, {} acknowledged writes", record.acknowledged.load(Ordering::Relaxed));
}

/// Waits until so many more writes have been acknowledged.
fn written(record: &Record, more: u64) {
    let goal = record.acknowledged.load(Ordering::Relaxed) + more;
    wait_until("clients can write", PATIENCE, || {
        let now = record.acknowledged.load(Ordering::Relaxed);
        if now >= goal { Ok(()) } else { Err(format!("{now} of {goal} writes")) }
    });
}

/// Creates objects and counts up a counter, over and over. A request without an answer is sent again:
/// it may or may not have been carried out.
async fn write(rest: Rest, writer: usize, record: Arc<Record>) {
    let counter = format!("counter-{writer}");
    let mut client = Persistent { rest, connection: None, tries: 0 };
    let begin = config_map(&counter, "0");
    while !matches!(client.call(Method::POST, PATH, &begin).await.code, 201 | 409) {}
    let mut number: u64 = 0;
    while !record.enough.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("object-{writer}-{number}");
        let answer = client.call(Method::POST, PATH, &config_map(&name, &number.to_string())).await;
        match answer.code {
            201 => {
                let revision = record.revision(&answer);
                record.created.lock().unwrap().insert(name, revision);
            }
            // An earlier try got through, and its answer was lost.
            409 if client.tries > 1 => {}
            code => panic!("creating {name}: {code} {}", answer.body),
        }
        let path = format!("{PATH}/{counter}");
        let current = client.call(Method::GET, &path, &Value::Null).await.body;
        let mut next = current.clone();
        next["data"]["value"] = json!(number.to_string());
        let answer = client.call(Method::PUT, &path, &next).await;
        match answer.code {
            200 => {
                record.revision(&answer);
                record.counts.lock().unwrap().insert(counter.clone(), number);
            }
            409 if client.tries > 1 => {}
            code => panic!("counting {counter}: {code} {}", answer.body),
        }
    }
}

/// Events, and the revisions after which the watch was taken up again.
type Seen = (Vec<Value>, Vec<u64>);

/// Sees every change from `revision` on, resuming when it is cut, until the writers have ended and the
/// last of their revisions has come.
async fn watch(rest: Rest, mut revision: u64, record: Arc<Record>) -> Result<Seen, String> {
    let mut seen: Vec<Value> = Vec::new();
    let (mut stream, mut resumed): (Option<Watch>, _) = (None, Vec::new());
    loop {
        let written = record.written.load(Ordering::Relaxed);
        let last = record.revisions.lock().unwrap().last().copied().unwrap_or_default();
        if written && revision >= last {
            return Ok((seen, resumed));
        }
        let Some(open) = &mut stream else {
            let path = format!("{PATH}?watch=true&resourceVersion={revision}");
            stream = rest.watch(&path).await.ok();
            if stream.is_some() {
                resumed.push(revision);
            } else {
                tokio::time::sleep(PAUSE).await;
            }
            continue;
        };
        // The end of the writing is no event: it is looked for now and then.
        match tokio::time::timeout(Duration::from_millis(200), open.next()).await {
            Err(_) => {}
            Ok(Ok(Some(event))) => {
                if event["type"] == "ERROR" {
                    return Err(format!("a watch from {revision} got {event}"));
                }
                let next = revision_of(&event["object"]);
                if next <= revision {
                    return Err(format!("after revision {revision} came {event}"));
                }
                revision = next;
                seen.push(event);
            }
            Ok(_) => stream = None,
        }
    }
}

fn everything_is_there(record: &Record, list: &Value) {
    let items: BTreeMap<&str, &Value> =
        list["items"].as_array().unwrap().iter().map(|item| (name_of(item), item)).collect();
    for (name, revision) in record.created.lock().unwrap().iter() {
        let item = items.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        assert_eq!(revision_of(item), *revision, "{name} has another revision than was acknowledged");
        assert_eq!(item["data"]["value"].as_str(), name.rsplit('-').next());
    }
    for (name, count) in record.counts.lock().unwrap().iter() {
        let stored: u64 = items[name.as_str()]["data"]["value"].as_str().unwrap().parse().unwrap();
        assert!(stored >= *count, "{name} is at {stored}, and {count} was acknowledged");
    }
}

fn every_event_came_once(record: &Record, seen: &[Value], resumed: &[u64]) {
    let mut added = BTreeMap::new();
    let mut revisions = BTreeSet::new();
    for event in seen {
        assert!(revisions.insert(revision_of(&event["object"])), "twice: {event}");
        if event["type"] == "ADDED" {
            let name = name_of(&event["object"]).to_owned();
            let before = added.insert(name, revision_of(&event["object"]));
            assert!(before.is_none(), "added twice: {event}");
        }
    }
    let missed: Vec<_> = record.revisions.lock().unwrap().difference(&revisions).copied().collect();
    assert!(missed.is_empty(), "the watch, resumed after {resumed:?}, missed the revisions {missed:?}");
    for (name, revision) in record.created.lock().unwrap().iter() {
        assert_eq!(added.get(name), Some(revision), "the watch missed {name}");
    }
}

/// A client that sends a request until there is an answer.
struct Persistent {
    rest: Rest,
    connection: Option<Connection>,
    tries: u32,
}

impl Persistent {
    async fn call(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        self.tries = 0;
        loop {
            self.tries += 1;
            let answer = self.once(method.clone(), path, body).await;
            match answer {
                // Starting up, or looking for a leader: whether it was carried out is not known.
                Ok(answer) if !matches!(answer.code, 429 | 500..=599) => return answer,
                other => {
                    let told = other.map(|answer| format!("{} {}", answer.code, answer.body));
                    assert!(Instant::now() < deadline, "{method} {path}: {told:?}");
                    self.connection = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn once(&mut self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.rest.connect().await,
        };
        let mut connection = connection.map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, connection.call(method, path, body)).await;
        let answer = answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn revision_of(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no revision in {object}"))
}
