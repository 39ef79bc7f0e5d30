//! A cluster as a user has it: `balsa up` in a process of its own, or `balsa server` and `balsa agent`
//! each in theirs, on a free port, with its own directory.
//!
//! Dropping a cluster takes it down. After a failed test it first shows what its pods looked like and
//! the end of its log, and keeps the log's file.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use http::Method;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::footprint::{self, Footprint, need_docker};
use crate::kubectl::{Output, kubectl_program, run};
use crate::lock::MachineLock;
use crate::process::Process;
use crate::rest::{Answer, Rest};
use crate::{balsa, wait_until};

/// Starting, on a machine that also runs other tests.
const START: Duration = Duration::from_secs(90);
const LINES_SHOWN: usize = 80;
const SERVER: &str = "server";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Agents; 0 is a server alone, which needs no Docker.
    pub nodes: usize,
    /// Whether server and agents are processes of their own.
    pub apart: bool,
    /// More words on the command line of the server.
    pub server: Vec<String>,
    /// Programs that its machine does not have.
    pub missing: Vec<String>,
}

impl Options {
    /// A server and so many agents, all in one process.
    pub fn nodes(nodes: usize) -> Self {
        Self { nodes, apart: false, server: Vec::new(), missing: Vec::new() }
    }

    /// A server and so many agents, each a process; the agents join by a bootstrap token.
    pub fn apart(nodes: usize) -> Self {
        Self { apart: true, ..Self::nodes(nodes) }
    }

    /// With more words on the command line of the server, or of `balsa up`.
    #[must_use]
    pub fn with(mut self, words: &[&str]) -> Self {
        self.server.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// On a machine that has no such program.
    #[must_use]
    pub fn without(mut self, program: &str) -> Self {
        self.missing.push(program.to_owned());
        self
    }
}

/// A running cluster.
pub struct Cluster {
    options: Options,
    port: u16,
    // Above the data directory, which `down` removes: the log has to outlive it.
    home: Option<tempfile::TempDir>,
    processes: Vec<Process>,
    before: Footprint,
    down: bool,
    machine: Option<MachineLock>,
}

impl Cluster {
    /// Starts a cluster and waits until it serves and its nodes are Ready.
    pub fn start(options: Options) -> Self {
        let machine = (options.nodes > 0).then(|| {
            need_docker();
            MachineLock::take()
        });
        Self::begin(options, machine)
    }

    /// Starts another cluster on the same machine, while this one goes on.
    pub fn beside(&self, options: Options) -> Self {
        Self::begin(options, None)
    }

    fn begin(options: Options, machine: Option<MachineLock>) -> Self {
        let before = if options.nodes > 0 { Footprint::take() } else { Footprint::default() };
        let home = tempfile::Builder::new().prefix("balsa-e2e-").tempdir().unwrap();
        let mut cluster = Self {
            options,
            port: free_port(),
            home: Some(home),
            processes: Vec::new(),
            before,
            down: false,
            machine,
        };
        let data_dir = cluster.data_dir();
        if let Some(machine) = &mut cluster.machine {
            machine.holds(&data_dir);
        }
        if cluster.options.apart && cluster.options.nodes > 0 {
            cluster.options.server.extend(free_range(&cluster.options.server));
        }
        if !cluster.options.missing.is_empty() {
            link_programs(&cluster.programs(), &cluster.options.missing);
        }
        cluster.restart();
        cluster
    }

    /// Starts what does not run, with the same data: after [`kill9`](Self::kill9) or [`stop`](Self::stop).
    pub fn restart(&mut self) {
        let first = if self.options.apart { SERVER } else { "up" };
        if !self.runs(first) {
            let mut arguments = self.arguments(first);
            if !self.options.apart {
                arguments.extend(["--nodes".into(), self.options.nodes.to_string().into()]);
            }
            self.processes.push(Process::start(first, arguments, self.path().as_deref(), &self.log_path()));
        }
        wait_until("the server is ready", START, || self.still_serves());
        let agents = if self.options.apart { self.options.nodes } else { 0 };
        for name in (1..=agents).map(|number| format!("e2e-{number}")) {
            self.start_agent(&name);
        }
        let nodes = self.options.nodes;
        wait_until("all nodes are Ready", START, || {
            self.processes.iter_mut().for_each(Process::still_runs);
            let rows = self.balsa(["get", "nodes", "--no-headers"]).result()?;
            let ready = rows.lines().filter(|row| row.split_whitespace().nth(1) == Some("Ready")).count();
            if ready == nodes { Ok(()) } else { Err(rows) }
        });
    }

    fn arguments(&self, command: &str) -> Vec<OsString> {
        let port = self.port.to_string();
        let mut arguments: Vec<OsString> = [command, "--port", &port, "--data-dir"].map(Into::into).into();
        arguments.push(self.data_dir().into());
        arguments.extend(self.options.server.iter().map(OsString::from));
        arguments
    }

