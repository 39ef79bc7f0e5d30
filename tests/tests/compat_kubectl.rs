//! Every command of kubectl that needs no containers, by every kubectl that is found: the one in
//! `PATH` (or `KUBECTL`), and its siblings `kubectl.1.NN`, or those in `KUBECTL_DIR`.
//!
//! One table of commands for all versions, in the order in which they build on each other; each version
//! works in a namespace of its own. A command is wrong when it ends otherwise than the table says, or does
//! not say what is expected of it. What more than one command is about is in `flows`.
#![allow(clippy::unwrap_used)]

#[path = "compat_kubectl/flows.rs"]
mod flows;
#[path = "compat_kubectl/more.rs"]
mod more;
#[path = "compat_kubectl/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use balsa_testkit::{Cluster, Options, has_kubectl, kubectl_programs};
use serde_json::Value;
use table::{Row, rows};

/// A kubectl, and what to call it.
struct Version {
    name: String,
    minor: u32,
    program: PathBuf,
}

fn versions() -> Vec<Version> {
    kubectl_programs().into_iter().map(version).collect()
}

fn version(program: PathBuf) -> Version {
    let name = program.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_prefix("kubectl.1.")?.parse().ok()) {
        Some(minor) => Version { name: format!("v1-{minor}"), minor, program },
        None => Version { name: "in-path".to_owned(), minor: minor(&program), program },
    }
}

/// What a program says that it is: 33 of v1.33.
fn minor(program: &Path) -> u32 {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let minor = said.pointer("/clientVersion/minor").and_then(Value::as_str).unwrap_or_default();
    minor.trim_end_matches('+').parse().unwrap_or_else(|_| panic!("{} says {said}", program.display()))
}

#[test]
fn every_command_of_every_kubectl() {
    if !has_kubectl() {
        println!("there is no kubectl here: the suite story is told by kube-rs");
        return;
    }
    let versions = versions();
    let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
    println!("kubectl: {}", names.join(", "));
    let cluster = Cluster::start(Options::nodes(0));
    let mut wrong = Vec::new();
    for version in &versions {
        let folder = tempfile::tempdir().unwrap();
        table::write_files(folder.path(), &version.name);
        for row in rows().iter().filter(|row| row.since <= version.minor) {
            wrong.extend(run(&cluster, version, folder.path(), row));
        }
        flows::acts(&cluster, version, folder.path());
    }
    assert!(wrong.is_empty(), "{} commands:\n{}", wrong.len(), wrong.join("\n"));
    cluster.down();
}

/// What is wrong with one command, if anything.
fn run(cluster: &Cluster, version: &Version, folder: &Path, row: &Row) -> Option<String> {
    let fill = |text: &str| text.replace("{ns}", &version.name).replace("{dir}", &folder.to_string_lossy());
    let words: Vec<String> = words(&fill(row.command));
    let answer = cluster.run_kubectl(&version.program, &words);
    let said = format!("{}{}", answer.stdout, answer.stderr);
    let ended = (answer.code == 0) == row.works;
    let missing: Vec<&&str> = row.says.iter().filter(|part| !said.contains(&fill(part))).collect();
    if ended && missing.is_empty() {
        return None;
    }
    Some(format!(
        "{}: {answer}\n   expected {} and {missing:?}\n",
        version.name,
        if row.works { "success" } else { "failure" }
    ))
}

/// The words of a command line; single quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
