//! One node: its identity, its connections, and the agent that works with them.

use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use balsa_agent::join::{self, JoinConfig, NodeIdentity};
use balsa_agent::{Agent, AgentHandle, HostPorts, KernelNetwork, KernelNetworkConfig, SessionEndpoint};
use balsa_client::Client;
use balsa_client::remote::join::fingerprint_of;
use balsa_client::remote::{RemoteBackend, RemoteConfig};
use balsa_rt::telemetry::MetricsHandle;
use balsa_rt::{Clock, Scope, TaskKind};
use balsa_runtime::Runtime;
use tokio::net::TcpListener;

use super::ranges;
use crate::settings::{AgentSettings, METRICS_PORT};

/// Letters of a cluster's name, out of the hash of its CA.
const NAME_LENGTH: usize = 12;

/// What a cluster is called on containers, so that one cluster's are told from another's.
pub(crate) fn cluster_name(ca_pem: &str) -> anyhow::Result<String> {
    Ok(fingerprint_of(ca_pem)?.chars().take(NAME_LENGTH).collect())
}

/// Joins the cluster, if that is still to be done, and starts the agent.
pub(crate) async fn start(
    settings: &AgentSettings,
    token: Option<String>,
    runtime: Arc<dyn Runtime>,
    host_ports: HostPorts,
    metrics: Option<MetricsHandle>,
    scope: &Scope,
) -> anyhow::Result<AgentHandle> {
    let clock = Clock::system();
    let (listener, port) = listen(settings).await?;
    let joining = JoinConfig {
        data_dir: settings.node_dir(),
        node_name: settings.name.clone(),
        servers: settings.server.clone(),
        token,
        addresses: vec![settings.node_ip.to_string()],
    };
    let mut identity = join::identity(&joining, &clock).await?;
    // What the command line says is asked first: addresses from an earlier run may be old.
    let mut servers = settings.server.clone();
    servers.extend(identity.servers.iter().filter(|known| !settings.server.contains(known)).cloned());
    identity.servers = servers;

    let remote = RemoteBackend::connect(&identity.remote())?;
    let current = Arc::new(Mutex::new(identity.remote()));
    let dialling = current.clone();
    let session =
        SessionEndpoint::new(identity.servers.clone(), move |server| lock(&dialling).endpoint(server));

    let addresses = settings.ranges(identity.ranges)?;
    let mut config = settings.config(&cluster_name(&identity.ca)?, addresses);
    config.kubelet_port = port;
    ranges::check_node(&config.cluster, addresses.pods, addresses.services).await?;
    let mut network = KernelNetworkConfig::new(&config.cluster, &settings.name, addresses.pods);
    network.service_cidr = Some(addresses.services);
    network.cluster_dns = config.cluster_dns;

    let client = Client::new(Arc::new(remote.clone()), "kubelet");
    let mut agent = Agent::new(config, client, runtime, Arc::new(KernelNetwork::new(network)));
    agent.tokens = Arc::new(session.clone());
    agent.session = Some(session);
    agent.host_ports = host_ports;
    let handle = agent.start(scope).await.with_context(|| format!("node {}", settings.name))?;
    keep_identity(joining, identity, remote, current, scope);
    if let Some(listener) = listener {
        serve(&handle, listener, metrics, scope);
    }
    Ok(handle)
}

fn lock(current: &Mutex<RemoteConfig>) -> std::sync::MutexGuard<'_, RemoteConfig> {
    current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Renews the certificate in time; later connections are made with the new one.
fn keep_identity(
    joining: JoinConfig,
    identity: NodeIdentity,
    remote: RemoteBackend,
    current: Arc<Mutex<RemoteConfig>>,
    scope: &Scope,
) {
    let token = scope.token();
    let renewed = move |fresh: &NodeIdentity| {
        let config = fresh.remote();
        if let Err(error) = remote.reconfigure(&config) {
            tracing::error!(%error, "the renewed certificate cannot be used");
            return;
        }
        *lock(&current) = config;
    };
    scope.spawn(TaskKind::Agent, async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = join::keep_renewed(joining, identity, Clock::system(), renewed) => {}
        }
    });
}

/// The listener for health and metrics, and its port; none where they are not wanted. When the usual port is taken,
/// by another node of this machine, any other will do: the Node object tells which.
async fn listen(settings: &AgentSettings) -> anyhow::Result<(Option<TcpListener>, u16)> {
    let (any, port) = (std::net::Ipv4Addr::UNSPECIFIED, settings.metrics_port);
    if port == 0 {
        return Ok((None, 0));
    }
    let bound = match TcpListener::bind((any, port)).await {
        Err(error) if port == METRICS_PORT && error.kind() == std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((any, 0)).await
        }
        other => other,
    };
    let listener = bound.with_context(|| {
        format!("cannot listen on port {port}; choose another with --metrics-port (0: none)")
    })?;
    let port = listener.local_addr()?.port();
    Ok((Some(listener), port))
}

/// `/healthz`, `/livez`, `/readyz` and `/metrics` of the node.
fn serve(handle: &AgentHandle, listener: TcpListener, metrics: Option<MetricsHandle>, scope: &Scope) {
    let render = move || metrics.as_ref().map(MetricsHandle::render).unwrap_or_default();
    let router = balsa_agent::router(handle, render);
    let token = scope.token();
    scope.spawn(TaskKind::Agent, async move {
        axum::serve(listener, router).with_graceful_shutdown(token.cancelled_owned()).await
    });
}
