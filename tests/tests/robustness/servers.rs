//! Server processes on hosts of their own, and what is done to them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_testkit::{Rest, balsa, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hosts::{Host, Network};

/// Starting, joining, electing and coming back after a fault, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 6443;

/// The cluster.
pub(crate) struct Servers {
    pub(crate) all: Vec<Server>,
    _network: Network,
    /// Servers that were taken out and came back as new ones.
    replaced: usize,
}

/// A server and its host.
pub(crate) struct Server {
    pub(crate) host: Host,
    /// What the cluster calls it now.
    pub(crate) name: String,
    child: Option<Child>,
    log: PathBuf,
    /// Holds by how many seconds this host's clock is off; mapped by `clock.c`.
    clock: PathBuf,
}

impl Servers {
    /// Starts a cluster of `count` voters.
    pub(crate) fn start(count: u8) -> Self {
        let network = Network::new();
        compile_clock(network.home());
        let all: Vec<_> =
            (1..=count).map(|number| Server::on(network.host(number), network.home())).collect();
        let mut servers = Self { all, _network: network, replaced: 0 };
        servers.all[0].start(None, None);
        wait_until("the first server leads", PATIENCE, || servers.leader().map(drop));
        for number in 1..servers.all.len() {
            servers.join(number);
        }
        servers.well();
        servers
    }

    /// Starts a server that is not a member yet, and waits until it votes.
    fn join(&mut self, number: usize) {
        let contact = (0..self.all.len()).find(|other| *other != number && self.all[*other].runs()).unwrap();
        let token = wait_until("a token", PATIENCE, || {
            self.all[contact].balsa(&["token", "create", "--usage=server", "--ttl=10m"])
        });
        let address = self.all[contact].address();
        self.all[number].start(Some(&address), Some(token.trim()));
        let name = self.all[number].name.clone();
        wait_until("the new server votes", PATIENCE, || {
            let members = self.members()?;
            let votes = |member: &&Value| member["name"] == *name && member["role"] != "learner";
            members.iter().find(votes).map(drop).ok_or_else(|| format!("{members:#?}"))
        });
    }

