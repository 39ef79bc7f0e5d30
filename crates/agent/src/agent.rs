//! An agent, put together: what it needs is passed in, what it starts ends with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use balsa_client::{Client, Recorder};
use balsa_model::selector::{FieldSelector, Filter};
use balsa_rt::{Clock, Scope, TaskKind};
use balsa_runtime::Runtime;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::watch;

use crate::board::StatusBoard;
use crate::config::AgentConfig;
use crate::context::NodeContext;
use crate::error::AgentError;
use crate::logs::Logs;
use crate::net::shown::Shown;
use crate::net::{NetworkSeam, wiring};
use crate::node::facts::Machine;
use crate::node::garbage::{self, Pulled};
use crate::node::lease;
use crate::node::register::Registrar;
use crate::objects::Objects;
use crate::pod::admission::Admission;
use crate::pod::host_ports::HostPorts;
use crate::pod::image::Images;
use crate::pod::limits;
use crate::pod::manager::Pods;
use crate::session::{self, SessionEndpoint};
use crate::volumes::{self, NoTokens, TokenSource, Tokens};
use crate::{metrics, volumes::cleanup};

/// How long the tasks of an agent may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Between two looks for logs that nobody wants any more.
const EXPIRY: Duration = Duration::from_secs(600);
/// Between two counts of what runs.
const COUNT: Duration = Duration::from_secs(5);

/// What an agent works with.
pub struct Agent {
    /// What it is told.
    pub config: AgentConfig,
    /// The cluster.
    pub client: Client,
    /// The containers.
    pub runtime: Arc<dyn Runtime>,
    /// The network.
    pub network: NetworkSeam,
    /// Where sessions are kept; none: leases are written directly, and there are no streams into pods.
    pub session: Option<SessionEndpoint>,
    /// Who makes service account tokens.
    pub tokens: Arc<dyn TokenSource>,
    /// The ports of the machine, which agents of one machine share.
    pub host_ports: HostPorts,
    /// The time.
    pub clock: Clock,
}

/// An agent that runs. Dropping it stops the agent; containers go on.
pub struct AgentHandle {
    scope: Scope,
    node: Arc<NodeContext>,
    pods: Arc<Pods>,
    ready: watch::Receiver<bool>,
    /// Whether a server knows of this agent; none where no session is kept.
    in_session: Option<watch::Receiver<bool>>,
}

impl Agent {
    /// An agent without session and without tokens.
    pub fn new(config: AgentConfig, client: Client, runtime: Arc<dyn Runtime>, network: NetworkSeam) -> Self {
        Self {
            config,
            client,
            runtime,
            network,
            session: None,
            tokens: Arc::new(NoTokens),
            host_ports: HostPorts::default(),
            clock: Clock::system(),
        }
    }

