//! The session with a server: the agent dials, says that it lives, and is told which streams somebody
//! wants into its pods. It keeps one with every server, so that it does not matter which of them is asked.

mod console;
mod pipes;
mod streams;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::remote::connector;
use balsa_proto::agent::agent_service_client::AgentServiceClient;
use balsa_proto::agent::{
    AwaitProxiesRequest, CreateTokenRequest, SessionRequest, session_request, session_response,
};
use balsa_rt::{Backoff, Scope, TaskKind};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::context::NodeContext;
use crate::pod::manager::Pods;
use crate::pod::status::kubelet_version;
use crate::volumes::{ServiceAccountToken, TokenRequest, TokenSource};

/// A connection that says nothing for so long is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Heartbeats when the server does not say how often.
const HEARTBEAT: u32 = 5;

type Dial = dyn Fn(&str) -> Result<Endpoint, tonic::transport::Error> + Send + Sync;

/// The servers, and how to reach them. Cheap to clone; clones share what they learn.
#[derive(Clone)]
pub struct SessionEndpoint {
    dial: Arc<Dial>,
    shared: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    servers: Vec<String>,
    channel: Option<Channel>,
    /// Tells that there are more servers.
    more: Arc<tokio::sync::Notify>,
}

impl SessionEndpoint {
    /// Servers as `host:port`; `dial` makes the endpoint of one, with its TLS.
    pub fn new(
        servers: Vec<String>,
        dial: impl Fn(&str) -> Result<Endpoint, tonic::transport::Error> + Send + Sync + 'static,
    ) -> Self {
        let known = Known { servers, ..Known::default() };
        Self { dial: Arc::new(dial), shared: Arc::new(Mutex::new(known)) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Connects to a server.
    async fn connect(&self, server: &str) -> Result<Channel, tonic::transport::Error> {
        let endpoint = (self.dial)(server)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connector()).await?;
        self.lock().channel = Some(channel.clone());
        Ok(channel)
    }

    fn learn(&self, servers: Vec<String>) {
        let mut known = self.lock();
        for server in servers {
            if !known.servers.contains(&server) {
                known.servers.push(server);
                known.more.notify_one();
            }
        }
    }
}

impl SessionEndpoint {
    /// The connection that is there, or else one to the first server.
    async fn channel(&self) -> Result<Channel, String> {
        let known = self.lock().channel.clone();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let first = self.lock().servers.first().cloned().unwrap_or_default();
        self.connect(&first).await.map_err(|error| error.to_string())
    }

    /// Waits until the service proxies of all nodes show every change up to a revision.
    pub(crate) async fn await_proxies(&self, revision: u64) -> Result<(), String> {
        let mut client = AgentServiceClient::new(self.channel().await?);
        let answer = client.await_proxies(AwaitProxiesRequest { revision }).await;
        answer.map(drop).map_err(|status| status.message().to_owned())
    }
}

#[async_trait]
impl TokenSource for SessionEndpoint {
    async fn token(&self, request: &TokenRequest) -> Result<ServiceAccountToken, String> {
        let channel = self.channel().await?;
        let request = CreateTokenRequest {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            audiences: request.audiences.clone(),
            expiration_seconds: request.expiration_seconds,
            pod_name: request.pod_name.clone(),
            pod_uid: request.pod_uid.clone(),
        };
        let answer = AgentServiceClient::new(channel).create_token(request).await;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        let expires =
            answer.expires.parse().map_err(|error| format!("the token's end does not parse: {error}"))?;
        Ok(ServiceAccountToken { token: answer.token, expires })
    }
}

/// What a session works with.
struct Session {
    endpoint: SessionEndpoint,
    node: Arc<NodeContext>,
    pods: Arc<Pods>,
    /// Whether a server renews the node's Lease.
    connected: watch::Sender<bool>,
    /// How many servers there is a session with.
    sessions: AtomicUsize,
}

/// Keeps a session until the scope ends.
pub(crate) fn start(
    endpoint: SessionEndpoint,
    node: Arc<NodeContext>,
    pods: Arc<Pods>,
    connected: watch::Sender<bool>,
    scope: &Scope,
) {
    let session = Session { endpoint, node, pods, connected, sessions: AtomicUsize::new(0) };
    let token = scope.token();
    scope.spawn(TaskKind::Agent, async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = session.keep() => {}
        }
    });
}

