//! The programs that are measured, as processes of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::Options;
use crate::kubeconfig::Kubeconfig;
use crate::rest::Target;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A cluster that `balsa up --detach` started.
pub(super) struct Balsa {
    program: PathBuf,
    data_dir: PathBuf,
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
        let started = Instant::now();
        let mut command = Command::new(&program);
        command.args(["up", "--detach", "--log", "warn", "--nodes", &nodes.to_string()]);
        command.arg("--port").arg(options.port.to_string()).arg("--data-dir").arg(&data_dir);
        succeed(command).await?;
        let pid = std::fs::read_to_string(data_dir.join("balsa.pid"))?;
        let mut balsa = Self {
            program,
            pid: pid.trim().parse().context("balsa.pid")?,
            data_dir,
            ready_after: Duration::ZERO,
        };
        balsa.wait_for(nodes).await?;
        balsa.ready_after = started.elapsed();
        Ok(balsa)
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
        succeed(command).await
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

async fn empty(program: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("down").arg("--data-dir").arg(data_dir);
    succeed(command).await?;
    match std::fs::remove_dir_all(data_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// An etcd of one member.
pub(super) struct Etcd {
    process: Child,
    data_dir: PathBuf,
    pub(super) endpoint: String,
    pub(super) pid: u32,
}

impl Etcd {
    /// Starts it on an empty directory.
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let data_dir = options.work_dir.join("etcd");
        let _ = std::fs::remove_dir_all(&data_dir);
        let address = format!("127.0.0.1:{}", options.port + 1);
        let (endpoint, peer) =
            (format!("http://{address}"), format!("http://127.0.0.1:{}", options.port + 2));
        // In a session of its own, as Balsa is: Linux shares the processors out among sessions.
        let mut command = Command::new("setsid");
        command.arg(&options.etcd).arg("--data-dir").arg(&data_dir).args(["--log-level", "error"]);
        command.args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.args(["--quota-backend-bytes", "8589934592"]);
        let process = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{}: install etcd-server", options.etcd.display()))?;
        let pid = process.id().context("etcd has ended")?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).await.is_err() {
            if Instant::now() > deadline {
                bail!("etcd does not answer at {address}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self { process, data_dir, endpoint, pid })
    }

    /// Ends it and removes its data.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        std::fs::remove_dir_all(&self.data_dir)?;
        Ok(())
    }
}

/// Runs a command; what it said is shown when it fails.
async fn succeed(mut command: Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("{:?}", command.as_std()))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    bail!("{:?}: {}\n{out}{err}", command.as_std(), output.status)
}
