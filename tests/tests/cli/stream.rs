//! A command that goes on printing, read line by line with a deadline.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use balsa_testkit::{Cluster, balsa};

use crate::PATIENCE;

/// The lines of a running command, which ends when this is dropped.
pub(crate) struct Lines {
    command: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    pub(crate) fn of(cluster: &Cluster, line: &str) -> Self {
        let mut child = Command::new(balsa())
            .args(line.split_whitespace())
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { command: line.to_owned(), child, lines, seen: Vec::new() }
    }

    /// Reads on until a line is what it should be.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line);
                    if self.seen.last().is_some_and(|line| is_it(line)) {
                        return;
                    }
                }
                Err(why) => panic!("{}: {what}: {why}; it printed\n{}", self.command, self.seen.join("\n")),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
