//! A server: identity, log, state, engine, the front doors, and what runs while it leads.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use balsa_client::Client;
use balsa_controllers::ControllerConfig;
use balsa_log::{Log, LogConfig};
use balsa_model::kinds;
use balsa_rt::telemetry::MetricsHandle;
use balsa_rt::{CancellationToken, Clock, Scope, TaskKind};
use balsa_state::{Machine, StateConfig, Store};
use ipnet::IpNet;
use tokio::net::TcpListener;

use crate::admission::{Admission, AdmissionConfig};
use crate::authorize::{Authorized, Authorizer};
use crate::bootstrap::{self, Seed};
use crate::engine::{Engine, LocalBackend};
use crate::fairness::{Fairness, Limits};
use crate::front::{Front, Parts};
use crate::identity::{
    Authenticator, Authority, Certificates, IdentityError, LastUse, ServerId, ServiceAccountTokens,
    SharedSettings, Wanted,
};
use crate::listener::Doors;
use crate::members::{self, Members};
use crate::rest::Counted;
use crate::sessions::Sessions;
use crate::{api_endpoints, follower, grpc, leases, listener, signer, usage};

/// The issuer of service accounts' tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long requests in flight may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What a server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The port that is listened on, on all of `bind`.
    pub bind: SocketAddr,
    /// The address that agents and other servers use, and pods too if it is not of loopback.
    pub advertise: IpAddr,
    /// Where to listen for pods as well, when they do not reach `advertise`.
    pub pods: Option<SocketAddr>,
    /// More names and addresses for the serving certificate.
    pub extra_names: Vec<String>,
    /// Where ClusterIPs come from.
    pub service_cidr: IpNet,
    /// Where nodes get their pod ranges from.
    pub cluster_cidr: IpNet,
    /// Where node ports come from, both ends included.
    pub node_ports: (u16, u16),
    /// Where local-path volumes are made on nodes.
    pub local_path_dir: PathBuf,
    /// What people call this server.
    pub name: String,
    /// Servers of the cluster that this one joins, or looks for after all have moved; `host:port`.
    pub join: Vec<String>,
    /// The bootstrap token for servers; needed once.
    pub token: Option<String>,
    /// How long the certificates of this server and of the nodes are good for; they are renewed in time.
    pub certificate_life: Duration,
    /// How often the leader says that it lives.
    pub heartbeat_interval: Duration,
    /// The leader's lease, and the longest that a follower waits after it before it stands for election.
    pub election_timeout: Duration,
    /// Proposals under way at which further ones are refused.
    pub max_pending: usize,
    /// How much is done at a time.
    pub limits: Limits,
    /// What all objects together may take, in bytes; 0: any number. The leader's counts.
    pub storage_quota: u64,
    /// Changes that are kept for watches that come back and for lists of the past.
    pub history_changes: usize,
    /// How long a node may be silent before it counts as dead. The leader's counts.
    pub node_grace: Duration,
    /// Goes on alone, as a new cluster, unless a majority of the old one answers.
    pub force_new_cluster: bool,
}

/// A server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Keys or certificates.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The log.
    #[error("log: {0}")]
    Log(#[from] balsa_log::LogError),
    /// The port is taken, or is not ours to take.
    #[error("cannot listen on {address}: {source}; choose another with {flag}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The flag that says where.
        flag: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster does not take this server.
    #[error("cannot join: {0}")]
    Join(String),
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
}

/// The keys of the cluster; those of a new one are made. A server that has lost them makes none by itself: the others would not
/// know it any more, and it not them.
fn authority(data_dir: &Path) -> Result<Authority, ServerError> {
    let keys = data_dir.join("pki");
    if data_dir.join("log/db").exists() && !keys.exists() {
        let why = format!(
            "{} is gone, with the keys of the cluster: copy it from another server of the cluster. Where there is no other \
             one, make it, empty: then new keys are made, with which agents have to join anew",
            keys.display()
        );
        return Err(ServerError::Config(why));
    }
    Ok(Authority::open(&keys)?)
}

/// A running server.
pub struct Server {
    scope: Scope,
    front: Front,
    log: Log,
    address: SocketAddr,
    config: ServerConfig,
}

