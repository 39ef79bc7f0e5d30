//! Clients as programs are: they read and write registers at one server, and move on to the next when it
//! does not answer. A register is a ConfigMap; compare-and-set is an update with a `resourceVersion`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balsa_testkit::{Answer, Connection, Rest};
use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value as Json, json};

use crate::history::{Event, History, Revision};
use crate::register::{Operation, Value};

pub(crate) const PATH: &str = "/api/v1/namespaces/default/configmaps";
const LABEL: &str = "robustness";
/// In one register of each set values come again. It sees no compare-and-set: that compares revisions.
const REPEATING: &str = "-0";
/// A client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A watcher that hears nothing for so long asks another server; writes come all the time.
const SILENCE: Duration = Duration::from_secs(3);

pub(crate) fn register(name: &str, value: Value) -> Json {
    json!({"metadata": {"name": name, "labels": {LABEL: "yes"}}, "data": {"value": value.to_string()}})
}

fn value_of(object: &Json) -> Option<Value> {
    object["data"]["value"].as_str()?.parse().ok()
}

pub(crate) fn revision_of(object: &Json) -> Option<Revision> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Which registers are in use, as time goes by.
pub(crate) type Keys = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A client.
pub(crate) struct Client {
    number: u64,
    servers: Vec<Rest>,
    /// The server that it asks.
    at: usize,
    connection: Option<Connection>,
    random: StdRng,
    /// What it last saw of each register.
    known: HashMap<String, (Value, Revision)>,
    writes: u64,
    history: Arc<History>,
}

/// How a request ended.
enum Outcome {
    Answered(Answer),
    /// It never reached a server.
    NotSent,
    /// It was sent, and no answer came.
    Lost,
}

impl Client {
    pub(crate) fn new(number: u64, servers: Vec<Rest>, seed: u64, history: Arc<History>) -> Self {
        let at = usize::try_from(number).unwrap() % servers.len();
        let random = StdRng::seed_from_u64(seed ^ (number << 32));
        Self { number, servers, at, connection: None, random, known: HashMap::new(), writes: 0, history }
    }

    /// Until the history says that it is enough.
    pub(crate) async fn run(mut self, keys: Keys) {
        while !self.history.is_enough() {
            let keys = keys();
            let key = &keys[self.random.random_range(0..keys.len())];
            match self.random.random_range(0..10) {
                0..5 => self.read(key).await,
                5..7 => self.write(key).await,
                _ if key.ends_with(REPEATING) => self.write_again(key).await,
                _ => self.swap(key).await,
            }
            // As fast as is useful: an order has to be found for all of it.
            tokio::time::sleep(Duration::from_millis(self.random.random_range(5..40))).await;
        }
    }

    async fn read(&mut self, key: &str) {
        let begun = Instant::now();
        let outcome = self.ask(Method::GET, key, &Json::Null).await;
        if let Outcome::Answered(Answer { code: 200, body, .. }) = outcome {
            let (value, revision) = value_of(&body).zip(revision_of(&body)).expect("a register");
            self.history.answered(key, Operation::Read(value), begun);
            self.known.insert(key.to_owned(), (value, revision));
        }
    }

    async fn write(&mut self, key: &str) {
        let value = self.next_value();
        self.put(key, Operation::Write(value), register(key, value)).await;
    }

    /// A server that is behind must not take it for a write of what is there anyway.
    async fn write_again(&mut self, key: &str) {
        let Some((value, _)) = self.known.get(key).copied() else { return self.read(key).await };
        self.put(key, Operation::Again(value), register(key, value)).await;
    }

    async fn swap(&mut self, key: &str) {
        let Some((expected, revision)) = self.known.get(key).copied() else { return self.read(key).await };
        let value = self.next_value();
        let mut object = register(key, value);
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        self.put(key, Operation::Swap(expected, value), object).await;
    }

    fn next_value(&mut self) -> Value {
        self.writes += 1;
        (self.number + 1) << 40 | self.writes
    }

