//! Tables that are whole for the disk (every checksum is right) and do not hold what was folded: found out, told, and
//! replaced by another server's, while whoever asks is served by nobody or with what is right.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use balsa_testkit::{Connection, Rest, balsa, wait_until};
use http::Method;
use rocksdb::{DB, IteratorMode, Options};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, Member, PATIENCE};
use crate::upgrade::{metric, states_agree};
use crate::{PATH, create, rest};

/// The object that is damaged; what it holds, and what it holds then: of one length, so that all around it stays right.
const VICTIM: &str = "victim";
const RIGHT: &str = "right";
const WRONG: &str = "wrong";
/// More than lies between two indexes at which servers compare their states.
const MANY: usize = 300;
/// Objects of a megabyte: taking tables from another server is not over in a moment.
const LARGE: usize = 16;

/// Between two questions of a witness.
const PACE: Duration = Duration::from_millis(2);

/// What is done to the tables of a server that does not run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// An object differs from what was folded.
    Object,
    /// And the digest that would tell at the start is gone: as if the fold itself, or memory, had gone wrong.
    ObjectAndDigest,
}

fn damage(directory: &Path, damage: Damage) {
    let families = ["default", "log", "meta", "objects", "history"];
    let tables = DB::open_cf(&Options::default(), directory.join("log/db"), families).unwrap();
    let objects = tables.cf_handle("objects").unwrap();
    let is_victim = |key: &[u8]| key.ends_with(format!("\0default\0{VICTIM}").as_bytes());
    let rows = tables.iterator_cf(objects, IteratorMode::Start).map(Result::unwrap);
    let (key, value) = rows.into_iter().find(|(key, _)| is_victim(key)).expect("it is in the tables");
    let at = value.windows(RIGHT.len()).position(|bytes| bytes == RIGHT.as_bytes()).unwrap();
    let mut value = value.into_vec();
    value[at..at + WRONG.len()].copy_from_slice(WRONG.as_bytes());
    tables.put_cf(objects, key, value).unwrap();
    if damage == Damage::ObjectAndDigest {
        tables.delete_cf(objects, b"\0digest").unwrap();
    }
    tables.flush_cf(objects).unwrap();
}

/// Three servers, with objects of some size, and the victim.
fn filled() -> Fleet {
    let fleet = Fleet::start(3);
    let (runtime, rest) = (tokio::runtime::Runtime::new().unwrap(), rest(&fleet, &fleet.well(3)));
    let mut all: Vec<(String, String)> =
        (0..LARGE).map(|n| (format!("large-{n}"), "x".repeat(1_000_000))).collect();
    all.push((VICTIM.to_owned(), RIGHT.to_owned()));
    for (name, text) in all {
        let map = json!({"metadata": {"name": name}, "data": {"text": text}});
        let made = runtime.block_on(rest.call(Method::POST, PATH, &map)).unwrap();
        assert_eq!(made.code, 201, "{}", made.body);
    }
    fleet
}

/// Damages the tables of a server between a stop and a start.
fn comes_back_damaged(fleet: &Fleet, name: &str, what: Damage) {
    fleet.signal(&fleet.member(name), "-TERM");
    damage(&fleet.directory(name), what);
    fleet.restart(name);
}

/// What one server is asked, in turn.
const QUESTIONS: [&str; 4] = [
    "/readyz?verbose",
    "/api/v1/namespaces/default/configmaps/victim",
    "/api/v1/namespaces/default/configmaps/victim?resourceVersion=0",
    "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dvictim&resourceVersion=0",
];

/// Asks one server all the time, and remembers in order what it said.
struct Witness {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<(Vec<Said>, BTreeSet<String>)>,
    runtime: tokio::runtime::Runtime,
}

/// What a server said of the object.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Right,
    Wrong,
    /// It serves nobody.
    Refused,
}

impl Witness {
    fn of(fleet: &Fleet, member: &Member) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asking = runtime.spawn(ask(rest(fleet, member), stop.clone()));
        Self { stop, asking, runtime }
    }

    /// What it said until now: of the objects, the same many times over told once, and why it was not ready.
    fn tells(self) -> (Vec<Said>, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut objects, reasons) = self.runtime.block_on(self.asking).unwrap();
        objects.dedup();
        println!("of the object: {objects:?}\nnot ready for: {reasons:#?}");
        (objects, reasons)
    }
}

