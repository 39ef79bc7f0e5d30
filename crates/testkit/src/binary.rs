//! Finds the `balsa` program beside the running test, and builds it when it is missing or older than
//! its sources. `BALSA_BIN` names another one.
//!
//! The program of the build before is made by `scripts/previous.sh`; `BALSA_PREVIOUS` names another one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// The program under test.
pub fn balsa() -> &'static Path {
    PROGRAM.get_or_init(|| match std::env::var_os("BALSA_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside_the_test(),
    })
}

/// `<target dir>/<profile>/balsa`; the test itself is `<target dir>/<profile>/deps/<name>`.
fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("balsa");
    let built = modified(&program);
    if built.is_none_or(|built| newest_source() > built) {
        build(profile);
    }
    assert!(program.exists(), "{}: cargo has built the program somewhere else", program.display());
    program
}

/// The program of the build before, of the commit that `tests/previous-build` names. `None` where it was not made.
pub fn previous_balsa() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("BALSA_PREVIOUS").map(PathBuf::from) {
        assert!(named.exists(), "BALSA_PREVIOUS is {}, and nothing is there", named.display());
        return Some(named);
    }
    let line = std::fs::read_to_string(root().join("tests/previous-build")).unwrap();
    let commit = line.split(' ').next().unwrap();
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    Some(target.join("previous").join(commit).join("balsa")).filter(|program| program.exists())
}

fn build(profile: &Path) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "balsa"]).current_dir(root());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().unwrap();
    assert!(status.success(), "the program does not build: run cargo build -p balsa");
}

/// The workspace. Asked now, not when compiled: clones may share a target directory.
pub fn root() -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    let mut above = Path::new(&package).ancestors();
    above.find(|folder| folder.join("Cargo.lock").exists()).unwrap().to_owned()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// When the youngest file changed that the program is made of.
fn newest_source() -> SystemTime {
    let mut newest = modified(&root().join("Cargo.lock")).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut folders = vec![root().join("proto")];
    for member in std::fs::read_dir(root().join("crates")).unwrap().flatten() {
        if member.file_name() != "testkit" {
            folders.push(member.path().join("src"));
        }
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => newest = newest.max(modified(&entry.path()).unwrap_or(newest)),
            }
        }
    }
    newest
}