    fn runs(&self, what: &str) -> bool {
        self.processes.iter().any(|process| process.what() == what)
    }

    /// An agent needs a token the first time only; afterwards it has a certificate.
    fn start_agent(&mut self, name: &str) {
        if self.runs(name) {
            return;
        }
        let server = format!("127.0.0.1:{}", self.port);
        let port = free_port().to_string();
        let words = ["agent", "--server", &server, "--name", name, "--metrics-port", &port, "--data-dir"];
        let mut arguments: Vec<OsString> = words.map(Into::into).into();
        arguments.push(self.data_dir().into());
        if !self.data_dir().join("nodes").join(name).exists() {
            // The namespace that keeps tokens comes a moment after the leader.
            let token = wait_until("the server makes a token", START, || {
                self.balsa(["token", "create", "--ttl=10m"]).result()
            });
            arguments.extend(["--token".into(), token.trim().into()]);
        }
        self.processes.push(Process::start(name, arguments, self.path().as_deref(), &self.log_path()));
    }

    fn still_serves(&mut self) -> Result<(), String> {
        self.processes.iter_mut().for_each(Process::still_runs);
        if !self.kubeconfig().exists() {
            return Err("no kubeconfig yet".to_owned());
        }
        let answer = self.request(Method::GET, "/readyz", &Value::Null)?;
        if answer.code == 200 { Ok(()) } else { Err(format!("{} {}", answer.code, answer.body)) }
    }

    /// `kill -9` of the server and of all agents, with no warning.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL, |_| true);
    }

    /// `kill -9` of the server alone, where it is a process of its own.
    pub fn kill9_server(&mut self) {
        self.signal(Signal::SIGKILL, |what| what == SERVER);
    }

    /// `kill -9` of all agents and not of the server, where they are processes of their own.
    pub fn kill9_agents(&mut self) {
        self.signal(Signal::SIGKILL, |what| what.starts_with("e2e-"));
    }

    /// `kill -9` of one agent, where it is a process of its own. It stays away until
    /// [`restart`](Self::restart).
    pub fn kill9_agent(&mut self, name: &str) {
        self.signal(Signal::SIGKILL, |what| what == name);
    }

