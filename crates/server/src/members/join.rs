//! How a machine becomes a server: `--join` and a token bring the cluster's keys, then the others take
//! it in.
//!
//! ```text
//!   token ──► Join ──► keys, settings, an id of its own ──► its log, empty, and its port
//!                                                             │
//!                     Enter ──► learner ──► caught up ──► voter
//! ```
//!
//! A crash in between is no harm: the next start goes on where it was, without the token.

use std::time::Duration;

use balsa_client::remote::join::{ServerJoining, join_server};
use balsa_model::{Failure, Reason};
use balsa_proto::peer::peer_service_client::PeerServiceClient;
use balsa_proto::{from_status, peer};
use balsa_rt::Backoff;
use tonic::transport::Channel;

use super::{Members, unavailable};
use crate::identity::{Authority, ClusterKeys, ServerId, SharedSettings};
use crate::restore::UNFINISHED;
use crate::server::{ServerConfig, ServerError};

/// Which server of which cluster this is; with `--join`, and for the first time, a new one of that cluster.
///
/// # Errors
/// When the cluster does not take it, or files cannot be written.
pub(crate) async fn identify(config: &ServerConfig, address: &str) -> Result<ServerId, ServerError> {
    if config.data_dir.join(UNFINISHED).exists() {
        let directory = config.data_dir.display();
        let why =
            format!("{directory} holds what a restore did not finish; run `balsa backup restore` again");
        return Err(ServerError::Config(why));
    }
    let known = ServerId::load(&config.data_dir)?;
    if known.is_none() && config.join.is_empty() && config.token.is_some() {
        let why = "--token says nothing without --join, which names a server of the cluster to join";
        return Err(ServerError::Config(why.to_owned()));
    }
    if known.is_some() || config.join.is_empty() {
        return Ok(ServerId::open(&config.data_dir, &config.name)?);
    }
    if config.data_dir.join("log/db").exists() {
        let directory = config.data_dir.display();
        let why = format!("{directory} holds a cluster already; --join needs an empty data directory");
        return Err(ServerError::Config(why));
    }
    let token = config.token.clone().ok_or_else(|| {
        ServerError::Config("--join needs a --token; `balsa member add` on a server makes one".to_owned())
    })?;
    let mut id = ServerId::new(String::new(), &config.name);
    let place = peer::Place { node_id: id.id, name: id.name.clone(), address: address.to_owned() };
    let request = peer::JoinRequest { place: Some(place), version: env!("CARGO_PKG_VERSION").to_owned() };
    let joining = ServerJoining { servers: config.join.clone(), token, request };
    let joined = join_server(&joining).await.map_err(|failure| ServerError::Join(failure.message))?;
    id.shared = Some(shared(&joined)?);
    id.cluster.clone_from(&joined.cluster);
    id.entering = true;
    let keys = ClusterKeys {
        ca_certificate: joined.ca_certificate,
        ca_key: joined.ca_key,
        service_account_key: joined.service_account_key,
    };
    Authority::import(&config.data_dir.join("pki"), &keys)?;
    // Last: whoever finds it finds the keys too.
    id.store(&config.data_dir)?;
    Ok(id)
}

fn shared(joined: &peer::JoinResponse) -> Result<SharedSettings, ServerError> {
    let wrong = |what: &str| ServerError::Join(format!("the server's answer holds no {what}"));
    let port = |port: u32| u16::try_from(port).map_err(|_| wrong("node ports"));
    Ok(SharedSettings {
        service_cidr: joined.service_cidr.parse().map_err(|_| wrong("range of Services"))?,
        cluster_cidr: joined.cluster_cidr.parse().map_err(|_| wrong("range of pods"))?,
        node_ports: (port(joined.first_node_port)?, port(joined.last_node_port)?),
    })
}

/// Asks to be taken in, until it is: ends when this server has a vote.
///
/// # Errors
/// When the cluster says no.
pub(crate) async fn enter_cluster(members: Members, servers: Vec<String>) -> Result<(), Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for n in 0.. {
        let Some(address) = servers.get(n % servers.len().max(1)) else {
            return Err(Failure::bad_request("--join names no server"));
        };
        let outcome = match members.channel_to(address) {
            Ok(channel) => ask(&members, channel).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(failure) if matches!(failure.reason, Reason::Forbidden | Reason::Conflict) => {
                return Err(failure);
            }
            Err(failure) => tracing::info!(%failure, server = address, "not taken in yet; trying again"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
    Ok(())
}

async fn ask(members: &Members, channel: Channel) -> Result<(), Failure> {
    let request = peer::EnterRequest { place: Some(members.place()) };
    let answer = PeerServiceClient::new(channel).enter(request).await;
    let mut told = answer.map_err(|status| from_status(&status))?.into_inner();
    let mut last = None;
    while let Some(progress) = told.message().await.map_err(|status| from_status(&status))? {
        if progress.done {
            tracing::info!("this server has a vote now");
            return Ok(());
        }
        let percent = progress.matched_index * 100 / progress.last_index.max(1);
        if last != Some(percent) {
            let (have, of) = (progress.matched_index, progress.last_index);
            tracing::info!("catching up: {have} of {of} entries ({percent} %)");
            last = Some(percent);
        }
    }
    Err(unavailable("the leader stopped telling how far this server is".to_owned()))
}
