//! `balsa up --servers N`: several servers on this machine, each a process of its own on a loopback
//! address of its own, with its own data directory.
//!
//! Each can be killed and started again by itself, with the command line that it was started with: a
//! server that is a member needs no token any more. Nobody starts them again by itself, so that they can
//! be taken down one by one to see what happens.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use balsa_proto::v1;
use balsa_rt::{Backoff, TaskKind};
use balsa_server::{Authority, write_private};

use super::layout;
use super::progress::Progress;
use super::{admin, down, up};
use crate::kubeconfig::Kubeconfig;
use crate::settings::{LogFlags, ServerSettings};

/// How long all servers may take until they vote.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a token for the other servers is good for.
const TOKEN_SECONDS: u32 = 600;
/// How the variables begin by which options are given.
const VARIABLES: &str = "BALSA_";
/// Options that each server has its own of.
const OWN_FLAGS: [&str; 6] = ["data-dir", "bind", "advertise", "pods-port", "name", "join"];

/// One of the servers.
pub(crate) struct Place {
    name: String,
    directory: PathBuf,
    address: String,
}

/// The servers of a cluster on this machine.
pub(crate) struct Fleet {
    places: Vec<Place>,
    directory: PathBuf,
}

impl Fleet {
    /// Starts those that do not run, and waits until all vote. If that fails, those that it has started are stopped again.
    pub(crate) async fn start(
        settings: &ServerSettings,
        log: &LogFlags,
        count: u32,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let ran = running(&settings.data_dir)?;
        let started = Self::start_all(settings, log, count, progress).await;
        if started.is_err() {
            for (server, pid) in running(&settings.data_dir)? {
                if !ran.contains_key(&server) {
                    down::stop(&server, pid).await?;
                }
            }
        }
        started
    }

    async fn start_all(
        settings: &ServerSettings,
        log: &LogFlags,
        count: u32,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        if settings.data_dir.join(layout::LOG).exists() {
            let directory = settings.data_dir.display();
            bail!("{directory} holds a cluster of one server; `--servers` needs a data directory of its own");
        }
        let count = usize::try_from(count)?.max(layout::servers(&settings.data_dir).len());
        let places = (1..=count).map(|n| Place::nth(settings, n)).collect::<anyhow::Result<Vec<_>>>()?;
        let fleet = Self { places, directory: settings.data_dir.clone() };
        let (first, others) = fleet.places.split_first().context("--servers: at least one")?;
        progress.doing(format!("starting {}", first.name));
        first.spawn(settings, log, None, None)?;
        let is_known = |place: &Place| place.directory.join(layout::SERVER_ID).exists();
        // Those that are members are needed for a leader, before anybody new can join.
        for place in others.iter().filter(|place| is_known(place)) {
            place.spawn(settings, log, Some(&first.address), None)?;
        }
        let kubeconfig = first.directory.join(layout::ADMIN);
        until(&kubeconfig, first).await?;
        let session = up::session(&kubeconfig)?;
        up::answers(&session.remote).await?;
        for place in others.iter().filter(|place| !is_known(place)) {
            progress.doing(format!("{} joins", place.name));
            let request = v1::AddMemberRequest { ttl_seconds: TOKEN_SECONDS };
            let told = up::patiently("no token", || session.remote.add_member(request)).await?;
            place.spawn(settings, log, Some(&first.address), Some(&told.token))?;
            fleet.voting(&session.remote, place).await?;
            progress.done(format!("{} votes", place.name));
        }
        for place in &fleet.places {
            fleet.voting(&session.remote, place).await?;
        }
        fleet.write_admin(&settings.data_dir)?;
        Ok(fleet)
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.places.iter().map(|place| place.address.clone()).collect()
    }

    /// The cluster's CA, PEM.
    pub(crate) fn ca(&self) -> anyhow::Result<String> {
        let first = self.places.first().context("there is no server")?;
        Ok(std::fs::read_to_string(first.directory.join(layout::PKI).join("ca.crt"))?)
    }

