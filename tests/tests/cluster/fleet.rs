//! A cluster of several server processes on this machine, as `balsa up --servers` makes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_testkit::{balsa, wait_until};
use serde_json::Value;

/// Starting, joining, electing, on a machine that also runs other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A server, as `balsa member list -o json` has it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub name: String,
    pub role: String,
    pub address: String,
    pub pid: Option<i32>,
    pub healthy: bool,
    /// Of which build it is.
    pub version: String,
}

/// The cluster. Dropping it takes it down.
pub(crate) struct Fleet {
    home: Option<tempfile::TempDir>,
    /// The command line of each server, to start it again.
    commands: BTreeMap<String, Vec<String>>,
}

impl Fleet {
    /// `balsa up --servers N --nodes 0 --detach`.
    pub(crate) fn start(servers: usize) -> Self {
        Self::with_nodes(servers, 0)
    }

    /// The same with nodes, which take a Docker.
    pub(crate) fn with_nodes(servers: usize, nodes: usize) -> Self {
        Self::of(balsa(), servers, nodes)
    }

    /// The same by another program.
    pub(crate) fn of(program: &Path, servers: usize, nodes: usize) -> Self {
        let home = tempfile::Builder::new().prefix("balsa-servers-").tempdir().unwrap();
        let mut fleet = Self { home: Some(home), commands: BTreeMap::new() };
        let (servers, nodes, port) = (servers.to_string(), nodes.to_string(), free_port());
        let data_dir = fleet.data_dir().display().to_string();
        let words = [
            "up",
            "--servers",
            &servers,
            "--nodes",
            &nodes,
            "--port",
            &port,
            "--data-dir",
            &data_dir,
            "--detach",
        ];
        if let Err(error) = fleet.run(program, &words) {
            panic!("balsa up: {error}");
        }
        for member in fleet.members() {
            let pid = member.pid.expect("it runs on this machine");
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            let words = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            fleet.commands.insert(member.name, words);
        }
        fleet
    }

