//! A server and its nodes in one process.
//!
//! The agents are clients of the server like any others: they join by token and speak gRPC to its port.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use balsa_agent::{AgentHandle, HostPorts};
use balsa_client::Backend as _;
use balsa_client::remote::RemoteBackend;
use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key, Object, Reason};
use balsa_rt::telemetry::install_metrics;
use balsa_rt::{Backoff, Clock, Scope};
use balsa_runtime::{DockerRuntime, Runtime};
use balsa_server::Server;
use k8s_openapi::api::core::v1::Node;

use super::layout::{self, Claim};
use super::progress::Progress;
use super::ranges::{self, Held, Ranges};
use super::servers::Fleet;
use super::{admin, host, node, stop_signal};
use crate::connect::Session;
use crate::kubeconfig::Kubeconfig;
use crate::settings::{AgentFlags, AgentSettings, LogFlags, ServerSettings};

/// How long nodes may take to be Ready.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a new server may take to answer.
const START: Duration = Duration::from_secs(30);
/// How long a token for the process's own nodes is good for.
const TOKEN_SECONDS: u32 = 600;

/// What `balsa up` is told.
pub(crate) struct Up {
    /// What is told of the work.
    pub(crate) log: LogFlags,
    /// The server.
    pub(crate) server: ServerSettings,
    /// The addresses and ports that are given; the others are chosen when there are nodes.
    pub(crate) ranges: Ranges,
    /// How many servers: one in this process, or several in processes of their own.
    pub(crate) servers: u32,
    /// How many nodes.
    pub(crate) nodes: u32,
    /// The Docker Engine, if not the usual one.
    pub(crate) docker_host: Option<String>,
}

/// What serves.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Control {
    /// In this process.
    Here(Server),
    /// In processes of their own.
    Several(Fleet),
}

struct Cluster {
    control: Control,
    nodes: Vec<AgentHandle>,
    scope: Scope,
    _ranges: Option<Held>,
}

/// Runs a cluster until Ctrl-C or SIGTERM. Containers go on running.
pub(crate) async fn run(mut up: Up, progress: Progress) -> anyhow::Result<()> {
    let directory = up.server.data_dir.clone();
    let claim = Claim::take(&directory)?;
    let stopped = async {
        // Also while it starts.
        let stop = stop_signal();
        let cluster = tokio::select! {
            cluster = start(&mut up, &progress) => cluster?,
            stopped = stop => return stopped,
        };
        progress.finish();
        crate::output::tell_part(guide(&up, false));
        let stopped = stop_signal().await;
        crate::output::tell(
            "Stopping; the containers go on running. `balsa up` takes them up again, `balsa down` removes them.",
        );
        cluster.stop().await.and(stopped)
    };
    let outcome = stopped.await;
    claim.release(&directory);
    outcome
}

async fn start(up: &mut Up, progress: &Progress) -> anyhow::Result<Cluster> {
    let runtime = if up.nodes > 0 { Some(docker(up.docker_host.as_deref()).await?) } else { None };
    let held = if up.nodes > 0 { Some(ranges::settle(&mut up.server, up.ranges).await?) } else { None };
    let metrics = install_metrics().ok();
    let several = up.servers > 1 || !layout::servers(&up.server.data_dir).is_empty();
    let control = match several {
        true => Control::Several(Fleet::start(&up.server, &up.log, up.servers, progress).await?),
        false => {
            progress.doing("starting the server");
            Control::Here(Server::start(up.server.config(), Clock::system(), metrics.clone()).await?)
        }
    };
    let (ca, addresses, reached) = match &control {
        Control::Here(server) => {
            admin::write(&up.server.data_dir, server.authority(), &up.server.local_address())?;
            let local = up.server.local_address();
            (
                server.authority().certificate().to_owned(),
                vec![local.clone()],
                vec![local, server.address().to_string()],
            )
        }
        Control::Several(fleet) => (fleet.ca()?, fleet.addresses(), fleet.addresses()),
    };
    let session = session(&up.server.data_dir.join(layout::ADMIN))?;
    answers(&session.remote).await?;
    let reached: Vec<String> = reached.iter().map(|address| format!("https://{address}")).collect();
    progress.done(format!("API at {}", reached.join(", ")));
    if held.is_some() {
        let ServerSettings { cluster_cidr, service_cidr, service_node_port_range, .. } = &up.server;
        progress.done(format!(
            "pods in {cluster_cidr}, services in {service_cidr}, node ports {service_node_port_range}"
        ));
    }
    let scope = Scope::new();
    let mut nodes = Vec::new();
    if let Some(runtime) = runtime {
        let all = node_settings(up, &addresses, &ca)?;
        progress.doing(format!("starting {} {}", up.nodes, if up.nodes == 1 { "node" } else { "nodes" }));
        let token = token(&session.remote, &all).await?;
        let ports = HostPorts::default();
        let starts = all.iter().map(|settings| {
            node::start(settings, token.clone(), runtime.clone(), ports.clone(), metrics.clone(), &scope)
        });
        nodes = futures::future::try_join_all(starts).await?;
        for node in &nodes {
            progress.doing(format!("waiting for node {} to be Ready", node.node_name()));
            ready(&session, node).await?;
            progress.done(format!("node {} is Ready", node.node_name()));
        }
    }
    Ok(Cluster { control, nodes, scope, _ranges: held })
}

impl Cluster {
    /// Agents first, so that they can still say what they know.
    async fn stop(self) -> anyhow::Result<()> {
        futures::future::join_all(self.nodes.into_iter().map(AgentHandle::drain)).await;
        self.scope.close(Duration::from_secs(2)).await;
        match self.control {
            Control::Here(server) => Ok(server.shutdown().await?),
            Control::Several(fleet) => fleet.stop().await,
        }
    }
}

