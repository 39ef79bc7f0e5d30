//! Servers that moved find each other again.
//!
//! A server that starts tells all others where it is, and learns where they are; so a cluster whose
//! addresses all changed comes back when each server is told (`--join`) where one other is. Once there
//! is a leader it writes the new addresses into the members list.

use std::time::Duration;

use balsa_client::remote::{Identity, RemoteConfig, connector};
use balsa_log::TransportConfig;
use balsa_model::Failure;
use balsa_proto::peer;
use balsa_proto::peer::change_member_request::Change;
use balsa_proto::peer::peer_service_client::PeerServiceClient;
use balsa_rt::Backoff;

use super::{ASK, Members, unavailable};

/// Between two looks at whether all is said.
const LOOK: Duration = Duration::from_secs(2);

/// Tells the others where this server is until all know and the members list says so too; then looks
/// after it now and then.
pub(crate) async fn keep_introduced(members: Members, hints: Vec<String>) {
    let mut told = std::collections::HashSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), LOOK);
    let mut complained = None;
    loop {
        let others = members.places().into_iter().filter(|place| place.node_id != members.id().id);
        for place in others.collect::<Vec<_>>() {
            if told.contains(&place.node_id) {
                continue;
            }
            if let Ok(mut client) = members.peer(place.node_id)
                && introduce(&members, &mut client).await
            {
                told.insert(place.node_id);
            }
        }
        let leader = members.log().leadership().borrow().leader;
        if leader.is_none() {
            for hint in hints.iter().filter(|hint| hint.as_str() != members.address()) {
                ask_hint(&members, hint).await;
            }
        } else if is_misplaced(&members) && leader != Some(members.id().id) {
            let change = Change::Moved(members.place());
            let failed = members.change(change).await.err().map(|failure| failure.message);
            if let Some(failure) = failed.as_ref().filter(|_| failed != complained) {
                tracing::warn!(failure, "the members list does not have this server as it is now");
            }
            complained = failed;
        }
        tokio::time::sleep(if leader.is_some() { LOOK } else { backoff.next_delay() }).await;
    }
}

/// Whether the members list has this server elsewhere, or under another name.
fn is_misplaced(members: &Members) -> bool {
    let (id, listed) = (members.id(), members.log().members());
    let mine = listed.iter().find(|member| member.node_id == id.id);
    mine.is_some_and(|mine| mine.address != members.address() || mine.name != id.name)
}

async fn introduce(members: &Members, client: &mut PeerServiceClient<tonic::transport::Channel>) -> bool {
    let request = peer::IntroduceRequest { place: Some(members.place()) };
    match tokio::time::timeout(ASK, client.introduce(request)).await {
        Ok(Ok(answer)) => {
            answer.into_inner().servers.iter().for_each(|place| members.learn(place));
            true
        }
        _ => false,
    }
}

/// Asks whoever is at an address that the command line named: which server that is, is not known.
async fn ask_hint(members: &Members, address: &str) {
    let outcome = match members.channel_to(address) {
        Ok(channel) => introduce(members, &mut PeerServiceClient::new(channel)).await,
        Err(failure) => {
            tracing::debug!(%failure, address, "cannot ask");
            false
        }
    };
    tracing::debug!(address, outcome, "asked where the others are");
}

impl Members {
    /// Notes where another server says it is.
    pub(crate) fn learn(&self, place: &peer::Place) {
        if place.node_id == self.id().id || place.address.is_empty() {
            return;
        }
        let listed = self.log().members().into_iter().find(|member| member.node_id == place.node_id);
        if let Some(listed) =
            listed.filter(|listed| self.transport().address(place.node_id, &listed.address) != place.address)
        {
            self.transport().learn(place.node_id, &place.address, Some(&listed.address));
        }
    }

    /// A channel to any server of this cluster at `address`, as this server.
    pub(super) fn channel_to(&self, address: &str) -> Result<tonic::transport::Channel, Failure> {
        channel_to(self.transport(), address)
    }
}

/// A channel to whichever server of this cluster is at `address`.
pub(super) fn channel_to(
    transport: &TransportConfig,
    address: &str,
) -> Result<tonic::transport::Channel, Failure> {
    let tls = transport.identity().ok_or_else(|| unavailable("no certificate".to_owned()))?;
    let config = RemoteConfig {
        servers: vec![address.to_owned()],
        ca_pem: tls.ca,
        identity: Identity::Certificate { cert_pem: tls.certificate, key_pem: tls.key },
    };
    let endpoint = config.endpoint(address).map_err(|error| unavailable(error.to_string()))?;
    Ok(endpoint.connect_with_connector_lazy(connector()))
}