    /// What `balsa member list` of any server says that answers.
    fn members(&self) -> Result<Vec<Value>, String> {
        let mut last = "no server runs".to_owned();
        for server in self.all.iter().filter(|server| server.runs()) {
            match server.balsa(&["member", "list", "-o", "json"]) {
                Ok(text) => return serde_json::from_str(&text).map_err(|error| format!("{error}: {text}")),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Which server leads.
    pub(crate) fn leader(&self) -> Result<usize, String> {
        let members = self.members()?;
        let leads = |server: &Server| {
            members.iter().any(|member| member["role"] == "leader" && member["name"] == *server.name)
        };
        self.all.iter().position(leads).ok_or_else(|| format!("nobody leads: {members:?}"))
    }

    /// Waits until all servers vote, are well, and one leads.
    pub(crate) fn well(&self) {
        wait_until("all servers are well", PATIENCE, || {
            let members = self.members()?;
            let well = |member: &&Value| member["healthy"] == true && member["role"] != "learner";
            let all = members.len() == self.all.len() && members.iter().filter(well).count() == members.len();
            let leads = members.iter().any(|member| member["role"] == "leader");
            if all && leads { Ok(()) } else { Err(format!("{members:#?}")) }
        });
    }

    /// A REST client of each server.
    pub(crate) fn clients(&self) -> Vec<Rest> {
        let kubeconfig = self.all[0].host.disk.join("balsa/admin.kubeconfig");
        let rest = Rest::from_kubeconfig(&kubeconfig).unwrap();
        self.all.iter().map(|server| rest.at(&server.address())).collect()
    }

    /// Takes a server out of the cluster, loses its disk, and lets it join as a new one.
    pub(crate) fn replace(&mut self, number: usize) {
        let name = self.all[number].name.clone();
        let helper = (number + 1) % self.all.len();
        wait_until("the member is removed", PATIENCE, || {
            let removed = self.all[helper].balsa(&["member", "remove", &name]);
            let members = self.members()?;
            let gone = members.iter().all(|member| member["name"] != *name);
            if gone { Ok(()) } else { Err(removed.err().unwrap_or_default()) }
        });
        self.replaced += 1;
        let replaced = self.replaced;
        let server = &mut self.all[number];
        server.kill();
        std::fs::remove_dir_all(server.data_dir()).unwrap();
        server.name = format!("{}-{replaced}", server.host.name);
        self.join(number);
    }

    /// The network is whole, every server runs and hears every other, clocks are right, disks have room.
    pub(crate) fn heal(&mut self) {
        for server in &mut self.all {
            server.host.hears_all();
            server.go_on();
            server.set_clock(0);
            server.restart();
        }
    }

    /// Resident memory and open files of each server: kibibytes, count.
    pub(crate) fn sizes(&self) -> Vec<(u64, usize)> {
        self.all.iter().filter_map(Server::size).collect()
    }
}

impl Server {
    fn on(host: Host, home: &Path) -> Self {
        let (log, clock) =
            (home.join(format!("{}.log", host.name)), home.join(format!("{}.clock", host.name)));
        let server = Self { name: host.name.clone(), host, child: None, log, clock };
        server.set_clock(0);
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{PORT}", self.host.address)
    }

    fn data_dir(&self) -> PathBuf {
        self.host.disk.join("balsa")
    }

    fn start(&mut self, join: Option<&str>, token: Option<&str>) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.host.command(balsa());
        command.args(["server", "--name", &self.name, "--bind", "0.0.0.0"]);
        command.args(["--advertise", &self.host.address.to_string(), "--port", &PORT.to_string()]);
        command.arg("--data-dir").arg(self.data_dir());
        if let Some(join) = join {
            command.args(["--join", join]);
        }
        if let Some(token) = token {
            command.env("BALSA_TOKEN", token);
        }
        command.env("LD_PRELOAD", self.log.with_file_name(CLOCK)).env("CLOCK_OFFSET", &self.clock);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Our command line on this host.
    pub(crate) fn balsa(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.host.command("timeout");
        command.arg("20").arg(balsa()).args(arguments).stdin(Stdio::null());
        let output =
            command.env("BALSA_KUBECONFIG", self.data_dir().join("admin.kubeconfig")).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Whether its process is there.
    fn runs(&self) -> bool {
        self.pid().is_some_and(|pid| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        })
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.child.as_ref()?;
        Some(Pid::from_raw(child.id().try_into().unwrap()))
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(pid, signal).ok();
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.send(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// SIGTERM: it hands over what it has, and ends.
    pub(crate) fn stop(&mut self) {
        self.send(Signal::SIGTERM);
        wait_until("the server has ended", PATIENCE, || if self.runs() { Err("it runs") } else { Ok(()) });
        self.kill();
    }

    /// Starts it again with the command line that it was started with, unless it runs.
    pub(crate) fn restart(&mut self) {
        if !self.runs() {
            self.kill();
            self.start(None, None);
        }
    }

    /// Stands still, with all its connections open.
    pub(crate) fn pause(&self) {
        self.send(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.send(Signal::SIGCONT);
    }

    /// Sets its wall clock ahead by so many seconds.
    pub(crate) fn set_clock(&self, seconds: i64) {
        let file = File::options().write(true).create(true).truncate(false).open(&self.clock).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn size(&self) -> Option<(u64, usize)> {
        let pid = self.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        let kib = line.split_whitespace().nth(1)?.parse().ok()?;
        Some((kib, std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.go_on();
        self.kill();
    }
}

/// The library that moves clocks, in the network's directory.
const CLOCK: &str = "clock.so";

fn compile_clock(home: &Path) {
    let source = balsa_testkit::root().join("tests/tests/robustness/clock.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(home.join(CLOCK)).arg(source);
    assert!(compiler.status().unwrap().success(), "clock.c does not compile");
}
