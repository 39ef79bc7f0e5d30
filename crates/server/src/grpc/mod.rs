//! The gRPC front door: the services of `proto/`, with reflection and health.

mod agents;
mod calls;
mod cluster;
pub(crate) mod health;
mod members;
mod objects;
mod peers;
mod pipeline;
mod pods;
mod sharing;
mod watches;

use axum::Router;
use balsa_model::{Descriptor, Failure, Key, KindRef, Reason, kinds};
use balsa_proto::{agent, peer, to_status, v1};
use balsa_rt::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tonic_health::server::HealthReporter;

use self::calls::Caller;
use crate::authorize::{Attributes, Authorized};
use crate::front::{Front, Peer};
use crate::identity::Authenticated;

/// Largest message that is taken, in bytes: the largest request body over REST.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The routes of all services, and what tells the health of them ([`health::follow`]). What lasts ends when `stopping` is
/// cancelled.
pub(crate) fn router(front: &Front, stopping: CancellationToken) -> (Router, HealthReporter) {
    use agent::agent_service_server::AgentServiceServer;
    use peer::peer_service_server::PeerServiceServer;
    use v1::cluster_service_server::ClusterServiceServer;
    use v1::member_service_server::MemberServiceServer;
    use v1::object_service_server::ObjectServiceServer;
    use v1::pod_service_server::PodServiceServer;

    let objects = objects::Objects { front: front.clone(), stopping };
    let objects = ObjectServiceServer::new(objects).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (reporter, health_server) = tonic_health::server::health_reporter();
    let mut routes = Routes::builder();
    routes
        .add_service(objects)
        .add_service(PodServiceServer::new(pods::Pods(front.clone())))
        .add_service(ClusterServiceServer::new(cluster::Cluster(front.clone())))
        .add_service(AgentServiceServer::new(agents::Agents(front.clone())))
        .add_service(MemberServiceServer::new(members::MemberDoor(front.clone())))
        .add_service(PeerServiceServer::new(peers::Peers(front.clone())))
        .add_service(InterceptedService::new(front.members.log().service(), peers::Gate(front.clone())))
        .add_service(health_server);
    // In both versions: many tools ask for the older one only.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(reflection), Ok(older)) => {
            routes.add_service(reflection).add_service(older);
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "server reflection is not available"),
    }
    (routes.routes().into_axum_router(), reporter)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(balsa_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Who asks.
fn authenticate<T>(front: &Front, request: &Request<T>) -> Result<Authenticated, Status> {
    Caller::of(request).authenticate(front)
}

/// Who asks; what this server has not heard of yet is not taken for unknown.
async fn authenticate_fresh<T>(front: &Front, request: &Request<T>) -> Result<Authenticated, Status> {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    front.authenticate_fresh(&peer, request.metadata().as_ref()).await.map_err(|failure| to_status(&failure))
}

/// The proof that whoever asks may do `verb` on objects of a kind.
fn authorize<T>(front: &Front, request: &Request<T>, wanted: &Attributes) -> Result<Authorized, Status> {
    let user = authenticate(front, request)?;
    front.authorize(&user, wanted).map_err(|failure| to_status(&failure))
}

/// The kind that a request means.
fn kind_of(resource: Option<&v1::Resource>) -> Result<KindRef, Status> {
    let resource = resource.ok_or_else(|| missing("resource"))?;
    let found = match resource.version.as_str() {
        "" => kinds::by_resource(&resource.group, &resource.plural),
        version => kinds::by_version(&resource.group, version, &resource.plural),
    };
    found.ok_or_else(|| {
        let name = if resource.group.is_empty() {
            resource.plural.clone()
        } else {
            format!("{}.{}", resource.plural, resource.group)
        };
        to_status(&Failure::new(
            Reason::NotFound,
            format!("the server doesn't have a resource type \"{name}\""),
        ))
    })
}

/// The key that a request means, within a kind.
fn key_of(key: Option<v1::ObjectKey>, kind: &Descriptor) -> Result<Key, Status> {
    let key = key.ok_or_else(|| missing("key"))?;
    if key.name.is_empty() {
        return Err(missing("key.name"));
    }
    if kind.is_namespaced() == key.namespace.is_empty() {
        let why = if kind.is_namespaced() {
            "must be set: the kind is namespaced"
        } else {
            "must be empty: the kind is cluster-scoped"
        };
        return Err(to_status(&Failure::bad_request(format!("key.namespace: {why}"))));
    }
    Ok(Key::new(key.namespace, key.name))
}

fn missing(field: &str) -> Status {
    to_status(&Failure::bad_request(format!("{field}: Required value")))
}
