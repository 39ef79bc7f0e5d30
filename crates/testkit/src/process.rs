//! Processes of the program under test: started with their output in a log, signalled, and waited for.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::balsa;

/// How long a process may take to end in good order.
const END: Duration = Duration::from_secs(90);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// A running `balsa`, in a process group of its own.
pub(crate) struct Process {
    what: String,
    child: Child,
}

impl Process {
    /// Starts `balsa` with these arguments, and a `PATH` of its own if one is given; what it prints goes to
    /// the end of `log`.
    pub(crate) fn start<I, S>(what: &str, arguments: I, path: Option<&Path>, log: &Path) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(balsa())
            .args(arguments)
            .envs(path.map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { what: what.to_owned(), child }
    }

    /// What it is: `up`, `server`, or the name of an agent.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Panics if it has ended by itself: there is nothing to wait for any more.
    pub(crate) fn still_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} has ended: {status}", self.what);
        }
    }

    /// Sends a signal and waits until it has ended: how. Panics when it does not.
    pub(crate) fn end(mut self, signal: Signal) -> Option<ExitStatus> {
        killpg(Pid::from_raw(self.child.id().try_into().unwrap()), signal).ok();
        let ended = self.ends();
        assert!(ended || std::thread::panicking(), "{} does not end on {signal}", self.what);
        self.child.try_wait().ok().flatten()
    }

    /// Whether it ends without being told to, soon; if not it is killed.
    pub(crate) fn ends(&mut self) -> bool {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        self.child.kill().ok();
        self.child.wait().ok();
        false
    }
}
