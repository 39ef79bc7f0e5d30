//! Agents' sessions: who is connected here, and streams into their pods.
//!
//! An agent keeps one `Session` call open. When somebody wants a stream into one of its pods, it is
//! told an id and opens a `Stream` call with it; the two ends meet here. Heartbeats are noted and the
//! leases of all nodes heard of are renewed together (see `leases`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_model::{Failure, Reason};
use balsa_proto::agent::{Open, SessionResponse, StreamRequest, StreamResponse, session_response};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Said of a stream whose agent went away before its end.
pub(crate) const LOST: &str = "the connection to the node was lost before the end of the stream";

/// How long an agent may take to open a stream that it was asked for.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// Messages in flight on a stream in each direction: enough to keep a connection busy, few enough that
/// a slow reader is felt by the writer.
const STREAM_DEPTH: usize = 32;

/// Both ends of a stream into a pod, as the front door holds them.
pub(crate) struct PodStream {
    /// What the agent sends.
    pub from_agent: mpsc::Receiver<StreamRequest>,
    /// What the agent gets.
    pub to_agent: mpsc::Sender<StreamResponse>,
}

/// The same, as the agent's `Stream` call holds them.
pub(crate) struct AgentEnd {
    pub(crate) incoming: mpsc::Sender<StreamRequest>,
    pub(crate) outgoing: mpsc::Receiver<StreamResponse>,
}

struct Session {
    id: u64,
    sender: mpsc::Sender<SessionResponse>,
    heard: Instant,
    /// The revision that its service proxy shows, once it has said so.
    proxied: Option<u64>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    sessions: HashMap<String, Session>,
    waiting: HashMap<String, (String, oneshot::Sender<PodStream>)>,
    /// When another server last told that it had heard of a node.
    reported: HashMap<String, Instant>,
}