async fn ask(rest: Rest, stop: Arc<AtomicBool>) -> (Vec<Said>, BTreeSet<String>) {
    let (mut said, mut reasons, mut connection) = (Vec::new(), BTreeSet::new(), None::<Connection>);
    for question in QUESTIONS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(PACE).await;
        if connection.is_none() {
            connection = rest.connect().await.ok();
        }
        let answer = match &mut connection {
            Some(connection) => connection.call(Method::GET, question, &Value::Null).await.ok(),
            None => None,
        };
        let Some(answer) = answer else {
            connection = None;
            continue;
        };
        let text = answer.body.to_string();
        match (answer.code, question.starts_with("/readyz")) {
            (200, true) => {}
            (_, true) => {
                let lines = answer.body.as_str().unwrap_or_default().lines();
                reasons.extend(lines.filter(|line| line.starts_with("[-]")).map(str::to_owned));
            }
            (200, false) if text.contains(WRONG) => said.push(Said::Wrong),
            (200, false) if text.contains(RIGHT) => said.push(Said::Right),
            (500.., false) => said.push(Said::Refused),
            (code, false) => panic!("{question}: {code} {text}"),
        }
    }
    (said, reasons)
}

/// Nobody is shown the wrong object any more once the server has said anything else.
fn is_wrong_at_first_only(said: &[Said]) {
    assert_eq!(said[0], Said::Wrong, "the damage was there");
    assert!(!said[1..].contains(&Said::Wrong), "{said:?}");
    assert_eq!(said.last(), Some(&Said::Right), "{said:?}");
}

#[test]
fn an_object_that_was_not_folded_is_found_at_the_start() {
    let fleet = filled();
    let leader = fleet.well(3);
    let victim = fleet.members().into_iter().find(|member| member.name != leader.name).unwrap();
    comes_back_damaged(&fleet, &victim.name, Damage::Object);
    let witness = Witness::of(&fleet, &victim);
    fleet.well(3);
    wait_until("it serves again", PATIENCE, || {
        create(&tokio::runtime::Runtime::new().unwrap(), &rest(&fleet, &victim), "after").map(drop)
    });
    assert!(
        fleet.said(&victim.name).contains("the tables are damaged: this server takes those of another one")
    );
    assert!(metric(&fleet, &victim, "balsa_log_rebuilds_total") > 0.0);
    let (said, _) = witness.tells();
    assert!(!said.contains(&Said::Wrong) && said.contains(&Said::Right), "{said:?}");
    states_agree(&fleet, balsa());
    fleet.down();
}

#[test]
fn a_follower_whose_state_differs_is_rebuilt() {
    let fleet = filled();
    let leader = fleet.well(3);
    let victim = fleet.members().into_iter().find(|member| member.name != leader.name).unwrap();
    comes_back_damaged(&fleet, &victim.name, Damage::ObjectAndDigest);
    fleet.well(3);
    is_found_out_and_rebuilt(&fleet, &victim.name);
    fleet.down();
}

#[test]
fn a_leader_whose_state_differs_hands_over_and_is_rebuilt() {
    let fleet = filled();
    let victim = fleet.well(3);
    comes_back_damaged(&fleet, &victim.name, Damage::ObjectAndDigest);
    fleet.well(3);
    fleet.lead(&victim.name);
    fleet.well(3);
    let term = fleet.term();
    is_found_out_and_rebuilt(&fleet, &victim.name);
    // Once it is well it may lead again.
    fleet.well(3);
    assert!(fleet.term() > term, "somebody else has led since");
    fleet.down();
}

/// The server shows the wrong object; after some writes it knows that, and is well again by itself.
fn is_found_out_and_rebuilt(fleet: &Fleet, name: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (victim, members) = (fleet.member(name), fleet.members());
    let other = members.iter().find(|member| member.name != name).unwrap();
    let witness = Witness::of(fleet, &victim);
    // Whoever asks another server notices nothing.
    for n in 0..MANY {
        create(&runtime, &rest(fleet, other), &format!("between-{n}")).unwrap();
    }
    let words = [
        "this server has another state than the majority; it is rebuilt",
        "this server was rebuilt from another one's tables",
    ];
    for words in words {
        wait_until(words, PATIENCE, || {
            let said = fleet.said(name);
            if said.contains(words) {
                Ok(())
            } else {
                Err(said.lines().last().unwrap_or_default().to_owned())
            }
        });
    }
    fleet.well(3);
    create(&runtime, &rest(fleet, &victim), "through-the-rebuilt").unwrap();
    assert_eq!(metric(fleet, &victim, "balsa_replicas_differ_total{what=\"wrong\"}"), 1.0);
    assert_eq!(metric(fleet, &victim, "balsa_log_rebuilds_total"), 1.0);

    let (said, reasons) = witness.tells();
    is_wrong_at_first_only(&said);
    let is_told =
        |reason: &String| reason.starts_with("[-]state its state differs from the others' at entry");
    assert!(reasons.iter().any(is_told), "{reasons:?}");
    states_agree(fleet, balsa());
}
