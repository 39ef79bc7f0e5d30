//! `balsa.peer.v1.PeerService`: what servers say to each other, and the gate that lets only servers of
//! this cluster speak to the log.

use std::pin::Pin;

use balsa_model::{Failure, Reason};
use balsa_proto::peer::peer_service_server::PeerService;
use balsa_proto::{peer, to_status};
use balsa_rt::TaskKind;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::{Request, Response, Status};

use super::authenticate_fresh;
use crate::authorize::MASTERS;
use crate::front::{Front, PeerServer};
use crate::identity::SERVER_GROUP;
use crate::members;

/// Marks a call that a member makes for a server that is not one yet.
const RELAYED: &str = "balsa-on-behalf-of";

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Peers(pub(super) Front);

/// Lets only servers of this cluster speak to the log; and none that was removed.
#[derive(Clone)]
pub(super) struct Gate(pub(super) Front);

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        member_of(&self.0, &request)?;
        Ok(request)
    }
}

/// The server that calls; none that was removed.
fn member_of<T>(front: &Front, request: &Request<T>) -> Result<u64, Status> {
    let caller = server_of(front, request)?;
    let log = front.members.log();
    // Only a leader knows for sure: whoever lags may not have heard of a new server.
    if log.leadership().borrow().is_leader && !log.is_member(caller) {
        return Err(Status::permission_denied(format!(
            "server {caller} is not a member of this cluster: it was removed; to add it again, empty its data \
             directory and join anew"
        )));
    }
    Ok(caller)
}

/// The server that calls, known by its certificate.
fn server_of<T>(front: &Front, request: &Request<T>) -> Result<u64, Status> {
    let Some(PeerServer { id, cluster }) = request.extensions().get::<PeerServer>() else {
        return Err(Status::permission_denied(
            "this is for the servers of this cluster, known by their certificates",
        ));
    };
    if *cluster != front.members.id().cluster {
        return Err(Status::permission_denied(format!(
            "server {id} belongs to another cluster: this one was restored, or formed anew, without it"
        )));
    }
    Ok(*id)
}

/// That the one that calls speaks of itself.
fn own_place<T>(
    front: &Front,
    request: &Request<T>,
    place: Option<&peer::Place>,
) -> Result<peer::Place, Status> {
    let caller = server_of(front, request)?;
    // Another member vouches for whom it relays.
    let relayed = request.metadata().get(RELAYED).is_some() && front.members.log().is_member(caller);
    match place {
        Some(place) if (relayed || place.node_id == caller) && !place.address.is_empty() => Ok(place.clone()),
        _ => Err(Status::invalid_argument("place: must be that of the server that calls")),
    }
}

#[tonic::async_trait]
impl PeerService for Peers {
    type EnterStream = Messages<peer::EnterResponse>;

    async fn join(
        &self,
        request: Request<peer::JoinRequest>,
    ) -> Result<Response<peer::JoinResponse>, Status> {
        let user = authenticate_fresh(&self.0, &request).await?;
        if !user.is_in(SERVER_GROUP) && !user.is_in(MASTERS) {
            let why = "this token is not for servers; make one with `balsa member add` or `balsa token create --usage server`";
            return Err(to_status(&Failure::new(Reason::Forbidden, why)));
        }
        let place = request.into_inner().place.unwrap_or_default();
        let known = self.0.members.places();
        if let Some(other) = known.iter().find(|known| known.name == place.name) {
            let why = format!(
                "a server is called \"{}\" already (at {}); choose another --name, or remove that one first with `balsa member remove {}`",
                place.name, other.address, place.name
            );
            return Err(to_status(&Failure::new(Reason::Conflict, why)));
        }
        let keys = self.0.authority.export().map_err(|error| to_status(&Failure::internal(error)))?;
        let shared = &self.0.shared;
        tracing::info!(name = place.name, address = place.address, "a new server gets the cluster's keys");
        Ok(Response::new(peer::JoinResponse {
            cluster: self.0.members.id().cluster.clone(),
            ca_certificate: keys.ca_certificate,
            ca_key: keys.ca_key,
            service_account_key: keys.service_account_key,
            service_cidr: shared.service_cidr.to_string(),
            cluster_cidr: shared.cluster_cidr.to_string(),
            first_node_port: shared.node_ports.0.into(),
            last_node_port: shared.node_ports.1.into(),
            servers: known,
        }))
    }

    async fn enter(
        &self,
        request: Request<peer::EnterRequest>,
    ) -> Result<Response<Self::EnterStream>, Status> {
        let place = own_place(&self.0, &request, request.get_ref().place.as_ref())?;
        let members = self.0.members.clone();
        if let Some(mut leader) = members.leader().map_err(|failure| to_status(&failure))? {
            // Who enters is told on by a server that has checked who it is.
            let mut relayed = Request::new(peer::EnterRequest { place: Some(place.clone()) });
            relayed.metadata_mut().insert(RELAYED, place.node_id.into());
            let told = leader.enter(relayed).await?.into_inner();
            return Ok(Response::new(told.boxed()));
        }
        let (sender, receiver) = mpsc::channel(4);
        balsa_rt::spawn(TaskKind::Helper, async move {
            if let Err(failure) = members::enter(members, place, sender.clone()).await {
                let _ = sender.send(Err(to_status(&failure))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn introduce(
        &self,
        request: Request<peer::IntroduceRequest>,
    ) -> Result<Response<peer::IntroduceResponse>, Status> {
        let place = own_place(&self.0, &request, request.get_ref().place.as_ref())?;
        self.0.members.learn(&place);
        let mut servers = self.0.members.places();
        servers.retain(|known| known.node_id != self.0.members.id().id);
        servers.push(self.0.members.place());
        Ok(Response::new(peer::IntroduceResponse { servers }))
    }

    async fn inspect(
        &self,
        request: Request<peer::InspectRequest>,
    ) -> Result<Response<peer::InspectResponse>, Status> {
        server_of(&self.0, &request)?;
        Ok(Response::new(self.0.members.inspect()))
    }

    async fn change_member(
        &self,
        request: Request<peer::ChangeMemberRequest>,
    ) -> Result<Response<peer::ChangeMemberResponse>, Status> {
        member_of(&self.0, &request)?;
        let change = request.into_inner().change;
        let change = change.ok_or_else(|| Status::invalid_argument("change: Required value"))?;
        self.0.members.change_here(change).await.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(peer::ChangeMemberResponse {}))
    }

    async fn report_nodes(
        &self,
        request: Request<peer::ReportNodesRequest>,
    ) -> Result<Response<peer::ReportNodesResponse>, Status> {
        member_of(&self.0, &request)?;
        self.0.sessions.reported(&request.into_inner().nodes);
        Ok(Response::new(peer::ReportNodesResponse {}))
    }
}
