//! The programs that are measured, as processes of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::Options;
use crate::kubeconfig::Kubeconfig;
use crate::rest::Target;
use crate::scenarios::load::etcd_leads;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A server that `balsa up --detach` started, with nodes.
pub(super) struct Balsa {
    program: PathBuf,
    data_dir: PathBuf,
    up: Vec<OsString>,
    pub(super) pid: u32,
    /// From the command to all nodes Ready in the API.
    pub(super) ready_after: Duration,
}

impl Balsa {
    /// Starts it on an empty directory, and waits until its nodes are Ready.
    pub(super) async fn start(options: &Options, nodes: usize) -> anyhow::Result<Self> {
        let program = std::path::absolute(&options.balsa)?;
        let data_dir = options.work_dir.join("balsa");
        empty(&program, &data_dir).await?;
        let up = up(options, &data_dir, &["--nodes", &nodes.to_string()]);
        let mut balsa = Self { program, data_dir, up, pid: 0, ready_after: Duration::ZERO };
        balsa.ready_after = balsa.begin(nodes).await?;
        Ok(balsa)
    }

    /// How long it takes until it answers, and its nodes are Ready.
    async fn begin(&mut self, nodes: usize) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&self.up);
        succeed(command).await?;
        let pid = std::fs::read_to_string(self.data_dir.join("balsa.pid"))?;
        self.pid = pid.trim().parse().context("balsa.pid")?;
        self.wait_for(nodes).await?;
        Ok(started.elapsed())
    }

    /// Kills it and starts it again; how long it is until it answers.
    pub(super) async fn restart(&mut self) -> anyhow::Result<Duration> {
        let mut kill = Command::new("kill");
        kill.args(["-9", &self.pid.to_string()]);
        succeed(kill).await?;
        let gone = Path::new("/proc").join(self.pid.to_string());
        while gone.exists() {
            tokio::time::sleep(LOOK).await;
        }
        self.begin(0).await
    }

    /// Another server joins, and goes again; how long it is from its start until it votes.
    pub(super) async fn another(&self, options: &Options) -> anyhow::Result<Duration> {
        let data_dir = options.work_dir.join("another");
        let _ = std::fs::remove_dir_all(&data_dir);
        let token = self.says(&["token", "create", "--usage", "server"]).await?;
        let (first, port) = (format!("127.0.0.1:{}", options.port), (options.port + 1).to_string());
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(["server", "--name", "another", "--log", "warn", "--join", &first, "--port", &port]);
        command.args(["--bind", "127.0.0.1", "--advertise", "127.0.0.1", "--data-dir"]).arg(&data_dir);
        command.env("BALSA_TOKEN", token.trim()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = command.kill_on_drop(true).spawn()?;
        let deadline = started + PATIENCE;
        let joined = loop {
            let members: Value = serde_json::from_str(&self.says(&["member", "list", "-o", "json"]).await?)?;
            let votes = |member: &Value| member["healthy"] == true && member["role"] != "learner";
            if members.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(votes)) {
                break started.elapsed();
            }
            if Instant::now() > deadline {
                bail!("the other server does not vote: {members}");
            }
            tokio::time::sleep(LOOK).await;
        };
        self.says(&["member", "remove", "another"]).await?;
        process.kill().await?;
        std::fs::remove_dir_all(data_dir)?;
        Ok(joined)
    }

    /// What the command line says.
    async fn says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--kubeconfig").arg(self.kubeconfig());
        succeed(command).await
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    async fn wait_for(&self, nodes: usize) -> anyhow::Result<()> {
        let target = Target::new(&Kubeconfig::read(&self.kubeconfig())?)?;
        let mut connection = target.connect().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, list) = connection.call(Method::GET, "/api/v1/nodes", Bytes::new()).await?;
            let list: Value = serde_json::from_slice(&list)?;
            if list["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count() >= nodes {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no {nodes} nodes are ready");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The demo of the repository, to its end.
    pub(super) async fn tell_the_demo(&self) -> anyhow::Result<()> {
        let mut command = Command::new("examples/phippy/tell.sh");
        command.env("KUBECONFIG", self.kubeconfig()).env("BALSA", &self.program);
        succeed(command).await.map(drop)
    }

    /// Takes everything away that it made.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        empty(&self.program, &self.data_dir).await
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The command line of `balsa up`.
fn up(options: &Options, data_dir: &Path, more: &[&str]) -> Vec<OsString> {
    let port = options.port.to_string();
    let words = ["up", "--detach", "--log", "warn", "--port", &port].into_iter().chain(more.iter().copied());
    words.map(OsString::from).chain(["--data-dir".into(), data_dir.into()]).collect()
}