    /// One server, `server-1`, with these options, that others can join.
    pub(crate) fn alone(program: &Path, options: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("balsa-servers-").tempdir().unwrap();
        let mut fleet = Self { home: Some(home), commands: BTreeMap::new() };
        let port = free_port();
        let directory = fleet.directory("server-1");
        let words =
            ["server", "--name", "server-1", "--bind", "127.0.0.1", "--advertise", "127.0.0.1", "--port"];
        let command = std::iter::once(program.to_str().unwrap()).chain(words);
        let data_dir = directory.display().to_string();
        let command = command.chain([port.as_str(), "--pods-port", "0", "--data-dir", &data_dir]);
        let command = command.chain(options.iter().copied());
        fleet.commands.insert("server-1".to_owned(), command.map(str::to_owned).collect());
        fleet.restart("server-1");
        wait_until("it has written its kubeconfig", PATIENCE, || {
            std::fs::copy(directory.join("admin.kubeconfig"), fleet.kubeconfig())
        });
        fleet
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.as_ref().unwrap().path().join("data")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// A command line, of any build, that knows all servers.
    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args(arguments)
            .env("BALSA_KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Our own command line, which knows all servers.
    pub(crate) fn balsa(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(balsa(), arguments)
    }

    /// All servers, whichever answers.
    pub(crate) fn try_members(&self) -> Result<Vec<Member>, String> {
        let text = self.balsa(&["member", "list", "-o", "json"])?;
        let listed: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let word = |member: &Value, name: &str| member[name].as_str().unwrap_or_default().to_owned();
        let member = |member: &Value| Member {
            name: word(member, "name"),
            role: word(member, "role"),
            address: word(member, "address").trim_start_matches("https://").to_owned(),
            pid: member["pid"].as_i64().and_then(|pid| pid.try_into().ok()),
            healthy: member["healthy"] == true,
            version: word(member, "version"),
        };
        Ok(listed.iter().map(member).collect())
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.try_members().unwrap()
    }

    /// The term that the servers are in.
    pub(crate) fn term(&self) -> u64 {
        let listed: Vec<Value> =
            serde_json::from_str(&self.balsa(&["member", "list", "-o", "json"]).unwrap()).unwrap();
        listed.iter().filter_map(|member| member["term"].as_u64()).max().unwrap()
    }

    /// Waits until `count` servers vote and are well, and who leads then.
    pub(crate) fn well(&self, count: usize) -> Member {
        let mut leader = None;
        wait_until("all servers are well", PATIENCE, || {
            let members = self.try_members()?;
            let votes = |member: &&Member| member.healthy && member.role != "learner";
            leader = members.iter().find(|member| member.role == "leader").cloned();
            let good = members.len() == count && members.iter().filter(votes).count() == count;
            if good && leader.is_some() { Ok(()) } else { Err(format!("{members:#?}")) }
        });
        leader.unwrap()
    }

    /// Sends a signal to a server's process.
    pub(crate) fn send(&self, member: &Member, signal: &str) {
        let pid = member.pid.expect("its process is known");
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends a server's process and waits until it is gone.
    pub(crate) fn signal(&self, member: &Member, signal: &str) {
        self.send(member, signal);
        self.ends(member);
    }

    /// Waits until a server's process has ended.
    pub(crate) fn ends(&self, member: &Member) {
        let pid = member.pid.expect("its process is known");
        wait_until("the process has ended", PATIENCE, || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let gone = state.is_empty() || state.contains(") Z ");
            if gone { Ok(()) } else { Err(state) }
        });
    }

    /// The server of this name, as it is now.
    pub(crate) fn member(&self, name: &str) -> Member {
        self.members().into_iter().find(|member| member.name == name).unwrap()
    }

    /// Stops a server in good order and starts it again by another program, on the same data.
    pub(crate) fn becomes(&mut self, name: &str, program: &Path) {
        self.signal(&self.member(name), "-TERM");
        self.commands.get_mut(name).unwrap()[0] = program.display().to_string();
        self.restart(name);
    }

    /// Has a server lead. On a busy machine another one may stand for election in the next moment: then once more.
    pub(crate) fn lead(&self, name: &str) {
        wait_until(&format!("{name} leads"), PATIENCE, || {
            let members = self.try_members()?;
            let leads = |member: &Member| member.name == name && member.role == "leader" && member.healthy;
            if members.iter().any(leads) {
                return Ok(());
            }
            self.balsa(&["member", "transfer-leader", name])?;
            Err(format!("{members:#?}"))
        });
    }

    /// One more server, the `number`th, which joins by a token of the one that is given.
    pub(crate) fn join(&mut self, number: usize, program: &Path, contact: &Member) -> String {
        let (name, host) = (format!("server-{number}"), format!("127.0.0.{number}"));
        let (like, at) = (&contact.name, contact.address.split(':').next().unwrap());
        let words = self.commands[like].iter().skip(1).map(|word| match word.as_str() {
            word if word == at => host.clone(),
            word => word.replace(like, &name),
        });
        let command = std::iter::once(program.display().to_string()).chain(words).collect();
        self.commands.insert(name.clone(), command);
        let token = self.balsa(&["token", "create", "--usage", "server"]).unwrap();
        drop(self.start_with(&name, &["--join", &contact.address], Some(token.trim())));
        name
    }

    /// Starts a server again with the command line that it was started with.
    pub(crate) fn restart(&self, name: &str) {
        // Taken down by `balsa down`, like all the others.
        drop(self.start_with(name, &[], None));
    }

    /// Starts a server with more words on its command line, and maybe a token.
    pub(crate) fn start_with(&self, name: &str, more: &[&str], token: Option<&str>) -> Child {
        let mut command = self.command(name);
        command.args(more).envs(token.map(|token| ("BALSA_TOKEN", token))).spawn().unwrap()
    }

    /// What starts a server; it says what it has to say in its log.
    pub(crate) fn command(&self, name: &str) -> Command {
        let log = self.log_path(name);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let log = std::fs::File::options().append(true).create(true).open(log).unwrap();
        let words = &self.commands[name];
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Has a server called differently, or not at all, from its next start on.
    pub(crate) fn call(&mut self, name: &str, differently: Option<&str>) {
        let words = self.commands.get_mut(name).unwrap();
        let flag = words.iter().position(|word| word == "--name");
        flag.into_iter().for_each(|at| drop(words.drain(at..at + 2)));
        words.extend(differently.into_iter().flat_map(|name| ["--name".to_owned(), name.to_owned()]));
    }

    /// A server's own directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.data_dir().join("servers").join(name)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.directory(name).join("balsa.log")
    }

    /// What a server has said so far.
    pub(crate) fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    /// Takes it down; panics when something is left.
    pub(crate) fn down(mut self) {
        self.take_down().unwrap();
        assert!(!self.data_dir().exists(), "the data directory stays");
        self.home = None;
    }

    fn take_down(&self) -> Result<String, String> {
        self.balsa(&["down", "--data-dir", &self.data_dir().display().to_string()])
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        if std::thread::panicking() {
            tell(home.path());
        }
        if let Err(error) = self.take_down() {
            eprintln!("--- balsa down: {error}");
        }
    }
}

/// A port that nobody has now.
fn free_port() -> String {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string()
}

/// The end of each server's log.
fn tell(home: &Path) {
    let logs = std::fs::read_dir(home.join("data/servers")).into_iter().flatten().flatten();
    for log in logs.map(|entry| entry.path().join("balsa.log")) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        eprintln!("--- the end of {}\n{}", log.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
    }
}
