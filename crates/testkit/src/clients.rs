//! Other people's programs: what scripts/clients.sh has installed.

use std::path::PathBuf;

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

/// The same as in scripts/lib.sh.
fn usual_place() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("balsa/clients")
}
