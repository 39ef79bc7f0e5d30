//! Real servers on hosts of their own, real clients, and faults from a schedule: whatever breaks, registers stay
//! registers (linearizable), nothing acknowledged is lost, and every watcher sees every change once, in order.
//!
//! A run says what it did and what it found. `BALSA_SEED` draws the same faults again (moments differ: time is
//! real here), `BALSA_SCHEDULES` says how many schedules, `BALSA_SOAK` for how many seconds the soak lasts.
#![allow(clippy::unwrap_used)]

mod clients;
mod faults;
mod history;
mod hosts;
mod register;
mod servers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use balsa_rt::TaskKind;
use balsa_testkit::wait_until;
use clients::{Client, Keys, PATH, register, revision_of, watch};
use faults::{ALL, Schedule};
use history::{History, Revision};
use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value as Json;
use servers::{PATIENCE, Servers};

/// Registers of a schedule.
const REGISTERS: usize = 6;
const CLIENTS: u64 = 6;
/// Watchers that ask another server whenever they are cut off; besides, each server has one of its own.
const ROAMERS: usize = 2;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("BALSA_SEED", rand::random())
}

#[test]
fn three_servers_survive_every_fault() {
    survive(3, number("BALSA_SCHEDULES", 14));
}

#[test]
fn five_servers_survive_every_fault() {
    // The faults that differ where there are more than three.
    survive(5, number("BALSA_SCHEDULES", 6));
}