    async fn put(&mut self, key: &str, operation: Operation, object: Json) {
        let begun = Instant::now();
        match (self.ask(Method::PUT, key, &object).await, operation) {
            (Outcome::Answered(Answer { code: 200, body, .. }), _) => {
                let (value, revision) = value_of(&body).zip(revision_of(&body)).expect("a register");
                self.known.insert(key.to_owned(), (value, revision));
                match operation {
                    // Its revision may be that of the first time.
                    Operation::Again(_) => self.history.answered(key, operation, begun),
                    _ => self.history.acknowledged(key, operation, revision, begun),
                }
            }
            (Outcome::Answered(Answer { code: 409, .. }), Operation::Swap(expected, _)) => {
                self.known.remove(key);
                self.history.answered(key, Operation::Refused(expected), begun);
            }
            // Refused before anything was done with it.
            (Outcome::Answered(Answer { code: 429, .. }) | Outcome::NotSent, _) => {}
            // Whatever else is said: it may have been carried out.
            (Outcome::Answered(Answer { code: 500.., .. }) | Outcome::Lost, _) => {
                self.history.unknown(key, operation, begun);
            }
            (Outcome::Answered(answer), _) => {
                panic!("{operation:?} of {key}: {} {}", answer.code, answer.body)
            }
        }
    }

    async fn ask(&mut self, method: Method, key: &str, body: &Json) -> Outcome {
        let Some(mut connection) = self.connect().await else {
            self.move_on();
            return Outcome::NotSent;
        };
        let path = format!("{PATH}/{key}");
        let asking = connection.call(method, &path, body);
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => {
                if answer.code >= 500 {
                    self.move_on();
                }
                self.connection = Some(connection);
                Outcome::Answered(answer)
            }
            Ok(Err(_)) | Err(_) => {
                self.move_on();
                Outcome::Lost
            }
        }
    }

    async fn connect(&mut self) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        tokio::time::timeout(PATIENCE, self.servers[self.at].connect()).await.ok()?.ok()
    }

    fn move_on(&mut self) {
        self.at = (self.at + 1) % self.servers.len();
        self.connection = None;
    }
}

/// Follows all registers from `start` until it has seen `last`, starting again where it was whenever its watch is
/// cut: at the same server if it is faithful to one, else at the next.
pub(crate) async fn watch(
    name: String,
    servers: Vec<Rest>,
    mut at: usize,
    faithful: bool,
    start: Revision,
    last: tokio::sync::watch::Receiver<Option<Revision>>,
    history: Arc<History>,
) {
    let mut revision = start;
    let mut expired = 0;
    let reached = |revision: Revision| last.borrow().is_some_and(|last| revision >= last);
    while !reached(revision) {
        let path = format!("{PATH}?watch=true&labelSelector={LABEL}&resourceVersion={revision}");
        if let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, servers[at].watch(&path)).await {
            while let Ok(Ok(Some(told))) = tokio::time::timeout(SILENCE, stream.next()).await {
                if told["type"] == "ERROR" {
                    // A server that was given the whole state at once does not know how it came about; others do.
                    // One that is cut off is silent, and never takes what others have told for what never was.
                    assert_eq!(told["object"]["code"], 410, "{name}: {told}");
                    let why = told["object"]["message"].as_str().unwrap();
                    assert!(!why.starts_with("Too large"), "{name}: {told}");
                    expired += 1;
                    assert!(expired < 50, "{name}: no server has revision {revision} any more");
                    at = (at + 1) % servers.len();
                    break;
                }
                expired = 0;
                let object = &told["object"];
                revision = revision_of(object).expect("an object");
                let key = object["metadata"]["name"].as_str().unwrap().to_owned();
                history.watched(&name, Event { revision, key, value: value_of(object).expect("a register") });
                if reached(revision) {
                    return;
                }
            }
        }
        if !faithful {
            at = (at + 1) % servers.len();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