async fn empty(program: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("down").arg("--data-dir").arg(data_dir);
    succeed(command).await?;
    match std::fs::remove_dir_all(data_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Three servers, each a process of its own.
pub(super) struct Servers {
    program: PathBuf,
    data_dir: PathBuf,
    /// The leader's process first.
    pub(super) pids: Vec<u32>,
    /// How each is reached, the leader first.
    pub(super) configs: Vec<Kubeconfig>,
}

impl Servers {
    /// Starts them on empty directories.
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let program = std::path::absolute(&options.balsa)?;
        let data_dir = options.work_dir.join("balsa");
        empty(&program, &data_dir).await?;
        let mut command = Command::new(&program);
        command.args(up(options, &data_dir, &["--servers", "3", "--nodes", "0"]));
        succeed(command).await?;
        let kubeconfig = data_dir.join("admin.kubeconfig");
        let mut command = Command::new(&program);
        command.args(["member", "list", "-o", "json", "--kubeconfig"]).arg(&kubeconfig);
        let mut members: Vec<Value> = serde_json::from_str(&succeed(command).await?)?;
        members.sort_by_key(|member| member["role"] != "leader");
        let config = Kubeconfig::read(&kubeconfig)?;
        let pid = |member: &Value| {
            let pid = member["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            pid.context("a server has no pid")
        };
        let address = |member: &Value| config.at(member["address"].as_str().unwrap_or_default());
        Ok(Self {
            pids: members.iter().map(pid).collect::<anyhow::Result<_>>()?,
            configs: members.iter().map(address).collect::<anyhow::Result<_>>()?,
            program,
            data_dir,
        })
    }

    /// Takes everything away.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        empty(&self.program, &self.data_dir).await
    }
}

/// An etcd of one member or several.
pub(super) struct Etcd {
    processes: Vec<Child>,
    data_dir: PathBuf,
    pub(super) endpoints: Vec<String>,
    pub(super) pids: Vec<u32>,
}

impl Etcd {
    /// Starts it on empty directories.
    pub(super) async fn start(options: &Options, members: u16) -> anyhow::Result<Self> {
        let data_dir = options.work_dir.join("etcd");
        let _ = std::fs::remove_dir_all(&data_dir);
        let (client, peer) = (|n| options.port + 1 + 2 * n, |n| options.port + 2 + 2 * n);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let initial: Vec<_> = (0..members).map(|n| format!("member-{n}={}", url(peer(n)))).collect();
        let mut etcd = Self { processes: Vec::new(), data_dir, endpoints: Vec::new(), pids: Vec::new() };
        for n in 0..members {
            let (endpoint, peer) = (url(client(n)), url(peer(n)));
            // In a session of its own, as Balsa is: Linux shares the processors out among sessions.
            let mut command = Command::new("setsid");
            command.arg(&options.etcd).args(["--name", &format!("member-{n}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(etcd.data_dir.join(n.to_string()));
            command.args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &initial.join(",")]);
            command.args(["--quota-backend-bytes", "8589934592"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let process = command.spawn();
            let process =
                process.with_context(|| format!("{}: install etcd-server", options.etcd.display()))?;
            etcd.pids.push(process.id().context("etcd has ended")?);
            etcd.processes.push(process);
            etcd.endpoints.push(endpoint);
        }
        let deadline = Instant::now() + PATIENCE;
        while etcd.leader().await.is_err() {
            if Instant::now() > deadline {
                bail!("etcd does not answer at {}", etcd.endpoints.join(", "));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(etcd)
    }

    /// Which of the members leads, once all answer.
    pub(super) async fn leader(&self) -> anyhow::Result<usize> {
        let mut leader = None;
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            if etcd_leads(endpoint).await? {
                leader = Some(n);
            }
        }
        leader.context("no member leads")
    }

    /// Ends it and removes its data.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.kill().await?;
        }
        std::fs::remove_dir_all(&self.data_dir)?;
        Ok(())
    }
}

/// Runs a command; what it said, also when it fails.
async fn succeed(mut command: Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("{:?}", command.as_std()))?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    bail!("{:?}: {}\n{out}{err}", command.as_std(), output.status)
}