impl Session {
    /// A session with every server: each can then open streams into the pods here, and one that dies is
    /// missed by nobody.
    async fn keep(&self) {
        let more = self.endpoint.lock().more.clone();
        let mut kept = HashSet::new();
        let mut sessions = FuturesUnordered::new();
        loop {
            for server in self.endpoint.lock().servers.clone() {
                if kept.insert(server.clone()) {
                    sessions.push(self.keep_one(server));
                }
            }
            tokio::select! {
                () = more.notified() => {}
                _ = sessions.next(), if !sessions.is_empty() => {}
            }
        }
    }

    async fn keep_one(&self, server: String) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let ended = match self.endpoint.connect(&server).await {
                Ok(channel) => self.counted(channel, &mut backoff).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = ended {
                tracing::info!(server, error, "no session with this server; trying again");
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// A session, counted from its welcome to its end.
    async fn counted(&self, channel: Channel, backoff: &mut Backoff) -> Result<(), String> {
        let mut welcomed = false;
        let ended = self.run(channel, backoff, &mut welcomed).await;
        if welcomed && self.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.connected.send_replace(false);
        }
        ended.map_err(|status| status.message().to_owned())
    }

    async fn run(
        &self,
        channel: Channel,
        backoff: &mut Backoff,
        welcomed: &mut bool,
    ) -> Result<(), tonic::Status> {
        // A heartbeat waits for the one before; the server takes them at once.
        let (sender, receiver) = mpsc::channel(4);
        let say = |message| SessionRequest { message: Some(message) };
        let hello = session_request::Hello {
            node_name: self.node.config.node_name.clone(),
            version: kubelet_version(),
        };
        let _ = sender.send(say(session_request::Message::Hello(hello))).await;
        let mut client = AgentServiceClient::new(channel.clone());
        let mut told = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut ticks = tokio::time::interval(Duration::from_secs(u64::from(HEARTBEAT)));
        let mut shown = self.node.shown.subscribe();
        shown.mark_changed();
        loop {
            let message = tokio::select! {
                Ok(()) = shown.changed() => {
                    let revision = shown.borrow_and_update().revision;
                    let told = session_request::Proxied { revision };
                    // Nothing is shown before the node has seen the services.
                    if revision > 0 && sender.send(say(session_request::Message::Proxied(told))).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                _ = ticks.tick() => {
                    let beat = say(session_request::Message::Heartbeat(session_request::Heartbeat {}));
                    if sender.send(beat).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                message = told.message() => message?,
            };
            match message.map(|response| response.message) {
                None => return Ok(()),
                Some(Some(session_response::Message::Welcome(welcome))) => {
                    backoff.reset();
                    self.endpoint.learn(welcome.servers);
                    let seconds =
                        if welcome.heartbeat_seconds == 0 { HEARTBEAT } else { welcome.heartbeat_seconds };
                    ticks = tokio::time::interval(Duration::from_secs(u64::from(seconds)));
                    if !std::mem::replace(welcomed, true) {
                        self.sessions.fetch_add(1, Ordering::Relaxed);
                    }
                    self.connected.send_replace(true);
                }
                Some(Some(session_response::Message::Open(open))) => {
                    let (node, pods, channel) = (self.node.clone(), self.pods.clone(), channel.clone());
                    balsa_rt::spawn(TaskKind::Connection, streams::serve(channel, node, pods, open));
                }
                // A newer server's word.
                Some(None) => {}
            }
        }
    }
}