    /// Stops all of them, in good order.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        stop(&self.directory).await
    }

    /// Waits until a server votes and is well.
    async fn voting(
        &self,
        remote: &balsa_client::remote::RemoteBackend,
        place: &Place,
    ) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let listed = remote.list_members(v1::ListMembersRequest {}).await;
                let is_well =
                    |member: &v1::Member| member.name == place.name && member.voter && member.healthy;
                if listed.is_ok_and(|listed| listed.members.iter().any(is_well)) {
                    return Ok(());
                }
                place.still_runs()?;
                tokio::time::sleep(LOOK).await;
            }
        };
        let failed = || Err(anyhow::anyhow!("{} does not vote; see {}", place.name, place.log().display()));
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| failed())
    }

    /// A kubeconfig with a context for each server, and for our own command line all of them at once.
    fn write_admin(&self, directory: &Path) -> anyhow::Result<()> {
        let first = self.places.first().context("there is no server")?;
        let authority = Authority::open(&first.directory.join(layout::PKI))?;
        let issued = authority.issue_client(admin::USER, &[admin::GROUP])?;
        let servers: Vec<(String, String)> = self
            .places
            .iter()
            .enumerate()
            .map(|(n, place)| {
                let name = if n == 0 { "balsa".to_owned() } else { format!("balsa-{}", place.name) };
                (name, place.address.clone())
            })
            .collect();
        let text = Kubeconfig::render_all(
            &servers,
            authority.certificate(),
            admin::USER,
            &issued.certificate,
            &issued.key,
        );
        Ok(write_private(&directory.join(layout::ADMIN), &text)?)
    }
}

impl Place {
    fn nth(settings: &ServerSettings, n: usize) -> anyhow::Result<Self> {
        let last = u8::try_from(n).ok().filter(|n| *n < 255).context("--servers: that is too many")?;
        let name = format!("server-{n}");
        Ok(Self {
            directory: settings.data_dir.join(layout::SERVERS).join(&name),
            address: format!("127.0.0.{last}:{}", settings.port),
            name,
        })
    }

    fn log(&self) -> PathBuf {
        self.directory.join(layout::LOG_FILE)
    }

    fn still_runs(&self) -> anyhow::Result<()> {
        match layout::running(&self.directory)? {
            Some(_) => Ok(()),
            None if !self.directory.join(layout::PID).exists() => Ok(()),
            None => bail!("{} has ended: {}; see {}", self.name, self.last_words(), self.log().display()),
        }
    }

    /// The last line of its log.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").trim_start_matches("error: ").to_owned()
    }

    /// Starts the server's process, unless it runs. The token is not told on the command line, where
    /// everybody sees it.
    fn spawn(
        &self,
        settings: &ServerSettings,
        log: &LogFlags,
        join: Option<&str>,
        token: Option<&str>,
    ) -> anyhow::Result<()> {
        if layout::running(&self.directory)?.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let _ = std::fs::remove_file(self.directory.join(layout::PID));
        let output = OpenOptions::new().create(true).append(true).open(self.log())?;
        let host = self.address.split(':').next().unwrap_or_default();
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["server", "--name", &self.name, "--bind", host, "--advertise", host]);
        // Loopback is another place in every pod.
        command.args(["--pods-port", "0"]);
        command.arg("--data-dir").arg(&self.directory);
        command.args(settings.chosen_flags(&OWN_FLAGS)?).args(log.flags());
        if let Some(join) = join {
            command.args(["--join", join]);
        }
        // Its command line says all: it must mean the same when it is started again from elsewhere.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(VARIABLES.as_bytes()) {
                command.env_remove(name);
            }
        }
        if let Some(token) = token {
            command.env("BALSA_TOKEN", token);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let name = self.name.clone();
        balsa_rt::spawn(TaskKind::Helper, async move {
            // Waited for, so that nothing is left of it in the list of processes.
            match child.wait().await {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::warn!(name, %status, "a server has ended"),
                Err(error) => tracing::warn!(name, %error, "a server is not watched any more"),
            }
        });
        Ok(())
    }
}

/// Waits for a file that a server writes once it serves.
async fn until(path: &Path, place: &Place) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(10), LOOK);
    let waiting = async {
        while !path.exists() || layout::running(&place.directory)?.is_none() {
            place.still_runs()?;
            tokio::time::sleep(backoff.next_delay()).await;
        }
        anyhow::Ok(())
    };
    let failed = || bail!("{} does not start; see {}", place.name, place.log().display());
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| failed())
}

/// Stops all servers below a data directory, whoever started them.
pub(crate) async fn stop(directory: &Path) -> anyhow::Result<()> {
    let running = running(directory)?;
    let stops = running.iter().map(|(server, pid)| down::stop(server, *pid));
    futures::future::try_join_all(stops).await.map(|_| ())
}

/// The servers below a data directory that run: their directories and processes.
fn running(directory: &Path) -> anyhow::Result<BTreeMap<PathBuf, i32>> {
    let mut running = BTreeMap::new();
    for server in layout::servers(directory) {
        if let Some(pid) = layout::running(&server)? {
            running.insert(server, pid);
        }
    }
    Ok(running)
}
