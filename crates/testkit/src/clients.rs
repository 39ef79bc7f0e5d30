//! Other people's programs: what scripts/clients.sh has installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory that scripts/clients.sh fills. Panics, saying what to do, where it has not: a suite without the
/// clients would show nothing.
pub fn clients() -> PathBuf {
    let home = std::env::var_os("BALSA_CLIENTS").map_or_else(usual_place, PathBuf::from);
    assert!(
        home.join("pins").exists(),
        "{} holds no clients: run scripts/clients.sh, or `make test`, which does",
        home.display()
    );
    home
}

/// Go with gRPC, where scripts/clients.sh could install it: on Debian. It finds packages in `path`, too.
pub fn go(path: &Path) -> Option<Command> {
    let home = clients().join("go");
    if !home.exists() {
        return None;
    }
    let mut go = Command::new(home.join("root/bin/go"));
    go.env("GOROOT", home.join("root")).env("GOCACHE", home.join("cache"));
    go.env("GOPATH", format!("{}:{}", path.display(), home.join("path").display()));
    go.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    Some(go)
}

/// The same as in scripts/lib.sh.
fn usual_place() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("balsa/clients")
}