/// The Docker Engine of this machine.
pub(crate) async fn docker(host: Option<&str>) -> anyhow::Result<Arc<dyn Runtime>> {
    Ok(Arc::new(DockerRuntime::connect(host, Clock::system()).await?))
}

/// The administrator's session.
pub(crate) fn session(kubeconfig: &Path) -> anyhow::Result<Session> {
    let parsed = Kubeconfig::parse(&std::fs::read_to_string(kubeconfig)?, None, None)?;
    let remote = RemoteBackend::connect(&parsed.remote)?;
    Ok(Session { remote, namespace: parsed.namespace, namespace_given: false })
}

/// Waits until the server has a leader and answers.
pub(super) async fn answers(remote: &RemoteBackend) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let trying = async {
        // A node that is not there: found out only by a server that can answer for the whole cluster.
        let key = Key::new("", "balsa-is-there-an-answer");
        loop {
            match remote.get(kind_of::<Node>(), &key).await {
                Ok(_) => return Ok(()),
                Err(failure) if failure.reason == Reason::NotFound => return Ok(()),
                Err(failure) if crate::commands::may_resume(&failure) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    };
    tokio::time::timeout(START, trying).await.unwrap_or_else(|_| Err(anyhow!("the server does not answer")))
}

/// The nodes' settings: names after the machine's, directories of their own.
fn node_settings(up: &Up, servers: &[String], ca: &str) -> anyhow::Result<Vec<AgentSettings>> {
    let machine = host::name();
    let name = |number: u32| if number == 1 { machine.clone() } else { format!("{machine}-{number}") };
    let names: Vec<String> = (1..=up.nodes).map(name).collect();
    let mut all = Vec::new();
    for name in &names {
        let mut settings = AgentFlags::in_process(&up.server, servers, name).resolve()?;
        settings.neighbours = names.iter().filter(|other| *other != name).cloned().collect();
        settings.in_process = true;
        forget_other_cluster(&settings.node_dir().join(layout::PKI), ca)?;
        all.push(settings);
    }
    Ok(all)
}

/// A certificate of a cluster that is gone opens nothing any more.
fn forget_other_cluster(pki: &Path, ca: &str) -> anyhow::Result<()> {
    match std::fs::read_to_string(pki.join("ca.crt")) {
        Ok(known) if known != ca => {
            std::fs::remove_dir_all(pki).with_context(|| format!("cannot remove {}", pki.display()))
        }
        _ => Ok(()),
    }
}

/// A token for those nodes that have no certificate.
async fn token(remote: &RemoteBackend, all: &[AgentSettings]) -> anyhow::Result<Option<String>> {
    let joined = |settings: &AgentSettings| settings.node_dir().join(layout::PKI).join("node.crt").is_file();
    if all.iter().all(joined) {
        return Ok(None);
    }
    let created = patiently("the server makes no tokens", || remote.create_token(TOKEN_SECONDS)).await?;
    Ok(Some(created.token))
}

/// Asks for something that a new cluster may not be able to give yet.
pub(super) async fn patiently<T, F>(told: &'static str, ask: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
    let trying = async {
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                // The namespace that keeps tokens comes a moment after the leader.
                Err(failure)
                    if failure.reason != Reason::Forbidden && failure.reason != Reason::Unauthorized =>
                {
                    tracing::debug!(%failure, "not yet");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    };
    tokio::time::timeout(START, trying).await.unwrap_or_else(|_| Err(anyhow!(told)))
}

/// Waits until a node can take pods: it has its network, and the cluster knows.
async fn ready(session: &Session, node: &AgentHandle) -> anyhow::Result<()> {
    let name = node.node_name();
    let key = Key::new("", name);
    if tokio::time::timeout(PATIENCE, node.ready()).await.is_err() {
        bail!("node {name} is not Ready: its network does not start; the log says why (--log=info)");
    }
    let is_ready = |object: Option<&Object>| object.is_some_and(|object| condition(object).0);
    let waited = crate::commands::until(session, (kind_of::<Node>(), &key), Some(PATIENCE), is_ready).await;
    if waited.is_ok() {
        return Ok(());
    }
    match session.remote.get(kind_of::<Node>(), &key).await {
        Ok(node) => bail!("node {name} is not Ready: {}", condition(&node).1),
        Err(failure) => bail!("node {name} is not Ready: {failure}"),
    }
}

/// Whether a node is Ready, and what it says about it.
fn condition(object: &Object) -> (bool, String) {
    let node = object.typed::<Node>();
    let conditions = node.as_ref().and_then(|node| node.status.as_ref()?.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.map_or((false, "it has not reported yet".to_owned()), |ready| {
        (ready.status == "True", ready.message.clone().unwrap_or_default())
    })
}

/// How to use the cluster.
pub(crate) fn guide(up: &Up, background: bool) -> String {
    let directory = up.server.data_dir.display();
    let stop =
        if background { "It runs in the background" } else { "Ctrl-C stops it and leaves the containers" };
    let down = match up.server.data_dir == crate::output::data_dir() {
        true => "balsa down".to_owned(),
        false => format!("balsa down --data-dir {directory}"),
    };
    format!(
        "\nThe cluster is ready.\n  \
         export KUBECONFIG={directory}/{}\n  \
         kubectl get nodes        # or: balsa get nodes\n\
         {stop}; `{down}` removes it and all that it made.\n",
        layout::ADMIN
    )
}
