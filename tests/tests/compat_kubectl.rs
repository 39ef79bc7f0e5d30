//! Every command of kubectl that needs no containers, by every kubectl that is found: the one in
//! `PATH` (or `KUBECTL`), and its siblings `kubectl.1.NN`, or those in `KUBECTL_DIR`.
//!
//! One table of commands for all versions, in the order in which they build on each other; each version
//! works in a namespace of its own. A command is wrong when it ends otherwise than the table says, or does
//! not say what is expected of it.
#![allow(clippy::unwrap_used)]

#[path = "compat_kubectl/table.rs"]
mod table;

use std::path::{Path, PathBuf};

use balsa_testkit::{Cluster, Options, kubectl_program};
use table::{Row, rows};

/// A kubectl, and what to call it.
struct Version {
    name: String,
    /// Of the one in `PATH` it is not known.
    minor: u32,
    program: PathBuf,
}

fn versions() -> Vec<Version> {
    let program = which(&kubectl_program());
    let folder = match std::env::var_os("KUBECTL_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => program.canonicalize().unwrap().parent().unwrap().to_owned(),
    };
    let mut found: Vec<Version> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let minor = path.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.to_owned();
            let minor: u32 = minor.parse().ok()?;
            Some(Version { name: format!("v1-{minor}"), minor, program: path })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        found.push(Version { name: "in-path".to_owned(), minor: u32::MAX, program });
    }
    found
}

fn which(program: &str) -> PathBuf {
    if program.contains('/') {
        return program.into();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&folders).map(|folder| folder.join(program));
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("{program} is not in PATH"))
}

#[test]
fn every_command_of_every_kubectl() {
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