impl Server {
    /// Starts a server. It answers when this returns.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn start(
        mut config: ServerConfig,
        clock: Clock,
        metrics: Option<MetricsHandle>,
    ) -> Result<Self, ServerError> {
        let (listener, bound) = listen(config.bind, "--port").await?;
        let address = SocketAddr::new(config.advertise, bound.port());
        let for_pods = match config.pods {
            Some(pods) => Some(listen(pods, "--pods-port").await?),
            None => None,
        };
        let pods_address = for_pods.as_ref().map_or(address, |(_, bound)| *bound);
        // Loopback is another place in every pod.
        let pods_address = Some(pods_address).filter(|address| !address.ip().is_loopback());
        members::form_anew(&config, &address.to_string()).await?;
        let id = members::identify(&config, &address.to_string()).await?;
        let shared = settle(&id, &mut config);
        let authority = Arc::new(authority(&config.data_dir)?);
        let (certificates, transport) =
            Certificates::start(authority.clone(), wanted_certificate(&id, &config)?)?;
        let tls = listener::tls_config(authority.certificate(), certificates.resolver())?;

        let usual = StateConfig::default();
        let state_config = StateConfig {
            history_changes: config.history_changes,
            recent_changes: config.history_changes.min(usual.recent_changes),
            ..usual
        };
        let machine = Machine::new(kinds::all(), state_config);
        let state = machine.state();
        let log_config = LogConfig {
            name: id.name.clone(),
            heartbeat: config.heartbeat_interval,
            election: LogConfig::election(config.election_timeout),
            max_pending: config.max_pending,
            ..LogConfig::new(config.data_dir.join("log"), id.id, address.to_string())
        };
        let log = Log::open(log_config, machine, transport.clone()).await?;
        if !id.entering {
            log.initialize().await?;
        }
        let places = (address.to_string(), pods_address);
        let members = Members::new(id.clone(), places, log.clone(), transport.clone(), state.clone());
        let store = Store::new(log.clone(), state.clone(), clock.clone());

        let admission_config =
            AdmissionConfig { service_cidr: config.service_cidr, node_ports: config.node_ports };
        let admission = Admission::new(state.clone(), admission_config);
        let engine = Engine::new(store, admission, config.storage_quota, clock.clone());
        let tokens = Arc::new(ServiceAccountTokens::new(&authority.named_key("sa")?, ISSUER)?);
        let (last_use, uses) = LastUse::new();
        let front = Front::new(Parts {
            authenticator: Authenticator::new(tokens.clone(), last_use, state.clone(), clock),
            authorizer: Authorizer::new(state.clone()),
            engine,
            authority,
            tokens,
            sessions: Sessions::default(),
            metrics,
            members,
            certificates: certificates.clone(),
            fairness: Fairness::new(config.limits, state),
            shared: Arc::new(shared),
            counted: Counted::default(),
        });
        let scope = Scope::new();
        let (grpc, reporter) = grpc::router(&front, scope.token());
        let doors = Doors { front: front.clone(), grpc };
        for listener in std::iter::once(listener).chain(for_pods.map(|(listener, _)| listener)) {
            let serving = listener::serve(listener, tls.clone(), doors.clone(), scope.token(), DRAIN);
            scope.spawn(TaskKind::Listener, serving);
        }
        scope.spawn(TaskKind::Helper, grpc::health::follow(reporter, log.clone(), scope.token()));
        let (watched, token) = (log.clone(), scope.token());
        scope.spawn(TaskKind::Raft, async move {
            // Storage that failed once cannot be trusted: better to end, and be started again.
            tokio::select! {
                () = token.cancelled() => Ok(()),
                reason = watched.stopped() => reason.map_or(Ok(()), Err),
            }
        });
        follower::start(&front, &config, uses, &scope);
        let server = Self { scope, front, log, address, config };
        server.lead()?;
        Ok(server)
    }

    /// Runs the leader's work whenever this server leads.
    fn lead(&self) -> Result<(), ServerError> {
        let leader = Leader {
            front: self.front.clone(),
            seed: seed_of(&self.config, self.address.port(), self.front.authority.certificate())?,
            controllers: ControllerConfig {
                cluster_cidr: Some(self.config.cluster_cidr),
                root_ca: self.front.authority.certificate().to_owned(),
                local_path_dir: self.config.local_path_dir.display().to_string(),
                node_grace: self.config.node_grace,
                usage: Some(Arc::new(usage::FromAgents(self.front.clone()))),
                tokens: Some(self.front.tokens.clone()),
                ..ControllerConfig::default()
            },
        };
        let (log, token) = (self.log.clone(), self.scope.token());
        self.scope.spawn(TaskKind::Helper, async move { leader.follow(&log, token).await });
        Ok(())
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster's CA.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.front.authority
    }

    /// A client in this process, with all rights, that works whether this server leads or not.
    pub fn client(&self, name: &str) -> Client {
        let who = Authorized::server_part(&format!("system:{name}"));
        Client::new(LocalBackend::new(self.front.engine.clone(), who), name)
    }

    /// Which server this is.
    pub fn id(&self) -> &ServerId {
        self.front.members.id()
    }

    /// Stops in good order: another server leads first, then requests in flight end, then the log.
    ///
    /// # Errors
    /// When the log had failed.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        self.log.hand_over().await;
        self.scope.close(DRAIN + Duration::from_secs(1)).await;
        self.log.shutdown().await?;
        Ok(())
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source: std::io::Error| {
        let elsewhere = source.kind() == std::io::ErrorKind::AddrNotAvailable;
        ServerError::Listen { address, flag: if elsewhere { "--bind" } else { flag }, source }
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// What all servers agree on: what the cluster said when this one joined it counts more than its own
/// command line.
fn settle(id: &ServerId, config: &mut ServerConfig) -> SharedSettings {
    if let Some(shared) = &id.shared {
        config.service_cidr = shared.service_cidr;
        config.cluster_cidr = shared.cluster_cidr;
        config.node_ports = shared.node_ports;
    }
    SharedSettings {
        service_cidr: config.service_cidr,
        cluster_cidr: config.cluster_cidr,
        node_ports: config.node_ports,
    }
}

/// What the serving certificate says. It is made anew at every start, so that it always fits the addresses.
fn wanted_certificate(id: &ServerId, config: &ServerConfig) -> Result<Wanted, ServerError> {
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut addresses =
        vec![IpAddr::from([127, 0, 0, 1]), config.advertise, nth_address(config.service_cidr, 1)?];
    if !config.bind.ip().is_unspecified() {
        addresses.push(config.bind.ip());
    }
    for extra in &config.extra_names {
        match extra.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(extra.clone()),
        }
    }
    Ok(Wanted { server: id.clone(), names, addresses, life: config.certificate_life })
}

