//! Servers in one process on a network of pipes whose links can be cut, and a state machine that
//! remembers everything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use balsa_log::{
    Bytes, Committed, Connector, Lane, Log, LogConfig, LogError, LogIndex, NodeId, StateMachine,
    StateMachineError, Table, TableBatch, Tables, TransportConfig, async_trait,
};
use balsa_rt::TaskKind;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint, Server};

/// What a server applied, by index. Shared with the test; lost and rebuilt when the server restarts.
pub type Applied = Arc<Mutex<BTreeMap<u64, Bytes>>>;

/// Keeps every payload in memory and in the tables, and answers with what it was given.
pub struct Ledger(pub Applied);

#[async_trait]
impl StateMachine for Ledger {
    async fn restore(&mut self, tables: &Tables, applied: Option<LogIndex>) -> Result<(), StateMachineError> {
        let mut found = BTreeMap::new();
        tables.scan(Table::Objects, &[], &[], false, |key, value| {
            found.insert(u64::from_be_bytes(key.try_into().unwrap()), Bytes::copy_from_slice(value));
            std::ops::ControlFlow::Continue(())
        })?;
        assert!(
            found.keys().all(|index| Some(LogIndex(*index)) <= applied),
            "the tables are ahead of `applied`"
        );
        *self.0.lock().unwrap() = found;
        Ok(())
    }

