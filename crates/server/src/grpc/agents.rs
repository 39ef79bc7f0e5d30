//! `balsa.agent.v1.AgentService`: joining, heartbeats, and the agents' ends of streams.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use balsa_model::kind::{Kind as _, kind_of};
use balsa_model::{Failure, Key, Reason};
use balsa_proto::agent::agent_service_server::AgentService;
use balsa_proto::{agent, to_status};
use balsa_rt::TaskKind;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{authenticate, authenticate_fresh, authorize};
use crate::authorize::{Attributes, MASTERS};
use crate::front::Front;
use crate::identity::{Authenticated, Bound, JOIN_GROUP, SERVER_GROUP, TokenRequest};
use crate::leases;

/// How long somebody may wait for all proxies.
const PROXIES: Duration = Duration::from_secs(10);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Agents(pub(super) Front);

fn refused(why: impl Into<String>) -> Status {
    to_status(&Failure::new(Reason::Forbidden, why))
}

/// A node that exists keeps its name: only its own certificate, not a token, may renew it.
fn may_join(user: &Authenticated, node: &str) -> bool {
    user.is_in(MASTERS) || user.is_in(JOIN_GROUP) || user.node() == Some(node)
}

fn node_of(user: &Authenticated) -> Result<String, Status> {
    user.node().map(str::to_owned).ok_or_else(|| {
        refused(format!("User \"{}\" is no node's agent; join with a bootstrap token first", user.user()))
    })
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Messages<agent::SessionResponse>;
    type StreamStream = Messages<agent::StreamResponse>;

    async fn join(
        &self,
        request: Request<agent::JoinRequest>,
    ) -> Result<Response<agent::JoinResponse>, Status> {
        let user = authenticate_fresh(&self.0, &request).await?;
        let request = request.into_inner();
        let wrong = balsa_model::meta::dns1123_subdomain(&request.node_name);
        if let Some(why) = wrong.first() {
            return Err(to_status(&Failure::bad_request(format!(
                "node_name \"{}\": {why}",
                request.node_name
            ))));
        }
        if user.is_in(SERVER_GROUP) {
            return Err(refused("this token is not for agents; make one with `balsa token create`"));
        }
        if !may_join(&user, &request.node_name) {
            return Err(refused(format!(
                "User \"{}\" may not join as node \"{}\"",
                user.user(),
                request.node_name
            )));
        }
        let addresses: Vec<IpAddr> = request.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let authority = &self.0.authority;
        let life = self.0.certificates.life();
        let certificate = authority
            .sign_node(&request.node_name, &request.certificate_request, &addresses, life)
            .map_err(|error| to_status(&Failure::bad_request(format!("certificate_request: {error}"))))?;
        Ok(Response::new(agent::JoinResponse {
            certificate,
            ca: authority.certificate().to_owned(),
            servers: self.0.members.servers(),
            service_cidr: self.0.shared.service_cidr.to_string(),
            cluster_cidr: self.0.shared.cluster_cidr.to_string(),
        }))
    }

    async fn await_proxies(
        &self,
        request: Request<agent::AwaitProxiesRequest>,
    ) -> Result<Response<agent::AwaitProxiesResponse>, Status> {
        node_of(&authenticate(&self.0, &request)?)?;
        let all = self.0.sessions.all_proxied(request.get_ref().revision, leases::PERIOD);
        let waited = tokio::time::timeout(PROXIES, all).await;
        waited.map_err(|_| Status::deadline_exceeded("a node's service proxy is behind"))?;
        Ok(Response::new(agent::AwaitProxiesResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<agent::CreateTokenRequest>,
    ) -> Result<Response<agent::CreateTokenResponse>, Status> {
        let wanted = request.get_ref().clone();
        let attributes = Attributes::resource(
            "create",
            &ServiceAccount::DESCRIPTOR,
            &wanted.namespace,
            &wanted.service_account,
        );
        authorize(&self.0, &request, &attributes.part("token"))?;
        let kind = kind_of::<ServiceAccount>();
        let key = Key::new(wanted.namespace.as_str(), wanted.service_account.as_str());
        let found = self.0.engine.state().get(kind, &key);
        let account = found.and_then(|object| object.typed::<ServiceAccount>());
        let account = account.ok_or_else(|| to_status(&Failure::not_found(kind.descriptor(), &key.name)))?;
        let pod = Bound { kind: kind_of::<Pod>(), name: wanted.pod_name, uid: wanted.pod_uid };
        let token_request = TokenRequest {
            audiences: wanted.audiences,
            seconds: match wanted.expiration_seconds {
                seconds @ 1.. => seconds,
                _ => TokenRequest::default().seconds,
            },
            bound: Some(pod).filter(|pod| !pod.uid.is_empty()),
        };
        let now = self.0.engine.clock().now_seconds();
        let (token, expires) =
            self.0.tokens.issue(&account, &token_request, now).map_err(|failure| to_status(&failure))?;
        Ok(Response::new(agent::CreateTokenResponse { token, expires: expires.to_string() }))
    }

    async fn session(
        &self,
        request: Request<Streaming<agent::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = node_of(&authenticate(&self.0, &request)?)?;
        let mut incoming = request.into_inner();
        // Bounded: an agent that takes no commands holds up only those who want something of it.
        let (sender, receiver) = mpsc::channel(64);
        let id = self.0.sessions.connect(&node, sender.clone());
        let welcome = agent::session_response::Welcome {
            heartbeat_seconds: u32::try_from(leases::PERIOD.as_secs() / 2).unwrap_or(5),
            servers: self.0.members.servers(),
        };
        let message = Some(agent::session_response::Message::Welcome(welcome));
        // The channel is new and empty: there is room.
        let _ = sender.try_send(agent::SessionResponse { message });
        let sessions = self.0.sessions.clone();
        balsa_rt::spawn(TaskKind::Connection, async move {
            while let Some(Ok(said)) = incoming.next().await {
                sessions.heard(&node);
                if let Some(agent::session_request::Message::Proxied(proxied)) = said.message {
                    sessions.proxied(&node, proxied.revision);
                }
            }
            sessions.disconnect(&node, id);
        });
        Ok(Response::new(ReceiverStream::new(receiver).map(Ok).boxed()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<agent::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let node = node_of(&authenticate(&self.0, &request)?)?;
        let mut incoming = request.into_inner();
        let first = incoming.next().await.transpose()?.and_then(|message| message.message);
        let Some(agent::stream_request::Message::Open(id)) = first else {
            return Err(to_status(&Failure::bad_request("the first message must be `open`")));
        };
        let end = self.0.sessions.arrived(&node, &id);
        let end =
            end.ok_or_else(|| to_status(&Failure::new(Reason::NotFound, "nobody waits for that stream")))?;
        balsa_rt::spawn(TaskKind::Connection, async move {
            let carry = async {
                while let Some(Ok(message)) = incoming.next().await {
                    if end.incoming.send(message).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = carry => {}
                // Whoever asked has gone: dropping the call tells the agent, even when nothing is said.
                () = end.incoming.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(end.outgoing).map(Ok).boxed()))
    }
}
