//! Clients that work while servers come and go, as programs do that know all of them: writers that read what they wrote
//! at another server, and watchers that go on elsewhere from where they were.
//!
//! Where nobody listens the next server is asked, and so it is where a server that stops says that it has done nothing and
//! that somebody should ask again, which it does of what it could not finish in five seconds. Anything else than a good
//! answer is a failure.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balsa_testkit::{Answer, Rest, wait_until};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, PATIENCE};
use crate::{PATH, rest};

const LABEL: &str = "steady=yes";
/// Between two rounds of a writer: enough to work all the time, and to leave a busy machine room.
const PACE: Duration = Duration::from_millis(20);
/// A watcher that hears nothing for so long asks another server: something is written all the time.
const SILENCE: Duration = Duration::from_secs(5);
/// Rounds in which no server listens, with a pause of 10 ms after each.
const ROUNDS: usize = 1000;

/// What was acknowledged, by revision: the name, and what was done with it.
type Acknowledged = BTreeMap<u64, (String, &'static str)>;

/// The clients at work.
pub(crate) struct Clients {
    runtime: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Result<Vec<Event>, String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: Mutex<Acknowledged>,
    failed: Mutex<Vec<String>>,
    /// The last revision that watchers wait for.
    last: Mutex<Option<u64>>,
}

/// What a watcher was told: revision, name, type.
type Event = (u64, String, String);

impl Clients {
    /// A writer and a watcher for each server.
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let servers: Vec<Rest> = fleet.members().iter().map(|member| rest(fleet, member)).collect();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shared = Arc::new(Shared::default());
        let listed = runtime.block_on(servers[0].call(Method::GET, PATH, &Value::Null)).unwrap();
        let start = revision(&listed.body);
        // Each begins at another server.
        let from = |n: usize| [&servers[n..], &servers[..n]].concat();
        let all = 0..servers.len();
        let writers = all.clone().map(|n| runtime.spawn(write(n, from(n), shared.clone()))).collect();
        let watchers = all.map(|n| runtime.spawn(watch(from(n), start, shared.clone()))).collect();
        Self { runtime, shared, writers, watchers }
    }

    /// Waits until every writer has written again, through whichever server.
    pub(crate) fn go_on(&self) {
        let before = self.count();
        wait_until("writes go on", PATIENCE, || {
            let now = self.count();
            if now >= before + 20 { Ok(()) } else { Err(format!("{before} writes, and {now} now")) }
        });
    }

    fn count(&self) -> usize {
        self.shared.acknowledged.lock().unwrap().len()
    }

    /// Ends them and checks that nothing failed, nothing is lost, and watchers were told each change once and in order.
    pub(crate) fn end(self, fleet: &Fleet) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            self.runtime.block_on(writer).unwrap();
        }
        let acknowledged = self.shared.acknowledged.lock().unwrap().clone();
        *self.shared.last.lock().unwrap() = acknowledged.keys().next_back().copied();
        let told: Vec<Vec<Event>> = self
            .watchers
            .into_iter()
            .map(|watcher| {
                let ended = async { tokio::time::timeout(PATIENCE, watcher).await };
                let told = self.runtime.block_on(ended).expect("a watcher misses the last change");
                told.unwrap().unwrap()
            })
            .collect();
        println!("{} writes, each told to {} watchers", acknowledged.len(), told.len());
        assert_eq!(*self.shared.failed.lock().unwrap(), Vec::<String>::new());

        let expected: Vec<Event> = acknowledged
            .iter()
            .map(|(revision, (name, what))| (*revision, name.clone(), (*what).to_owned()))
            .collect();
        for events in told {
            let first = events.iter().zip(&expected).position(|(told, written)| told != written);
            assert_eq!(first, None, "{:?}", first.map(|at| (&events[at], &expected[at])));
            assert_eq!(events.len(), expected.len());
        }
        // The last that was done with each is what every server shows.
        let objects: BTreeMap<String, u64> =
            acknowledged.into_iter().map(|(revision, (name, _))| (name, revision)).collect();
        for member in fleet.members() {
            let path = format!("{PATH}?labelSelector={LABEL}");
            let listed = rest(fleet, &member).call_now(Method::GET, &path, &Value::Null).unwrap();
            assert_eq!(listed.code, 200, "{}", listed.body);
            let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
            let listed: BTreeMap<String, u64> = listed.body["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|object| (name(object), revision(object)))
                .collect();
            assert_eq!(listed, objects, "{}", member.name);
        }
    }
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Asks the first server that listens.
async fn ask(servers: &[Rest], method: Method, path: &str, body: &Value) -> Result<Answer, String> {
    for _ in 0..ROUNDS {
        for server in servers {
            let Ok(mut connection) = server.connect().await else { continue };
            return match connection.call(method.clone(), path, body).await {
                Ok(answer) if answer.code < 300 => Ok(answer),
                Ok(answer) if is_refused_by_a_stop(&answer) => {
                    println!("{method} {path}: {}", answer.body);
                    continue;
                }
                Ok(answer) => Err(format!("{path}: {} {}", answer.code, answer.body)),
                Err(error) => Err(format!("{path}: {error:#}")),
            };
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("nobody listens".to_owned())
}

fn is_refused_by_a_stop(answer: &Answer) -> bool {
    let retry = &answer.body["details"]["retryAfterSeconds"];
    answer.code == 503 && answer.body["message"] == "the server is shutting down" && retry.is_u64()
}

/// Creates and changes objects, and reads each at another server, until it is stopped.
async fn write(number: usize, servers: Vec<Rest>, shared: Arc<Shared>) {
    let elsewhere = [&servers[1..], &servers[..1]].concat();
    for round in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("steady-{number}-{round}");
        if let Err(error) = one_object(&name, &servers, &elsewhere, &shared).await {
            shared.failed.lock().unwrap().push(format!("{name}: {error}"));
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn one_object(name: &str, servers: &[Rest], elsewhere: &[Rest], shared: &Shared) -> Result<(), String> {
    let path = format!("{PATH}/{name}");
    let object =
        |text: &str| json!({"metadata": {"name": name, "labels": {"steady": "yes"}}, "data": {"text": text}});
    let acknowledged = |revision: u64, what: &'static str| {
        let before = shared.acknowledged.lock().unwrap().insert(revision, (name.to_owned(), what));
        before.map_or(Ok(()), |before| Err(format!("revision {revision} was {before:?}")))
    };
    let made = ask(servers, Method::POST, PATH, &object("first")).await?.body;
    acknowledged(revision(&made), "ADDED")?;
    let changed = ask(servers, Method::PUT, &path, &object("second")).await?.body;
    acknowledged(revision(&changed), "MODIFIED")?;
    let read = ask(elsewhere, Method::GET, &path, &Value::Null).await?.body;
    if read == changed { Ok(()) } else { Err(format!("written {changed}, read {read}")) }
}

/// Follows all changes from `start` to the last one; starts again where it was, at the next server, whenever its watch
/// ends.
async fn watch(servers: Vec<Rest>, start: u64, shared: Arc<Shared>) -> Result<Vec<Event>, String> {
    let (mut told, mut at) = (Vec::<Event>::new(), start);
    for server in servers.iter().cycle() {
        let path = format!("{PATH}?watch=true&labelSelector={LABEL}&resourceVersion={at}");
        let Ok(mut stream) = server.watch(&path).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        loop {
            if shared.last.lock().unwrap().is_some_and(|last| at >= last) {
                return Ok(told);
            }
            // It is cut, or ends, when its server does.
            let Ok(Ok(Some(event))) = tokio::time::timeout(SILENCE, stream.next()).await else { break };
            if event["type"] == "ERROR" {
                // Of a server that has not heard of that revision yet. What it may not say is that it is gone.
                if event["object"]["code"] == 410 {
                    return Err(format!("from {at} on: {event}"));
                }
                break;
            }
            at = revision(&event["object"]);
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            told.push((at, name, event["type"].as_str().unwrap_or_default().to_owned()));
        }
    }
    unreachable!("there is always a next server")
}