/// Each schedule begins with another fault, so that all are seen.
fn survive(count: u8, schedules: u64) {
    let seed = seed();
    println!("{count} servers, {schedules} schedules; again: BALSA_SEED={seed} BALSA_SCHEDULES={schedules}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers = Servers::start(count);
    let first = if count == 3 { 0 } else { 2 };
    for number in 0..schedules {
        let fault = ALL[(first + usize::try_from(number).unwrap()) % ALL.len()];
        let schedule = Schedule::draw(fault, 1, servers.all.len(), &mut random);
        println!("schedule {number}: {schedule}");
        let names: Vec<String> = (0..REGISTERS).map(|key| format!("s{number}-{key}")).collect();
        let keys = names.clone();
        let run = Run::begin(&servers, &names, Arc::new(move || keys.clone()), random.random());
        schedule.run(&mut servers);
        println!("  {}", run.end(&servers));
    }
}

/// A steady load and a fault every ten seconds: nothing is lost, and nothing grows for ever.
#[test]
fn a_soak() {
    const PERIOD: u64 = 10;
    let (seed, seconds) = (seed(), number("BALSA_SOAK", 300));
    println!("{seconds} s with a fault every {PERIOD} s; again: BALSA_SEED={seed} BALSA_SOAK={seconds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers = Servers::start(3);
    // Other registers in each period: the search for an order grows with what one register sees.
    let of_period = |period: u64| (0..REGISTERS).map(move |key| format!("p{period}-{key}"));
    let periods = seconds / PERIOD;
    let names: Vec<String> = (0..=periods).flat_map(of_period).collect();
    let begun = Instant::now();
    let keys: Keys = Arc::new(move || of_period((begun.elapsed().as_secs() / PERIOD).min(periods)).collect());
    let run = Run::begin(&servers, &names, keys, random.random());
    let mut sizes = Vec::new();
    for period in 0..periods {
        let next = begun + Duration::from_secs(PERIOD * (period + 1));
        // Those that are over soon: a steady load means that there is somebody to take it.
        let fault = ALL[random.random_range(0..10)];
        let schedule = Schedule::draw(fault, 0, servers.all.len(), &mut random);
        println!("{:>4} s: {schedule}", begun.elapsed().as_secs());
        schedule.run(&mut servers);
        sizes.push(servers.sizes());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("  {}", run.end(&servers));
    levels_off(&sizes);
}

/// Memory and open files of servers: in the last third not much more than in the middle one.
fn levels_off(sizes: &[Vec<(u64, usize)>]) {
    let most = |part: &[Vec<(u64, usize)>]| {
        let all = || part.iter().flatten();
        (all().map(|size| size.0).max().unwrap(), all().map(|size| size.1).max().unwrap())
    };
    let third = sizes.len() / 3;
    if third == 0 {
        return;
    }
    let (middle, last) = (most(&sizes[third..2 * third]), most(&sizes[2 * third..]));
    println!(
        "  at most {} MiB and {} files, then {} MiB and {} files",
        middle.0 / 1024,
        middle.1,
        last.0 / 1024,
        last.1
    );
    assert!(last.0 < middle.0 * 3 / 2 + 32 * 1024, "memory grows: {sizes:?}");
    assert!(last.1 < middle.1 * 3 / 2 + 64, "open files grow: {sizes:?}");
}

/// Clients and watchers at work.
struct Run {
    runtime: tokio::runtime::Runtime,
    history: Arc<History>,
    clients: Vec<tokio::task::JoinHandle<Option<()>>>,
    watchers: Vec<tokio::task::JoinHandle<Option<()>>>,
    last: tokio::sync::watch::Sender<Option<Revision>>,
}

impl Run {
    /// Makes the registers and lets everybody go.
    fn begin(servers: &Servers, registers: &[String], keys: Keys, seed: u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inside = runtime.enter();
        let (history, rests) = (Arc::new(History::default()), servers.clients());
        let mut start = 0;
        for name in registers {
            start = start.max(write(&runtime, &rests[0], Method::POST, PATH, &register(name, 0)));
        }
        let (last, reached) = tokio::sync::watch::channel(None);
        let clients = (0..CLIENTS).map(|number| {
            let client = Client::new(number, rests.clone(), seed, history.clone());
            balsa_rt::spawn(TaskKind::Test, client.run(keys.clone()))
        });
        let clients = clients.collect();
        let faithful = (0..rests.len()).map(|at| (format!("watcher of {}", at + 1), at, true));
        let roaming = (0..ROAMERS).map(|n| (format!("roaming watcher {n}"), n, false));
        let watchers = faithful.chain(roaming).map(|(name, at, faithful)| {
            let watching = watch(name, rests.clone(), at, faithful, start, reached.clone(), history.clone());
            balsa_rt::spawn(TaskKind::Test, watching)
        });
        let watchers = watchers.collect();
        drop(inside);
        Self { runtime, history, clients, watchers, last }
    }

    /// Ends it when all watchers have seen the last write, and checks everything.
    fn end(self, servers: &Servers) -> history::Summary {
        self.history.stop();
        for client in self.clients {
            self.runtime.block_on(client).unwrap().expect("no client panicked");
        }
        let rests = servers.clients();
        // Never the same twice: what changes nothing has no revision of its own.
        let marker = register("marker", rand::random());
        let last = wait_until("the last write", PATIENCE, || {
            let path = format!("{PATH}/marker");
            // Made by the first run, replaced by later ones.
            let call = |method, path| self.runtime.block_on(rests[0].call(method, path, &marker));
            let mut answer = call(Method::PUT, &path).map_err(|error| error.to_string())?;
            if answer.code == 404 {
                answer = call(Method::POST, PATH).map_err(|error| error.to_string())?;
            }
            revision_of(&answer.body).ok_or_else(|| answer.body.to_string())
        });
        self.last.send(Some(last)).unwrap();
        for watcher in self.watchers {
            let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, watcher).await });
            ended.expect("every watcher sees the last write").unwrap().expect("no watcher panicked");
        }
        let summary = self.history.check();
        everybody_holds_the_same(&self.runtime, &rests);
        summary
    }
}

fn everybody_holds_the_same(runtime: &tokio::runtime::Runtime, rests: &[balsa_testkit::Rest]) {
    let list = |rest: &balsa_testkit::Rest| {
        let answer = runtime.block_on(rest.call(Method::GET, PATH, &Json::Null)).unwrap();
        assert_eq!(answer.code, 200, "{}", answer.body);
        answer.body["items"].clone()
    };
    let first = list(&rests[0]);
    assert!(first.as_array().is_some_and(|items| !items.is_empty()));
    for rest in &rests[1..] {
        assert!(list(rest) == first, "two servers hold different objects");
    }
}

/// A write that has to succeed, soon.
fn write(
    runtime: &tokio::runtime::Runtime,
    rest: &balsa_testkit::Rest,
    method: Method,
    path: &str,
    object: &Json,
) -> Revision {
    wait_until("a write", PATIENCE, || {
        let answer = runtime.block_on(rest.call(method.clone(), path, object));
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.code >= 300 { Err(answer.body.to_string()) } else { Ok(revision_of(&answer.body).unwrap()) }
    })
}
