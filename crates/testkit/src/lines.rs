//! A command that goes on printing, read line by line with a deadline.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::kubectl::cache_of;
use crate::{Cluster, balsa, kubectl_program};

/// How long the next line may take, and the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lines of a running command, which ends when this is dropped.
pub struct Lines {
    command: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    /// `balsa` with these words.
    pub fn of(cluster: &Cluster, line: &str) -> Self {
        Self::of_program(balsa(), cluster, line)
    }

    /// kubectl with these words.
    pub fn of_kubectl(cluster: &Cluster, line: &str) -> Self {
        Self::of_program(Path::new(&kubectl_program()), cluster, line)
    }

    /// Another program with these words.
    pub fn of_program(program: &Path, cluster: &Cluster, line: &str) -> Self {
        let kubeconfig = cluster.kubeconfig();
        let mut child = Command::new(program)
            .args(line.split_whitespace())
            .env("KUBECONFIG", &kubeconfig)
            .env("KUBECACHEDIR", cache_of(&kubeconfig))
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
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        Self { command: format!("{program} {line}"), child, lines, seen: Vec::new() }
    }

    /// Reads on until a line is what it should be.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
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

    /// Reads on until it ends by itself: how, and all that it has printed.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(why) => panic!("{} does not end: {why}; {}", self.command, self.seen.join("\n")),
            }
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
