//! The proxy without rules in the kernel: a listener for each address and port of a service.
//!
//! Works for node ports, and for cluster IPs as far as they can be put on `lo`, which takes the
//! right to configure links. A service without endpoints has no listener, so that the kernel
//! refuses for us. Affinity is kept in memory and is disposable; the client's address is lost.
//!
//! Invariant: one task for each key of the plan; a changed backend is swapped under the running
//! task, so connections that are open go on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use balsa_rt::{Scope, TaskKind};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::Synced;
use super::input::{Protocol, ProxyInput, usable};
use crate::error::NetError;
use crate::lease::Lease;
use crate::netns::Netns;
use crate::pod::LoopbackAddresses;

/// How long a UDP client's flow lives without a packet.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// Clients of one UDP port: enough for any node, and an end to what a flood can take.
const UDP_CLIENTS: usize = 16_384;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How many endpoints a connection tries before it is given up.
const ATTEMPTS: usize = 3;

/// Where to listen.
pub type Frontend = (Protocol, Ipv4Addr, u16);

/// What is behind a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Usable endpoints, never none.
    pub endpoints: Vec<SocketAddr>,
    /// How long a client stays with its endpoint.
    pub affinity: Option<Duration>,
}

/// The listeners for `input`: pure. SCTP has none.
pub fn plan(input: &ProxyInput) -> BTreeMap<Frontend, Backend> {
    let mut plan = BTreeMap::new();
    for service in &input.services {
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
            let backend = |local_only: bool| {
                let allowed: Vec<_> =
                    port.endpoints.iter().filter(|e| e.local || !local_only).cloned().collect();
                let endpoints: Vec<SocketAddr> =
                    usable(&allowed).iter().map(|e| (e.address, e.port).into()).collect();
                (!endpoints.is_empty()).then_some(Backend { endpoints, affinity: service.affinity })
            };
            if let Some(backend) = backend(service.internal_local) {
                for address in &service.cluster_ips {
                    plan.entry((port.protocol, *address, port.port)).or_insert_with(|| backend.clone());
                }
            }
            if let (Some(node_port), Some(backend)) = (port.node_port, backend(service.external_local)) {
                let one = [port.node_address.unwrap_or(Ipv4Addr::UNSPECIFIED)];
                let any = input.node_addresses.is_empty() || port.node_address.is_some();
                let addresses = if any { &one[..] } else { &input.node_addresses };
                for address in addresses {
                    plan.entry((port.protocol, *address, node_port)).or_insert_with(|| backend.clone());
                }
            }
        }
    }
    plan
}

/// The running listeners.
pub(super) struct Userspace {
    lease_name: String,
    lease: Option<Lease>,
    netns: Netns,
    listeners: BTreeMap<Frontend, Running>,
    addresses: LoopbackAddresses,
}

struct Running {
    balancer: Arc<Balancer>,
    _scope: Scope,
}

impl Userspace {
    pub(super) fn new(table: &str, netns: Netns) -> Self {
        Self {
            lease_name: format!("proxy/{table}"),
            lease: None,
            addresses: LoopbackAddresses::new(table, netns.clone()),
            netns,
            listeners: BTreeMap::new(),
        }
    }

    pub(super) async fn sync(&mut self, input: &ProxyInput) -> Result<Synced, NetError> {
        if self.lease.is_none() {
            self.lease = Lease::take(&self.netns, &self.lease_name).await?;
            if self.lease.is_none() {
                return Ok(Synced::Standby);
            }
        }
        let cluster_ips: BTreeSet<_> =
            input.services.iter().flat_map(|s| s.cluster_ips.iter().copied()).collect();
        // The address of the resolver is there for the resolver, which is no service of ours.
        let wanted = cluster_ips.iter().chain(&input.resolver).copied().collect();
        let mut changes = usize::from(self.addresses.set(wanted).await?);
        let mut plan = plan(input);
        plan.retain(|(_, address, _), _| !cluster_ips.contains(address) || self.addresses.has(*address));
        let before = self.listeners.len();
        self.listeners.retain(|frontend, _| plan.contains_key(frontend));
        changes += before - self.listeners.len();
        let mut failed = None;
        for (frontend, backend) in plan {
            if let Some(running) = self.listeners.get(&frontend) {
                changes += usize::from(running.balancer.replace(backend));
                continue;
            }
            match self.listen(frontend, backend).await {
                Ok(running) => {
                    self.listeners.insert(frontend, running);
                    changes += 1;
                }
                // The others must not suffer; the next sync tries this one again.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None if changes == 0 => Ok(Synced::Unchanged),
            None => Ok(Synced::Changed(changes)),
        }
    }

    pub(super) async fn remove(&mut self) -> Result<(), NetError> {
        if self.lease.is_none() {
            self.lease = Lease::take(&self.netns, &self.lease_name).await?;
        }
        if self.lease.is_none() {
            return Ok(());
        }
        self.listeners.clear();
        self.addresses.set(BTreeSet::new()).await?;
        self.lease = None;
        Ok(())
    }

    async fn listen(
        &self,
        (protocol, address, port): Frontend,
        backend: Backend,
    ) -> Result<Running, NetError> {
        let at = SocketAddr::from((address, port));
        let balancer = Arc::new(Balancer::new(backend));
        let scope = Scope::new();
        let failed = |source| NetError::Listen { address: at, source };
        if protocol == Protocol::Udp {
            let socket = self.netns.run(move || bind_udp(at)).await?;
            let socket = UdpSocket::from_std(socket).map_err(failed)?;
            scope.spawn(
                TaskKind::Network,
                serve_udp(socket, balancer.clone(), self.netns.clone(), scope.token()),
            );
        } else {
            let listener = self.netns.run(move || bind_tcp(at)).await?;
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            scope.spawn(TaskKind::Network, serve_tcp(listener, balancer.clone(), scope.token()));
        }
        Ok(Running { balancer, _scope: scope })
    }
}

/// A non-blocking TCP listener in the calling thread's namespace.
pub(crate) fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, NetError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| NetError::Listen { address, source })
}

