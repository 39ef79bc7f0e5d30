//! The crates' floors (ARCHITECTURE.md) against the manifests: imports only point down, and a heavy
//! dependency enters through the crates that are named here and in `deny.toml`.
//!
//! Nothing is compiled for it: `cargo metadata` says what the manifests say.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ALL: &[&str] = &["*"];

/// Crate, floor, and which crates of the workspace it may import. `*`: all on lower floors.
const FLOORS: &[(&str, u8, &[&str])] = &[
    ("balsa-model", 0, &[]),
    ("balsa-rt", 0, &[]),
    ("balsa-entropy", 0, &[]),
    ("balsa-spdy", 0, &[]),
    ("balsa-proto", 1, &["balsa-model"]),
    ("balsa-runtime", 1, &["balsa-model", "balsa-rt"]),
    ("balsa-net", 1, &["balsa-model", "balsa-rt"]),
    ("balsa-log", 2, &["balsa-proto", "balsa-rt"]),
    ("balsa-client", 2, &["balsa-model", "balsa-proto", "balsa-rt"]),
    ("balsa-state", 3, &["balsa-model", "balsa-log", "balsa-rt"]),
    ("balsa-scheduler", 3, &["balsa-model", "balsa-client", "balsa-rt"]),
    ("balsa-controllers", 3, &["balsa-model", "balsa-client", "balsa-rt"]),
    (
        "balsa-server",
        4,
        &[
            "balsa-model",
            "balsa-rt",
            "balsa-spdy",
            "balsa-proto",
            "balsa-log",
            "balsa-client",
            "balsa-state",
            "balsa-scheduler",
            "balsa-controllers",
        ],
    ),
    (
        "balsa-agent",
        4,
        &["balsa-model", "balsa-proto", "balsa-client", "balsa-runtime", "balsa-net", "balsa-rt"],
    ),
    ("balsa", 5, ALL),
    ("balsa-testkit", 6, ALL),
    ("balsa-loadtest", 7, ALL),
    ("balsa-tests", 7, ALL),
];

/// Dependency, and the crates that alone may use it outside of tests.
///
/// Some rows are wider than the rule "one heavy dependency, one crate": agents serve `/metrics` with
/// axum (and the binary gives them the port), and informers' caches are the same persistent maps as the state's views.
const ALONE: &[(&str, &[&str])] = &[
    ("openraft", &["balsa-log"]),
    // A suite damages tables, which nothing of ours can.
    ("rocksdb", &["balsa-log", "balsa-tests"]),
    ("bollard", &["balsa-runtime"]),
    ("nftables", &["balsa-net"]),
    ("rtnetlink", &["balsa-net"]),
    ("hickory-server", &["balsa-net"]),
    ("hickory-proto", &["balsa-net"]),
    ("imbl", &["balsa-state", "balsa-client"]),
    ("axum", &["balsa-server", "balsa-agent", "balsa"]),
    ("jsonwebtoken", &["balsa-server"]),
    // The public contract is generated in `proto`; log and state keep their own stored forms to themselves,
    // and the load generator speaks to an etcd.
    ("tonic-prost-build", &["balsa-proto", "balsa-log", "balsa-state", "balsa-loadtest"]),
];

/// What must stay away from a crate: it knows no kinds, or does no I/O.
const NEVER: &[(&str, &[&str])] = &[
    ("balsa-model", &["tokio", "tonic", "futures", "async-trait", "tracing", "metrics", "rand", "uuid"]),
    ("balsa-log", &["k8s-openapi", "serde_json"]),
    ("balsa-rt", &["k8s-openapi", "tonic"]),
    ("balsa-net", &["k8s-openapi", "tonic"]),
    ("balsa-runtime", &["k8s-openapi", "tonic"]),
];

fn root() -> PathBuf {
    // Asked now, not when compiled: clones may share a target directory.
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    Path::new(&manifest).parent().unwrap().to_owned()
}

/// The members of the workspace, as `cargo metadata` describes them.
fn packages() -> BTreeMap<String, Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), package.clone())).collect()
}