    /// Starts everything. What the runtime has is adopted; a server need not be there yet. The agent
    /// ends with `scope`, or with its handle.
    ///
    /// # Errors
    /// When the node's directory cannot be used or the container runtime does not answer.
    pub async fn start(self, scope: &Scope) -> Result<AgentHandle, AgentError> {
        let scope = Scope::under(&scope.token());
        let config = Arc::new(self.config);
        for directory in ["pods", "logs", "pod-cache", "objects"] {
            let path = config.data_dir.join(directory);
            std::fs::create_dir_all(&path).map_err(AgentError::file(path))?;
        }
        let version = self.runtime.version().await?;
        let pause_image = self.runtime.ensure_pause_image().await?;
        let machine = Machine::look(&config);
        let (objects, objects_changed) =
            Objects::new(self.client.clone(), config.data_dir.join("objects"), scope.token());
        let (ready_sender, ready) = watch::channel(false);
        let own = Filter { name: Some(config.node_name.as_str().into()), ..Filter::everything() };
        let own = self.client.informer::<Node>(own, &scope);
        let services = self.client.informer::<Service>(Filter::everything(), &scope);
        let shown = Shown::new(self.session.clone());
        let pulled = Arc::new(Pulled::open(garbage::list_in(&config.data_dir), self.clock.clone()));
        let node = Arc::new(NodeContext {
            engine: version.engine.clone(),
            recursive_read_only: version.recursive_read_only,
            pause_image,
            network: self.network.clone(),
            network_ready: ready.clone(),
            shown: shown.clone(),
            objects: objects.clone(),
            admission: Admission::new(&config, &self.client, own.clone(), &machine, self.host_ports),
            volumes: volumes::Shared {
                config: config.clone(),
                client: self.client.clone(),
                objects,
                tokens: Tokens::new(self.tokens),
                clock: self.clock.clone(),
                simulated: version.simulated,
            },
            images: Images::new(self.runtime.clone(), pulled.clone(), config.timing.pull_progress),
            board: StatusBoard::start(self.client.clone(), &scope),
            logs: Logs::new(config.data_dir.join("logs"), self.runtime.clone()),
            recorder: Recorder::new(self.client.clone(), "kubelet", self.clock.clone()),
            services: services.clone(),
            machine: machine.clone(),
            clock: self.clock.clone(),
            config: config.clone(),
            runtime: self.runtime.clone(),
            http: std::sync::OnceLock::new(),
        });
        keep(&scope, garbage::watch(pulled, self.runtime.clone(), config.data_dir.clone()));
        let registrar = Arc::new(Registrar {
            config: config.clone(),
            client: self.client.clone(),
            runtime: self.runtime,
            network: self.network.clone(),
            network_ready: ready_sender,
            version,
            machine,
            clock: self.clock.clone(),
        });
        keep(&scope, registrar.clone().keep_network(own));
        keep(&scope, registrar.report());
        let on_node = FieldSelector::equal("spec.nodeName", &config.node_name);
        let informer =
            self.client.informer::<Pod>(Filter { fields: on_node, ..Filter::everything() }, &scope);
        let pods = Pods::start(node.clone(), informer, objects_changed, &scope);
        wiring::start(config.clone(), &self.client, services, self.network, pods.clone(), shown, &scope);
        cleanup::start(self.client.clone(), config.node_name.clone(), &scope);
        let (session_sender, in_session) = watch::channel(false);
        let keeps_session = self.session.is_some();
        if let Some(endpoint) = self.session {
            session::start(endpoint, node.clone(), pods.clone(), session_sender, &scope);
        }
        let known = keeps_session.then(|| in_session.clone());
        let (name, every) = (config.node_name.clone(), config.timing.lease);
        keep(&scope, lease::renew(self.client, name, every, self.clock, in_session));
        keep(&scope, expire_logs(node.clone(), pods.clone()));
        keep(&scope, count(pods.clone()));
        keep(&scope, limits::watch(node.clone(), pods.clone()));
        Ok(AgentHandle { scope, node, pods, ready, in_session: known })
    }
}

/// Runs a loop until the scope ends.
fn keep(scope: &Scope, work: impl Future<Output = ()> + Send + 'static) {
    let token = scope.token();
    scope.spawn(TaskKind::Agent, async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = work => {}
        }
    });
}

async fn expire_logs(node: Arc<NodeContext>, pods: Arc<Pods>) {
    let mut ticks = tokio::time::interval(EXPIRY);
    loop {
        ticks.tick().await;
        let (node, pods) = (node.clone(), pods.clone());
        let now = SystemTime::from(node.clock.now());
        let expired = balsa_rt::spawn_blocking(move || {
            node.logs.expire(|uid| pods.has(uid), node.config.timing.log_retention, now);
        });
        let _ = expired.await;
    }
}

async fn count(pods: Arc<Pods>) {
    let mut ticks = tokio::time::interval(COUNT);
    loop {
        ticks.tick().await;
        let (running_pods, containers) = pods.running();
        metrics::running(running_pods, containers);
    }
}

impl AgentHandle {
    /// Waits until the pod network is there and pods can start.
    pub async fn ready(&self) {
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.node.config.node_name
    }

    /// How many pods and containers run.
    pub fn running(&self) -> (usize, usize) {
        self.pods.running()
    }

    /// What is served over streams as the node's own endpoint.
    pub(crate) fn serve_http(&self, router: axum::Router) {
        // The first stays: there is one endpoint.
        let _ = self.node.http.set(router);
    }

    /// Whether a server knows of this agent.
    pub(crate) fn in_session(&self) -> Option<watch::Receiver<bool>> {
        self.in_session.clone()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.node.clock.clone()
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.node.runtime.clone()
    }

    /// Stops the agent in good order. Containers, their network and the services' rules stay as they
    /// are: the next start adopts them.
    pub async fn drain(self) {
        self.scope.close(DRAIN).await;
    }
}
