//! Which seeds are run, each in its own process, and what is said about one that fails.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::faults::{self, Script};

/// Runs of `make test`, where no number is asked for.
const FIXED: std::ops::RangeInclusive<u64> = 1..=8;
const FRESH: u64 = 4;
/// Simulated minutes take seconds; a run that takes longer than this does not come to an end.
const PATIENCE: Duration = Duration::from_secs(300);

/// What [`one_run`] is told by those who start it.
const SEED: &str = "BALSA_SEED";
const SCRIPT: &str = "BALSA_SCRIPT";
/// How many fresh seeds are wanted.
const SEEDS: &str = "BALSA_SEEDS";

/// Opens the line with a run's fingerprint.
const DID: &str = "did";

/// One run in this process: of the seed that is given, or of a fresh one.
#[test]
#[ignore = "started by the others, or by `make simulate SEED=…`"]
fn one_run() {
    let seed = number(SEED).unwrap_or_else(fresh);
    let script = std::env::var(SCRIPT).map_or(Script::Drawn, |name| Script::named(&name));
    balsa_entropy::seed(seed);
    // A thread of its own: this one may have drawn from the system already.
    let run = std::thread::spawn(move || faults::run(seed, script)).join();
    match run {
        Ok(summary) => println!("seed {seed}: {summary}\n{DID} {:016x}", summary.fingerprint),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn what_was_told_is_true() {
    all(FIXED, 1);
}

#[test]
fn fresh_seeds_find_nothing_either() {
    let wanted = number(SEEDS);
    // Beside the other tests, one at a time; by themselves, as many as there are processors.
    let at_once = wanted.and_then(|_| std::thread::available_parallelism().ok()).map_or(1, usize::from);
    let first = fresh();
    all((0..wanted.unwrap_or(FRESH)).map(|number| first.wrapping_add(number)), at_once);
}

#[test]
fn a_seed_repeats_itself() {
    assert_eq!(run(42, Script::Drawn), run(42, Script::Drawn), "two runs of one seed differ");
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// From the clock: nothing else is asked, so that what is asked for at random follows from the seed.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64 & (u64::MAX >> 8)
}

/// Runs seeds, some at once. Goes on after a failure: each is worth knowing.
fn all(seeds: impl IntoIterator<Item = u64, IntoIter: Send>, at_once: usize) {
    let seeds = Mutex::new(seeds.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(seed) = { seeds.lock().unwrap().next() } {
                    if std::panic::catch_unwind(|| run(seed, Script::Drawn)).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these seeds failed: {failed:?}; `make simulate SEED=…` repeats one");
}

/// A run in a process of its own: what it did, as one number. Panics with all that it said if it failed.
pub(crate) fn run(seed: u64, script: Script) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "seeds::one_run", "--nocapture", "--ignored"]);
    child.env(SEED, seed.to_string()).env(SCRIPT, script.name()).env_remove(SEEDS);
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = limited(child);
    let said = String::from_utf8_lossy(&output.stdout);
    let fingerprint = said.lines().find_map(|line| line.strip_prefix(DID));
    let (true, Some(fingerprint)) = (output.status.success(), fingerprint) else {
        let script = script.name();
        eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
        panic!(
            "seed {seed} failed ({}); `make simulate SEED={seed} SCRIPT={script}` repeats it",
            output.status
        );
    };
    said.lines().filter(|line| line.starts_with("seed")).for_each(|line| println!("{line}"));
    fingerprint.trim().to_owned()
}

/// Waits for the process, and kills one that does not end.
fn limited(child: std::process::Child) -> std::process::Output {
    let id = child.id().to_string();
    let (ended, watched) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        output
    })
}