    async fn apply(&mut self, entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes> {
        let mut applied = self.0.lock().unwrap();
        let mut replies = Vec::new();
        for entry in entries {
            let before = applied.insert(entry.index.0, entry.payload.clone());
            assert_eq!(before, None, "an entry is applied once");
            batch.put(Table::Objects, entry.index.0.to_be_bytes().to_vec(), entry.payload.clone());
            replies.push(entry.payload);
        }
        replies
    }

    async fn publish(&mut self, _: LogIndex) {}
}

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Opens a log whose directory an earlier one may be about to let go of.
pub async fn open(config: &LogConfig, applied: &Applied, transport: &TransportConfig) -> Log {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Log::open(config.clone(), Ledger(applied.clone()), transport.clone()).await {
            Ok(log) => return log,
            Err(error @ LogError::Storage { .. }) => assert!(Instant::now() < deadline, "{error}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Default)]
struct Wires {
    cut: watch::Sender<HashSet<(NodeId, NodeId)>>,
    inboxes: HashMap<NodeId, mpsc::UnboundedSender<std::io::Result<DuplexStream>>>,
    channels: HashMap<(NodeId, NodeId, bool), Channel>,
    /// Connections for snapshots break after so many bytes.
    fragile: Option<usize>,
    /// Those that broke, and bytes that went through all of them.
    broken: usize,
    carried: usize,
}

/// The network: which server can call which.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Wires>>);

impl Net {
    /// Cuts `node` off from all, in both directions.
    pub fn isolate(&self, node: NodeId, all: &[NodeId]) {
        let links = all.iter().flat_map(|other| [(node, *other), (*other, node)]);
        self.0.lock().unwrap().cut.send_modify(|cut| cut.extend(links));
    }

    /// Cuts one direction of one link: who calls whom. Calls that are under way end, too.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.lock().unwrap().cut.send_modify(|cut| cut.extend([(from, to)]));
    }

    /// From now on connections for snapshots break after so many bytes.
    pub fn make_fragile(&self, bytes: usize) {
        self.0.lock().unwrap().fragile = Some(bytes);
    }

    /// Connections that broke, and bytes that went to their other sides.
    pub fn broken(&self) -> (usize, usize) {
        let wires = self.0.lock().unwrap();
        (wires.broken, wires.carried)
    }

    /// Carries what `caller` says until that is `limit` bytes, and all that `callee` answers, until the link is cut.
    /// How much the caller said.
    async fn carry(
        &self,
        link: (NodeId, NodeId),
        caller: DuplexStream,
        callee: DuplexStream,
        limit: usize,
    ) -> usize {
        let mut cut = self.0.lock().unwrap().cut.subscribe();
        let (questions, mut to_caller) = tokio::io::split(caller);
        let (mut answers, mut to_callee) = tokio::io::split(callee);
        let mut questions = tokio::io::AsyncReadExt::take(questions, limit as u64);
        tokio::select! {
            said = tokio::io::copy(&mut questions, &mut to_callee) => said.unwrap_or(0) as usize,
            _ = tokio::io::copy(&mut answers, &mut to_caller) => 0,
            _ = cut.wait_for(|cut| cut.contains(&link)) => 0,
        }
    }

    /// The other end of a connection from `link.0` to `link.1`.
    fn dial(self, link: (NodeId, NodeId), for_snapshots: bool) -> std::io::Result<DuplexStream> {
        let (inbox, fragile) = {
            let wires = self.0.lock().unwrap();
            (wires.inboxes.get(&link.1).cloned(), wires.fragile.filter(|_| for_snapshots))
        };
        let (ours, near) = tokio::io::duplex(1 << 16);
        let (far, theirs) = tokio::io::duplex(1 << 20);
        let taken = inbox.and_then(|inbox| inbox.send(Ok(theirs)).ok());
        taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
        balsa_rt::spawn(TaskKind::Test, async move {
            let said = self.carry(link, near, far, fragile.unwrap_or(usize::MAX)).await;
            if let Some(limit) = fragile {
                let mut wires = self.0.lock().unwrap();
                wires.carried += said;
                wires.broken += usize::from(said == limit);
            }
        });
        Ok(ours)
    }

    /// Mends everything.
    pub fn heal(&self) {
        self.0.lock().unwrap().cut.send_modify(HashSet::clear);
    }

    fn transport(&self, from: NodeId) -> TransportConfig {
        TransportConfig::with_connector(Arc::new(Wire { net: self.clone(), from }))
    }

    fn listen(&self, node: NodeId) -> mpsc::UnboundedReceiver<std::io::Result<DuplexStream>> {
        let (inbox, incoming) = mpsc::unbounded_channel();
        let mut wires = self.0.lock().unwrap();
        wires.inboxes.insert(node, inbox);
        wires.channels.retain(|(from, to, _), _| *from != node && *to != node);
        incoming
    }

    fn hang_up(&self, node: NodeId) {
        let mut wires = self.0.lock().unwrap();
        wires.inboxes.remove(&node);
        wires.channels.retain(|(from, to, _), _| *from != node && *to != node);
    }
}

struct Wire {
    net: Net,
    from: NodeId,
}

impl Connector for Wire {
    fn connect(&self, to: NodeId, _: &str, lane: Lane) -> Result<Channel, LogError> {
        let (net, link) = (self.net.clone(), (self.from, to));
        let mut wires = self.net.0.lock().unwrap();
        if wires.cut.borrow().contains(&link) {
            return Err(LogError::Transport("the link is cut".to_owned()));
        }
        let for_snapshots = lane == Lane::Snapshots;
        let channel = wires.channels.entry((self.from, to, for_snapshots)).or_insert_with(|| {
            let dial = move |_: http::Uri| {
                let dialled = net.clone().dial(link, for_snapshots);
                std::future::ready(dialled.map(hyper_util::rt::TokioIo::new))
            };
            Endpoint::from_static("http://pipe").connect_with_connector_lazy(tower::service_fn(dial))
        });
        Ok(channel.clone())
    }
}

/// One server: its log while it runs, and what outlives it.
pub struct Node {
    pub id: NodeId,
    pub applied: Applied,
    config: LogConfig,
    running: Option<(Log, tokio::task::JoinHandle<Option<()>>)>,
}

impl Node {
    pub fn log(&self) -> Option<&Log> {
        self.running.as_ref().map(|(log, _)| log)
    }

    pub fn directory(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    pub fn payloads(&self) -> BTreeMap<u64, Bytes> {
        self.applied.lock().unwrap().clone()
    }
}

/// Several servers.
pub struct World {
    pub net: Net,
    pub nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl World {
    /// `count` servers, all of them voters.
    pub async fn start(count: u64, tune: impl Fn(&mut LogConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { net: Net::default(), nodes: Vec::new(), _dir: dir };
        for id in 1..=count {
            let path: PathBuf = world._dir.path().join(id.to_string());
            let mut config = LogConfig::new(path, id, format!("pipe-{id}:1"));
            tune(&mut config);
            world.nodes.push(Node { id, applied: Applied::default(), config, running: None });
            world.boot(id).await;
        }
        let first = world.nodes[0].log().unwrap().clone();
        first.initialize().await.unwrap();
        first.leadership().wait_for(|now| now.is_leader).await.unwrap();
        for id in 2..=count {
            first.add_learner(id, format!("pipe-{id}:1")).await.unwrap();
            first.promote(id).await.unwrap();
        }
        world
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// Opens the log of `id` and serves its peers.
    pub async fn boot(&mut self, id: NodeId) {
        let net = self.net.clone();
        let node = self.node(id);
        let log = open(&node.config, &node.applied, &net.transport(id)).await;
        let service = log.service();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(net.listen(id));
        let server = balsa_rt::spawn(TaskKind::Test, async move {
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        node.running = Some((log, server));
    }

    /// Takes `id` down without a word to the others. Its disk is as it is.
    pub async fn crash(&mut self, id: NodeId) {
        let ids = self.ids();
        self.net.isolate(id, &ids);
        self.net.hang_up(id);
        if let Some((log, server)) = self.node(id).running.take() {
            server.abort();
            log.shutdown().await.unwrap();
        }
    }

    /// The server that leads, if exactly one says so.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.log().is_some_and(|log| log.leadership().borrow().is_leader);
        let mut leaders = self.nodes.iter().filter(leads);
        leaders.next().filter(|_| leaders.next().is_none()).map(|node| node.id)
    }

    /// Stops everything.
    pub async fn stop(mut self) {
        for id in self.ids() {
            self.crash(id).await;
        }
    }
}
