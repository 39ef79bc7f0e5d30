//! A cluster as a user has it: `balsa up` in a process of its own, on a free port, with its own
//! directory.
//!
//! Dropping a cluster takes it down. After a failed test it first shows what its pods looked like and
//! the end of its log, and keeps the log's file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::footprint::{Footprint, need_docker};
use crate::kubectl::{Output, kubectl_program, run};
use crate::lock::MachineLock;
use crate::rest::Rest;
use crate::{balsa, wait_until};

/// Starting, on a machine that also runs other tests.
const START: Duration = Duration::from_secs(90);
const LINES_SHOWN: usize = 80;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Agents; 0 is a server alone, which needs no Docker.
    pub nodes: usize,
}

impl Options {
    /// A server and so many agents.
    pub fn nodes(nodes: usize) -> Self {
        Self { nodes }
    }
}

/// A running cluster.
pub struct Cluster {
    options: Options,
    port: u16,
    // Above the data directory, which `down` removes: the log has to outlive it.
    home: Option<tempfile::TempDir>,
    process: Option<Child>,
    before: Footprint,
    down: bool,
    _machine: Option<MachineLock>,
}

impl Cluster {
    /// Starts a cluster and waits until it serves and its nodes are Ready.
    pub fn start(options: Options) -> Self {
        let machine = (options.nodes > 0).then(|| {
            need_docker();
            MachineLock::take()
        });
        let before = if options.nodes > 0 { Footprint::take() } else { Footprint::default() };
        let home = tempfile::Builder::new().prefix("balsa-e2e-").tempdir().unwrap();
        let mut cluster = Self {
            options,
            port: free_port(),
            home: Some(home),
            process: None,
            before,
            down: false,
            _machine: machine,
        };
        cluster.restart();
        cluster
    }

    /// `balsa up` again with the same data, after [`kill9`](Self::kill9) or [`stop`](Self::stop).
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(balsa())
            .args(["up", "--port", &self.port.to_string(), "--nodes", &self.options.nodes.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.process = Some(child);
        wait_until("the server is ready", START, || self.still_runs().and_then(|()| self.serves()));
        let nodes = self.options.nodes;
        wait_until("all nodes are Ready", START, || {
            self.still_runs()?;
            let rows = self.kubectl(["get", "nodes", "--no-headers"]).result()?;
            let ready = rows.lines().filter(|row| row.split_whitespace().nth(1) == Some("Ready")).count();
            if ready == nodes { Ok(()) } else { Err(rows) }
        });
    }

    fn serves(&self) -> Result<(), String> {
        if !self.kubeconfig().exists() {
            return Err("no kubeconfig yet".to_owned());
        }
        let answer = self.kubectl(["get", "--raw", "/readyz"]).result()?;
        if answer.trim() == "ok" { Ok(()) } else { Err(answer) }
    }

    /// Panics if `balsa up` has ended by itself: there is nothing to wait for any more.
    fn still_runs(&mut self) -> Result<(), String> {
        let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
        match ended {
            Some(status) => panic!("balsa up has ended: {status}"),
            None => Ok(()),
        }
    }

    /// `kill -9` of the server and of all agents, with no warning.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    /// Ctrl-C: the servers stop, the containers stay.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGINT);
    }

    fn signal(&mut self, signal: Signal) {
        let Some(mut process) = self.process.take() else { return };
        killpg(Pid::from_raw(process.id().try_into().unwrap()), signal).ok();
        let ended = deadline_wait(&mut process, START);
        if !ended {
            process.kill().ok();
            process.wait().ok();
        }
        assert!(ended || std::thread::panicking(), "balsa up does not end on {signal}");
    }

    /// `balsa down`: takes everything away; panics if anything is left on the machine.
    pub fn down(mut self) {
        self.take_down().ok();
        let data_dir = self.data_dir();
        wait_until("nothing is left", Duration::from_secs(30), || {
            let mut left: Vec<_> = files_below(&data_dir);
            if self.options.nodes > 0 {
                left.extend(Footprint::take().since(&self.before));
            }
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    fn take_down(&mut self) -> Result<String, String> {
        self.down = true;
        let data_dir = self.data_dir();
        let answer = self.balsa(["down".as_ref(), "--data-dir".as_ref(), data_dir.as_os_str()]);
        if let Some(mut process) = self.process.take()
            && !deadline_wait(&mut process, START)
        {
            process.kill().ok();
            process.wait().ok();
            return Err("balsa up still ran after balsa down".to_owned());
        }
        answer.result()
    }

    /// kubectl with this cluster's kubeconfig.
    pub fn kubectl<I, S>(&self, arguments: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&kubectl_program(), arguments, Some(&self.kubeconfig()), "")
    }

    /// kubectl with a manifest on standard input.
    pub fn kubectl_with<I, S>(&self, arguments: I, input: &str) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&kubectl_program(), arguments, Some(&self.kubeconfig()), input)
    }

    /// `kubectl apply -f -`.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(["apply", "-f", "-"], manifest).ok()
    }

    /// One value of an object, by JSONPath.
    pub fn value(&self, namespace: &str, object: &str, path: &str) -> Result<String, String> {
        let path = format!("jsonpath={path}");
        self.kubectl(["-n", namespace, "get", object, "-o", &path]).result()
    }

    /// Our own command line.
    pub fn balsa<I, S>(&self, arguments: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&balsa().to_string_lossy(), arguments, Some(&self.kubeconfig()), "")
    }

    /// A client of its REST API.
    pub fn rest(&self) -> Rest {
        Rest::from_kubeconfig(&self.kubeconfig()).unwrap()
    }

    /// The names of its nodes.
    pub fn node_names(&self) -> Vec<String> {
        let rows = self.kubectl(["get", "nodes", "-o", "name"]).ok();
        rows.lines().filter_map(|row| row.strip_prefix("node/")).map(str::to_owned).collect()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    fn home(&self) -> &Path {
        self.home.as_ref().unwrap().path()
    }

    fn log_path(&self) -> PathBuf {
        self.home().join("log")
    }

    /// What somebody who looks into a failure wants to see first.
    fn tell(&mut self) {
        if self.process.is_some() {
            for what in ["nodes", "pods,services,pvc", "events"] {
                let told = self.kubectl(["get", what, "-A", "-o", "wide", "--request-timeout=5s"]);
                eprintln!("--- {told}");
            }
        }
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        eprintln!("--- the end of {}", self.log_path().display());
        eprintln!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.tell();
        }
        if !self.down
            && let Err(error) = self.take_down()
        {
            eprintln!("--- balsa down: {error}");
        }
        if failed && let Some(home) = self.home.take() {
            let _kept = home.keep();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether the process ended in time.
fn deadline_wait(process: &mut Child, limit: Duration) -> bool {
    let deadline = std::time::Instant::now() + limit;
    while std::time::Instant::now() < deadline {
        if process.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}