/// Names of a package's dependencies; those of its tests only when asked for.
fn dependencies(package: &Value, with_tests: bool) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().unwrap().iter();
    let wanted = all.filter(|dependency| with_tests || dependency["kind"].as_str() != Some("dev"));
    wanted.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
}

fn floor(name: &str) -> Option<&'static (&'static str, u8, &'static [&'static str])> {
    FLOORS.iter().find(|(known, ..)| *known == name)
}

#[test]
fn every_crate_has_a_floor() {
    let found: BTreeSet<String> = packages().into_keys().collect();
    let known: BTreeSet<String> = FLOORS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(found, known, "a crate was added or removed: tell FLOORS and ARCHITECTURE.md");
}

#[test]
fn imports_only_point_down() {
    let mut wrong = Vec::new();
    for (name, package) in packages() {
        let (_, own, may) = floor(&name).unwrap();
        for dependency in dependencies(&package, false) {
            let Some((_, below, _)) = floor(&dependency) else { continue };
            let named = *may == ALL || may.contains(&dependency.as_str());
            // Two on one floor never import each other.
            if !named || below >= own {
                wrong.push(format!("{name} may not import {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tests_import_nothing_above_but_the_testkit() {
    let mut wrong = Vec::new();
    for (name, package) in packages() {
        let (_, own, _) = floor(&name).unwrap();
        for dependency in dependencies(&package, true) {
            let Some((_, below, _)) = floor(&dependency) else { continue };
            if below >= own && dependency != "balsa-testkit" {
                wrong.push(format!("the tests of {name} may not import {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn heavy_dependencies_enter_through_their_crate_alone() {
    let mut wrong = Vec::new();
    for (name, package) in packages() {
        let used = dependencies(&package, false);
        for (heavy, owners) in ALONE {
            if used.contains(*heavy) && !owners.contains(&name.as_str()) {
                wrong.push(format!("{name} may not use {heavy}: it belongs to {owners:?}"));
            }
        }
        for (_, forbidden) in NEVER.iter().filter(|(crate_name, _)| *crate_name == name) {
            let found = forbidden.iter().filter(|dependency| used.contains(**dependency));
            wrong.extend(found.map(|dependency| format!("{name} must do without {dependency}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_program_draws_its_keys_from_a_seed() {
    for (name, package) in packages() {
        let used = dependencies(&package, false);
        assert!(!used.contains("balsa-entropy"), "balsa-entropy is for tests, not for what {name} is");
    }
}

#[test]
fn deny_toml_says_the_same() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    for (heavy, owners) in ALONE {
        let key = format!("crate = \"{heavy}\"");
        let line =
            text.lines().find(|line| line.contains(&key)).unwrap_or_else(|| panic!("no line with {key}"));
        for owner in *owners {
            assert!(
                line.contains(&format!("\"{owner}\"")),
                "deny.toml does not let {owner} use {heavy}: {line}"
            );
        }
        let ours = line.matches("\"balsa").count();
        assert_eq!(ours, owners.len(), "deny.toml lets others of ours use {heavy}: {line}");
    }
}

#[test]
fn programs_are_where_they_belong() {
    for (name, package) in packages() {
        let targets = package["targets"].as_array().unwrap().iter();
        let programs = targets.filter(|target| target["kind"][0] == "bin").count();
        // The suites build the example of a client, so that it is run.
        let may = matches!(name.as_str(), "balsa" | "balsa-loadtest" | "balsa-testkit" | "balsa-tests");
        assert!(programs == 0 || may, "{name} has a main; only the binary, the tools and examples have one");
    }
}

#[test]
fn every_crate_is_on_the_map_and_says_what_it_is_for() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (name, package) in packages() {
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not know {name}");
        let sources = package["targets"].as_array().unwrap().iter();
        let main = sources.filter(|target| matches!(target["kind"][0].as_str(), Some("lib" | "bin")));
        for target in main {
            let path = target["src_path"].as_str().unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.starts_with("//! "), "{path} does not open with what it is for");
            let lines = text.lines().take_while(|line| line.starts_with("//!"));
            let words: usize = lines.map(|line| line.split_whitespace().count()).sum();
            assert!(words > 3, "{path} opens with too little");
        }
    }
}