    /// Ctrl-C: the servers stop, the containers stay.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGINT, |_| true);
    }

    fn signal(&mut self, signal: Signal, meant: impl Fn(&str) -> bool) {
        let (ending, staying) = self.processes.drain(..).partition(|process| meant(process.what()));
        self.processes = staying;
        let ending: Vec<Process> = ending;
        assert!(!ending.is_empty() || std::thread::panicking(), "no such process runs");
        for process in ending {
            process.end(signal);
        }
    }

    /// SIGTERM to one agent, where it is a process of its own: how it ended, and after how long. It stays
    /// away until [`restart`](Self::restart).
    pub fn ask_agent_to_stop(&mut self, name: &str) -> (ExitStatus, Duration) {
        let place = self.processes.iter().position(|process| process.what() == name);
        let process = self.processes.remove(place.expect("no such agent runs"));
        let asked = Instant::now();
        let status = process.end(Signal::SIGTERM);
        (status.expect("it has ended"), asked.elapsed())
    }

    /// `balsa down`: takes everything away; panics if anything is left on the machine.
    pub fn down(mut self) {
        self.take_down().unwrap();
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
        let down = ["down".as_ref(), "--data-dir".as_ref(), data_dir.as_os_str()];
        let answer = match self.path() {
            Some(path) => self.program(balsa(), down, &[("PATH", &path)]),
            None => self.balsa(down),
        };
        for mut process in self.processes.drain(..) {
            if !process.ends() {
                return Err(format!("{} still ran after balsa down; {answer}", process.what()));
            }
        }
        let answer = answer.result()?;
        if let Some(machine) = &mut self.machine {
            machine.released();
        }
        Ok(answer)
    }

    /// kubectl with this cluster's kubeconfig.
    pub fn kubectl<I, S>(&self, arguments: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&kubectl_program(), arguments, Some(&self.kubeconfig()), "")
    }

    /// Another kubectl than the usual one.
    pub fn run_kubectl(&self, program: &Path, arguments: &[String]) -> Output {
        run(&program.to_string_lossy(), arguments, Some(&self.kubeconfig()), "")
    }

    /// kubectl with a manifest on standard input.
    pub fn kubectl_with<I, S>(&self, arguments: I, input: &str) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&kubectl_program(), arguments, Some(&self.kubeconfig()), input)
    }

    /// Our own command line.
    pub fn balsa<I, S>(&self, arguments: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.balsa_with(arguments, "")
    }

    /// Our own command line with something on standard input.
    pub fn balsa_with<I, S>(&self, arguments: I, input: &str) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(&balsa().to_string_lossy(), arguments, Some(&self.kubeconfig()), input)
    }

    /// Another program that finds the cluster by its environment, and the program under test as `BALSA`.
    pub fn program<I, S>(&self, program: &Path, arguments: I, environment: &[(&str, &Path)]) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let set = |(name, value): &(&str, &Path)| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        let mut words: Vec<OsString> = environment.iter().map(set).collect();
        words.push(set(&("BALSA", balsa())));
        words.push(program.into());
        words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        run("env", words, Some(&self.kubeconfig()), "")
    }

    /// `balsa apply -f -`.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.balsa_with(["apply", "-f", "-"], manifest).ok()
    }

    /// One request of the REST API, from where there is no asynchronous runtime.
    pub fn request(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        Rest::from_kubeconfig(&self.kubeconfig())
            .and_then(|rest| rest.call_now(method, path, body))
            .map_err(|error| format!("{path}: {error:#}"))
    }

    /// One value of an object, by JSONPath.
    pub fn value(&self, namespace: &str, object: &str, path: &str) -> Result<String, String> {
        let path = format!("jsonpath={path}");
        self.balsa(["get", object, "-n", namespace, "-o", &path]).result()
    }

    /// One patch by the REST API, of the given content type.
    pub fn patch(&self, path: &str, content_type: &str, patch: &Value) -> Result<Answer, String> {
        Rest::from_kubeconfig(&self.kubeconfig())
            .and_then(|rest| rest.raw_now(Method::PATCH, path, content_type, patch.to_string().into()))
            .map_err(|error| format!("{path}: {error:#}"))
    }

    /// What is at a path of the REST API.
    pub fn read(&self, path: &str) -> Result<Value, String> {
        let answer = self.request(Method::GET, path, &Value::Null)?;
        if answer.code == 200 { Ok(answer.body) } else { Err(format!("{path}: {}", answer.body)) }
    }

    /// A client of its REST API.
    pub fn rest(&self) -> Rest {
        Rest::from_kubeconfig(&self.kubeconfig()).unwrap()
    }

    /// The names of its nodes, as the cluster says.
    pub fn node_names(&self) -> Vec<String> {
        let rows = self.balsa(["get", "nodes", "-o", "name"]).ok();
        rows.lines().filter_map(|row| row.strip_prefix("node/")).map(str::to_owned).collect()
    }

    /// The name of its first node, also when nobody can be asked.
    pub fn node_name(&self) -> String {
        let folders = std::fs::read_dir(self.data_dir().join("nodes")).unwrap().flatten();
        folders.map(|folder| folder.file_name().into_string().unwrap()).min().expect("it has a node")
    }

    /// Where a node tells how it is, as its Node says.
    ///
    /// # Errors
    /// When the cluster has no such node, or does not answer.
    pub fn agent(&self, node: &str) -> Result<SocketAddr, String> {
        let node = self.read(&format!("/api/v1/nodes/{node}"))?;
        let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let inner = addresses.iter().find(|address| address["type"] == "InternalIP");
        let address = inner.and_then(|address| address["address"].as_str()).unwrap_or_default();
        format!("{address}:{port}").parse().map_err(|error| format!("{address}:{port}: {error}"))
    }

    /// Where the API answers on this machine.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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

    /// Where its processes find other programs, if that is not where everybody does.
    fn path(&self) -> Option<PathBuf> {
        (!self.options.missing.is_empty()).then(|| self.programs())
    }

    fn programs(&self) -> PathBuf {
        self.home().join("programs")
    }

    fn log_path(&self) -> PathBuf {
        self.home().join("log")
    }

    /// What somebody who looks into a failure wants to see first.
    fn tell(&mut self) {
        if !self.processes.is_empty() {
            for what in ["nodes", "pods,services,pvc", "events"] {
                eprintln!("--- {}", self.balsa(["get", what, "-A", "-o", "wide"]));
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

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// `balsa up` looks for addresses that nobody uses, `balsa server` does not: where those of pods are taken, by a
/// cluster that rests, say, the words that name others.
fn free_range(given: &[String]) -> Vec<String> {
    let taken = footprint::addresses();
    let is_free = |second: &u8| !taken.iter().any(|address| address.starts_with(&format!("10.{second}.")));
    let usual = 244;
    if given.iter().any(|word| word == "--cluster-cidr") || is_free(&usual) {
        return Vec::new();
    }
    let free = (200..usual).find(is_free).expect("no range of addresses is free");
    vec!["--cluster-cidr".to_owned(), format!("10.{free}.0.0/16")]
}

/// Makes a folder of all programs in `PATH` but the missing ones.
fn link_programs(folder: &Path, missing: &[String]) {
    std::fs::create_dir(folder).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).filter_map(|folder| std::fs::read_dir(folder).ok());
    for program in programs.flatten().flatten() {
        let link = folder.join(program.file_name());
        // The first of a name counts, as in PATH.
        if !missing.iter().any(|name| *name.as_str() == program.file_name()) && !link.is_symlink() {
            std::os::unix::fs::symlink(program.path(), link).unwrap();
        }
    }
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
