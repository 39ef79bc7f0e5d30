//! The answers of the REST API held against recordings of a reference API server.
//!
//! `golden/` holds the requests and what was answered to them (its README says how they came about).
//! What newer releases add or word differently is in `newer.json`; where this server differs, on purpose
//! or because something is missing, is in `differences.json` with the reason. A difference that nobody
//! listed fails the test, and so does one that is listed and has gone.
#![allow(clippy::unwrap_used)]

#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/compare.rs"]
mod compare;
#[path = "conformance/every_kind.rs"]
mod every_kind;
#[path = "conformance/normal.rs"]
mod normal;
#[path = "conformance/replay.rs"]
mod replay;

use std::collections::BTreeMap;

use balsa_testkit::{Cluster, Options, Rest};
use futures::StreamExt as _;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use case::Entry;
use compare::{Difference, Newer, glob};
use replay::Run;

/// Cases under way at a time: most of them wait for something.
const AT_ONCE: usize = 4;
/// Differences shown of one case.
const SHOWN: usize = 6;

/// A difference that is known.
#[derive(Deserialize)]
struct Known {
    /// A pattern of names of cases.
    case: String,
    /// A pattern of steps; without it all of them.
    #[serde(default)]
    step: String,
    /// Where: `*` is one part of the pointer, `**` any number.
    path: String,
    reason: String,
}

struct KnownRule {
    known: Known,
    case: Regex,
    step: Regex,
    path: Regex,
}

impl KnownRule {
    fn new(known: Known) -> Self {
        let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let step = if known.step.is_empty() { whole(".*") } else { whole(&known.step) };
        Self { case: whole(&known.case), step, path: glob(&known.path), known }
    }

    fn covers(&self, case: &str, difference: &Difference) -> bool {
        self.case.is_match(case)
            && self.step.is_match(&difference.step)
            && self.path.is_match(&difference.path)
    }
}

#[test]
fn answers_are_those_of_the_reference_server() {
    let only = std::env::var("GOLDEN_ONLY").unwrap_or_default();
    let only = Regex::new(&only).unwrap();
    let read = |name: &str| std::fs::read_to_string(case::folder().join(name)).unwrap();
    let newer = Newer::parse(&read("newer.json"));
    let known: Vec<Known> = serde_json::from_str(&read("differences.json")).unwrap();
    let rules: Vec<KnownRule> = known.into_iter().map(KnownRule::new).collect();
    let entries = case::load();
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let wanted = entries.iter().filter(|e| only.is_match(&format!("{}/{}", e.case.area, e.case.name)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let playing = futures::stream::iter(wanted).map(|entry| play(&rest, entry, &newer)).buffered(AT_ONCE);
    let outcomes: Vec<(&Entry, Vec<Difference>)> = runtime.block_on(playing.collect());
    let mut used = vec![false; rules.len()];
    let mut areas: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    let mut told = String::new();
    for (entry, differences) in &outcomes {
        let (name, area) = (&entry.case.name, areas.entry(&entry.case.area).or_default());
        let mut unlisted = |difference: &&Difference| {
            let hits: Vec<usize> = (0..rules.len()).filter(|i| rules[*i].covers(name, difference)).collect();
            hits.iter().for_each(|hit| used[*hit] = true);
            hits.is_empty()
        };
        let unknown: Vec<&Difference> = differences.iter().filter(|d| unlisted(d)).collect();
        match (differences.is_empty(), unknown.is_empty()) {
            (true, _) => area.0 += 1,
            (false, true) => area.1 += 1,
            (false, false) => area.2 += 1,
        }
        if !unknown.is_empty() {
            told.push_str(&format!("{}/{name}: {} differences\n", entry.case.area, unknown.len()));
        }
        for Difference { step, path, golden, got } in unknown.into_iter().take(SHOWN) {
            told.push_str(&format!("   {step} {path}\n      recorded {golden}\n      got      {got}\n"));
        }
    }
    println!("{:14} {:>6} {:>6} {:>6}", "area", "equal", "known", "differ");
    for (area, (equal, known, differ)) in &areas {
        println!("{area:14} {equal:6} {known:6} {differ:6}");
    }
    assert!(told.is_empty(), "answers differ:\n{told}");
    let gone: Vec<String> = rules
        .iter()
        .zip(used)
        .filter(|(_, used)| !used && only.as_str().is_empty())
        .map(|(rule, _)| format!("{} {}: {}", rule.known.case, rule.known.path, rule.known.reason))
        .collect();
    assert!(
        gone.is_empty(),
        "these differences are gone, take them off differences.json:\n{}",
        gone.join("\n")
    );
    cluster.down();
}

#[test]
fn every_kind_has_every_verb_that_it_names() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wrong = runtime.block_on(async {
        let namespace = serde_json::json!({"metadata": {"name": every_kind::NAMESPACE}});
        rest.call(http::Method::POST, "/api/v1/namespaces", &namespace).await.unwrap();
        let (resources, samples) = (every_kind::discover(&rest).await, every_kind::samples());
        let mut wrong = Vec::new();
        for resource in &resources {
            match samples.get(&resource.id) {
                Some(sample) => wrong.append(&mut every_kind::examine(&rest, resource, sample).await),
                None => wrong.push(format!("{}: kinds.yaml has no object of it", resource.id)),
            }
        }
        let served = |id: &String| resources.iter().any(|resource| resource.id == *id);
        wrong.extend(samples.keys().filter(|id| !served(id)).map(|id| format!("{id} is not served")));
        println!("{} kinds were asked", resources.len());
        wrong
    });
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    cluster.down();
}

async fn play<'a>(rest: &Rest, entry: &'a Entry, newer: &Newer) -> (&'a Entry, Vec<Difference>) {
    let golden = entry.golden["steps"].as_array().cloned().unwrap_or_default();
    let mut got: Vec<Value> = Vec::new();
    let outcome = match Run::new(rest, &entry.case).await {
        Ok(mut run) => {
            let outcome = run.all().await;
            got = normal::recording(&run);
            outcome
        }
        Err(error) => Err(error),
    };
    let mut differences = compare::compare(&golden, &got, newer);
    if let Err(error) = outcome {
        differences.push(Difference {
            step: "-".to_owned(),
            path: String::new(),
            golden: "the run to end".into(),
            got: error.to_string().into(),
        });
    }
    (entry, differences)
}