/// A non-blocking UDP socket in the calling thread's namespace.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<std::net::UdpSocket, NetError> {
    let bind = || {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bind().map_err(|source| NetError::Listen { address, source })
}

/// Picks endpoints: round robin, and the same one again for a client with affinity.
struct Balancer {
    backend: ArcSwap<Backend>,
    turn: AtomicUsize,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

impl Balancer {
    fn new(backend: Backend) -> Self {
        Self { backend: ArcSwap::from_pointee(backend), turn: AtomicUsize::new(0), clients: Mutex::default() }
    }

    /// True if the backend is another than before.
    fn replace(&self, backend: Backend) -> bool {
        if **self.backend.load() == backend {
            return false;
        }
        self.backend.store(Arc::new(backend));
        true
    }

    fn pick(&self, client: IpAddr, now: Instant) -> SocketAddr {
        let backend = self.backend.load();
        let next = backend.endpoints[self.turn.fetch_add(1, Ordering::Relaxed) % backend.endpoints.len()];
        let Some(timeout) = backend.affinity else { return next };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, (_, seen)| now.duration_since(*seen) < timeout);
        let entry = clients.entry(client).or_insert((next, now));
        if !backend.endpoints.contains(&entry.0) {
            entry.0 = next;
        }
        entry.1 = now;
        entry.0
    }

    /// An endpoint did not answer: its clients may go elsewhere.
    fn forget(&self, client: IpAddr) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
    }

    fn has(&self, endpoint: SocketAddr) -> bool {
        self.backend.load().endpoints.contains(&endpoint)
    }
}

async fn serve_tcp(listener: TcpListener, balancer: Arc<Balancer>, token: balsa_rt::CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => return,
        };
        match accepted {
            // A connection outlives its listener, as it would outlive its rule in the kernel.
            Ok((client, from)) => {
                balsa_rt::spawn(TaskKind::Connection, relay(client, from, balancer.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to a service");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn relay(mut client: TcpStream, from: SocketAddr, balancer: Arc<Balancer>) {
    for _ in 0..ATTEMPTS {
        let endpoint = balancer.pick(from.ip(), Instant::now());
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(endpoint)).await {
            Ok(Ok(mut server)) => {
                // Either side may break off; that is not our error.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                return;
            }
            _ => balancer.forget(from.ip()),
        }
    }
}

type Flows = HashMap<SocketAddr, (Arc<UdpSocket>, SocketAddr, Scope)>;

async fn serve_udp(
    socket: UdpSocket,
    balancer: Arc<Balancer>,
    netns: Netns,
    token: balsa_rt::CancellationToken,
) {
    let socket = Arc::new(socket);
    let mut flows = Flows::new();
    let (ended, mut ends) = tokio::sync::mpsc::channel(64);
    let mut packet = vec![0; 65_535];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut packet) => {
                // An ICMP error of an earlier answer is reported here; the socket is fine.
                let Ok((length, from)) = received else { continue };
                if let Some(flow) = flow_for(&mut flows, from, &socket, &balancer, &netns, &ended).await {
                    let _ = flow.send(&packet[..length]).await;
                }
            }
            Some(client) = ends.recv() => { flows.remove(&client); }
            () = token.cancelled() => return,
        }
    }
}

async fn flow_for(
    flows: &mut Flows,
    client: SocketAddr,
    socket: &Arc<UdpSocket>,
    balancer: &Balancer,
    netns: &Netns,
    ended: &tokio::sync::mpsc::Sender<SocketAddr>,
) -> Option<Arc<UdpSocket>> {
    if let Some((flow, endpoint, _)) = flows.get(&client)
        && balancer.has(*endpoint)
    {
        return Some(flow.clone());
    }
    if flows.len() >= UDP_CLIENTS {
        return None;
    }
    let endpoint = balancer.pick(client.ip(), Instant::now());
    let bound = netns.run(|| bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())).await.ok()?;
    let flow = Arc::new(UdpSocket::from_std(bound).ok()?);
    flow.connect(endpoint).await.ok()?;
    let scope = Scope::new();
    scope.spawn(TaskKind::Connection, answer_udp(flow.clone(), socket.clone(), client, ended.clone()));
    flows.insert(client, (flow.clone(), endpoint, scope));
    Some(flow)
}

async fn answer_udp(
    flow: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    ended: tokio::sync::mpsc::Sender<SocketAddr>,
) {
    let mut packet = vec![0; 65_535];
    while let Ok(Ok(length)) = tokio::time::timeout(UDP_IDLE, flow.recv(&mut packet)).await {
        if socket.send_to(&packet[..length], client).await.is_err() {
            break;
        }
    }
    // The listener may be gone already, and its flows with it.
    let _ = ended.send(client).await;
}