/// The sessions of this server. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Sessions {
    table: Arc<Mutex<Table>>,
    /// Counts what may end somebody's wait for the proxies.
    proxies: Arc<watch::Sender<u64>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A node's agent has come; the answer names this session of it.
    pub(crate) fn connect(&self, node: &str, sender: mpsc::Sender<SessionResponse>) -> u64 {
        let mut table = self.lock();
        table.last_id += 1;
        let id = table.last_id;
        table.sessions.insert(node.to_owned(), Session { id, sender, heard: Instant::now(), proxied: None });
        id
    }

    /// A node's agent is alive.
    pub(crate) fn heard(&self, node: &str) {
        if let Some(session) = self.lock().sessions.get_mut(node) {
            session.heard = Instant::now();
        }
    }

    /// That session has ended; a newer one of the same node stays.
    pub(crate) fn disconnect(&self, node: &str, id: u64) {
        let mut table = self.lock();
        if table.sessions.get(node).is_some_and(|session| session.id == id) {
            table.sessions.remove(node);
        }
        drop(table);
        self.proxies.send_modify(|count| *count += 1);
    }

    /// The proxy of a node shows the services as of that revision.
    pub(crate) fn proxied(&self, node: &str, revision: u64) {
        if let Some(session) = self.lock().sessions.get_mut(node) {
            session.proxied = Some(revision);
        }
        self.proxies.send_modify(|count| *count += 1);
    }

    /// Waits until the proxies of all nodes heard of within `window` show the services as of that revision.
    /// A node that has not said what it shows leads nobody anywhere yet.
    pub(crate) async fn all_proxied(&self, revision: u64, window: Duration) {
        let mut changes = self.proxies.subscribe();
        let behind = |session: &Session| {
            session.heard.elapsed() <= window && session.proxied.is_some_and(|shown| shown < revision)
        };
        while self.lock().sessions.values().any(behind) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The nodes that this server has heard of itself within `window`.
    pub(crate) fn heard_here(&self, window: Duration) -> Vec<String> {
        let table = self.lock();
        let recent = table.sessions.iter().filter(|(_, session)| session.heard.elapsed() <= window);
        recent.map(|(node, _)| node.clone()).collect()
    }

    /// Another server has heard of these nodes.
    pub(crate) fn reported(&self, nodes: &[String]) {
        let now = Instant::now();
        self.lock().reported.extend(nodes.iter().map(|node| (node.clone(), now)));
    }

    /// The nodes that any server has heard of within `window`.
    pub(crate) fn alive(&self, window: Duration) -> Vec<String> {
        let mut nodes: std::collections::BTreeSet<String> = self.heard_here(window).into_iter().collect();
        let mut table = self.lock();
        table.reported.retain(|_, at| at.elapsed() <= window);
        nodes.extend(table.reported.keys().cloned());
        nodes.into_iter().collect()
    }

    /// Opens a stream into a pod of `node`.
    ///
    /// # Errors
    /// When the node's agent is not connected here, or does not answer.
    pub(crate) async fn open(&self, node: &str, mut open: Open) -> Result<PodStream, Failure> {
        let unreachable = |why: &str| {
            Failure::new(Reason::ServiceUnavailable, format!("node \"{node}\" cannot be reached: {why}"))
                .retry_after(1)
        };
        open.id = balsa_rt::new_uid();
        let id = open.id.clone();
        let (arrive, arrived) = oneshot::channel();
        let sender = {
            let mut table = self.lock();
            let sender = table.sessions.get(node).map(|session| session.sender.clone());
            let sender = sender.ok_or_else(|| unreachable("its agent is not connected"))?;
            table.waiting.insert(id.clone(), (node.to_owned(), arrive));
            sender
        };
        let message = SessionResponse { message: Some(session_response::Message::Open(open)) };
        let outcome = if sender.send(message).await.is_err() {
            Err(unreachable("its agent has just gone"))
        } else {
            match tokio::time::timeout(OPEN_PATIENCE, arrived).await {
                Ok(Ok(stream)) => Ok(stream),
                _ => Err(unreachable("its agent did not open the stream in time")),
            }
        };
        self.lock().waiting.remove(&id);
        outcome
    }

    /// The agent of `node` opened the stream with that id; `None` when nobody waits for it.
    pub(crate) fn arrived(&self, node: &str, id: &str) -> Option<AgentEnd> {
        let mut table = self.lock();
        if table.waiting.get(id).is_none_or(|(expected, _)| expected != node) {
            return None;
        }
        let (_, arrive) = table.waiting.remove(id)?;
        let (incoming, from_agent) = mpsc::channel(STREAM_DEPTH);
        let (to_agent, outgoing) = mpsc::channel(STREAM_DEPTH);
        arrive.send(PodStream { from_agent, to_agent }).ok()?;
        Some(AgentEnd { incoming, outgoing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_two_ends_of_a_stream_meet() {
        let sessions = Sessions::default();
        let (sender, mut commands) = mpsc::channel(1);
        sessions.connect("n1", sender);
        let agent = sessions.clone();
        balsa_rt::spawn(balsa_rt::TaskKind::Test, async move {
            let Some(SessionResponse { message: Some(session_response::Message::Open(open)) }) =
                commands.recv().await
            else {
                return;
            };
            assert!(agent.arrived("n2", &open.id).is_none(), "another node's agent gets nothing");
            let end = agent.arrived("n1", &open.id).unwrap();
            end.incoming.send(StreamRequest::default()).await.unwrap();
        });
        let mut stream = sessions.open("n1", Open::default()).await.unwrap();
        assert_eq!(stream.from_agent.recv().await, Some(StreamRequest::default()));
    }

    #[tokio::test]
    async fn a_node_lives_whichever_server_has_heard_of_it() {
        let sessions = Sessions::default();
        sessions.connect("n1", mpsc::channel(1).0);
        sessions.reported(&["n1".to_owned(), "n2".to_owned()]);
        assert_eq!(sessions.heard_here(PATIENT), ["n1"]);
        assert_eq!(sessions.alive(PATIENT), ["n1", "n2"]);
        assert!(sessions.alive(Duration::ZERO).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_proxies_are_waited_for_but_those_of_the_dead() {
        let sessions = Sessions::default();
        for node in ["n1", "n2", "new"] {
            sessions.connect(node, mpsc::channel(1).0);
        }
        sessions.proxied("n1", 7);
        sessions.proxied("n2", 5);
        let waits = async |revision| {
            tokio::time::timeout(Duration::from_secs(1), sessions.all_proxied(revision, PATIENT))
                .await
                .is_err()
        };
        assert!(!waits(5).await && waits(6).await);
        let telling = sessions.clone();
        let told = async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            telling.proxied("n2", 7);
        };
        let (waited, ()) = tokio::join!(waits(7), told);
        assert!(!waited, "the last one has told");
        assert!(waits(8).await);
        tokio::time::sleep(PATIENT).await;
        sessions.heard("n1");
        sessions.proxied("n1", 8);
        assert!(!waits(8).await, "n2 has not been heard of");
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_said_to_be_so() {
        let failure = Sessions::default().open("n1", Open::default()).await.err().unwrap();
        assert_eq!(failure.reason, Reason::ServiceUnavailable);
    }
}