fn seed_of(config: &ServerConfig, port: u16, ca: &str) -> Result<Seed, ServerError> {
    Ok(Seed {
        api_ip: nth_address(config.service_cidr, 1)?,
        service_cidr: config.service_cidr.to_string(),
        port,
        dns_ip: nth_address(config.service_cidr, 10)?,
        ca: ca.to_owned(),
    })
}

/// The `n`th address of a range; what clusters agree on: 1 is the API, 10 is DNS.
///
/// # Errors
/// When the range is too small or not IPv4.
pub fn nth_address(range: IpNet, n: u32) -> Result<IpAddr, ServerError> {
    let IpNet::V4(v4) = range else {
        return Err(ServerError::Config(format!("--service-cidr {range}: must be IPv4")));
    };
    let address = IpAddr::V4((u32::from(v4.network()) + n).into());
    if range.contains(&address) {
        Ok(address)
    } else {
        Err(ServerError::Config(format!("--service-cidr {range}: too small, at least /24 is needed")))
    }
}

/// What runs while this server leads.
struct Leader {
    front: Front,
    seed: Seed,
    controllers: ControllerConfig,
}

impl Leader {
    /// Starts the leader's scope when leadership comes and drops it when it goes.
    async fn follow(&self, log: &Log, token: CancellationToken) {
        let mut leadership = log.leadership();
        let mut running: Option<(u64, Scope)> = None;
        loop {
            let now = *leadership.borrow_and_update();
            match &running {
                Some((term, _)) if now.is_leader && *term == now.term => {}
                _ => {
                    running = None;
                    if now.is_leader {
                        running = Some((now.term, self.start(now.term)));
                    }
                }
            }
            tokio::select! {
                () = token.cancelled() => break,
                changed = leadership.changed() => if changed.is_err() { break },
            }
        }
        drop(running);
    }

    fn client(&self, name: &str, term: u64) -> Client {
        let who = Authorized::leader_part(&format!("system:{name}"), term);
        Client::new(LocalBackend::new(self.front.engine.clone(), who), name)
    }

    fn start(&self, term: u64) -> Scope {
        tracing::info!(term, "this server leads");
        let scope = Scope::new();
        let clock = self.front.engine.clock().clone();
        let (seeding, seed) = (self.client("bootstrap", term), self.seed.clone());
        let (client, members) = (self.client("apiserver", term), self.front.members.clone());
        scope.spawn(TaskKind::Controller, async move {
            retry_seed(&seeding, &seed).await;
            // What is kept now is among what a cluster has from the start.
            api_endpoints::run(client, members, seed).await
        });
        let levels =
            bootstrap::flow_control::seed(self.client("bootstrap", term), self.front.members.clone());
        scope.spawn(TaskKind::Controller, levels);
        balsa_controllers::start(
            self.client("kube-controller-manager", term),
            clock.clone(),
            self.controllers.clone(),
            &scope,
        );
        balsa_scheduler::start(self.client("kube-scheduler", term), clock.clone(), &scope);
        let guard = self.front.engine.quota().clone().guard(self.client("storage-quota", term));
        scope.spawn(TaskKind::Controller, guard);
        let client = self.client("certificate-controller", term);
        signer::start(client, self.front.authority.clone(), clock.clone(), &scope);
        let client = self.client("node-leases", term);
        scope.spawn(TaskKind::Controller, leases::run(client, self.front.sessions.clone(), clock));
        scope
    }
}

/// The first objects must be there sooner or later, whatever is in the way at first.
async fn retry_seed(client: &Client, seed: &Seed) {
    let mut backoff = balsa_rt::Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while let Err(failure) = bootstrap::seed(client, seed).await {
        tracing::warn!(%failure, "the cluster's first objects are not complete; trying again");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
