//! `--force-new-cluster`: one server goes on alone when the majority of its cluster is lost for good.
//!
//! ```text
//!   how many voters answer? ──► server.json: `forced` ──► log: this server alone ──► server.json: the new cluster
//! ```
//!
//! A crash in between is no harm: the same command goes on where it was, and no other one starts. The new
//! cluster has an id of its own, so that servers of the old one that come back are strangers to it.

use std::time::Duration;

use balsa_log::recovery::{self, Survivor};
use balsa_log::{Lane, LogError, PeerTls, TransportConfig};
use balsa_proto::peer;
use balsa_proto::peer::peer_service_client::PeerServiceClient;
use tonic::transport::Channel;

use super::{ASK, introduce};
use crate::identity::{Authority, ServerId};
use crate::server::{ServerConfig, ServerError};

/// How often everybody is asked: one that just starts needs a moment.
const ROUNDS: u32 = 3;
/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// Does what `--force-new-cluster` asks for, if it does.
///
/// # Errors
/// When a majority of the voters still answers, when there is nothing to go on with, or when an earlier
/// attempt was interrupted and is not to be finished.
pub(crate) async fn form_anew(config: &ServerConfig, address: &str) -> Result<(), ServerError> {
    let known = ServerId::load(&config.data_dir)?;
    if !config.force_new_cluster {
        return known.map_or(Ok(()), |id| forget(id, config));
    }
    let Some(mut id) = known.filter(|id| !id.entering) else {
        let directory = config.data_dir.display();
        return Err(refuse(format!("{directory} holds no server that was a member of a cluster")));
    };
    if id.forced.as_ref() == Some(&id.cluster) {
        tracing::warn!(
            "this server is a cluster of its own already; it starts as ever. Take --force-new-cluster off its command \
             line"
        );
        return Ok(());
    }
    let survivor = offline(config, &id, recovery::survey).await?;
    check(config, &id, &survivor).await?;
    let cluster = id.forced.clone().unwrap_or_else(balsa_rt::new_uid);
    id.forced = Some(cluster.clone());
    id.store(&config.data_dir)?;
    let (address, name) = (address.to_owned(), config.name.clone());
    let stand_alone = move |log: &std::path::Path, node| recovery::stand_alone(log, node, &address, &name);
    offline(config, &id, stand_alone).await?;
    id.cluster = cluster;
    id.store(&config.data_dir)?;
    let lost = others(&survivor, &id).map(|member| member.name.clone()).collect::<Vec<_>>().join(", ");
    tracing::warn!(
        cluster = id.cluster,
        entries = survivor.last_index.0,
        lost,
        "this server is a new cluster of its own, with all that its log held. Empty the data directories of the \
         others before they start again, and take --force-new-cluster off the command line"
    );
    Ok(())
}

/// A start without the option: what was finished may be asked for again some day; what was not, is not
/// passed over.
fn forget(mut id: ServerId, config: &ServerConfig) -> Result<(), ServerError> {
    match id.forced.take() {
        None => Ok(()),
        Some(cluster) if cluster == id.cluster => Ok(id.store(&config.data_dir)?),
        Some(_) => Err(refuse("it was interrupted; start once more with it".to_owned())),
    }
}

fn refuse(why: String) -> ServerError {
    ServerError::Config(format!("--force-new-cluster: {why}"))
}

/// Works on the log while nobody has it open.
async fn offline<T: Send + 'static>(
    config: &ServerConfig,
    id: &ServerId,
    work: impl FnOnce(&std::path::Path, u64) -> Result<T, LogError> + Send + 'static,
) -> Result<T, ServerError> {
    let (log, node) = (config.data_dir.join("log"), id.id);
    let done = balsa_rt::spawn_blocking(move || work(&log, node)).await;
    Ok(done.map_err(|error| LogError::Fatal(error.to_string()))??)
}

fn others<'a>(survivor: &'a Survivor, id: &ServerId) -> impl Iterator<Item = &'a balsa_log::Member> {
    let me = id.id;
    survivor.members.iter().filter(move |member| member.voter && member.node_id != me)
}

/// That this server and those that answer are no majority.
async fn check(config: &ServerConfig, id: &ServerId, survivor: &Survivor) -> Result<(), ServerError> {
    let voters = others(survivor, id).count() + 1;
    if voters == 1 {
        // The log was rewritten already, and what comes after it was not done.
        let interrupted = id.forced.is_some();
        let why = "this is the only server with a vote: it needs nobody else; start it without the option";
        return if interrupted { Ok(()) } else { Err(refuse(why.to_owned())) };
    }
    let quorum = voters / 2 + 1;
    let authority = Authority::open(&config.data_dir.join("pki"))?;
    let issued = authority.issue_server(id, &[], &[], config.certificate_life)?;
    let tls =
        PeerTls { ca: authority.certificate().to_owned(), certificate: issued.certificate, key: issued.key };
    let transport = TransportConfig::tls(&tls);
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let answering = ask_all(config, id, survivor, &transport).await;
        if answering.len() + 1 >= quorum {
            return Err(refuse(format!(
                "{} answered: with this server that is {} of {voters} voters, a majority, and nothing is lost. Start \
                 this server without the option",
                answering.join(", "),
                answering.len() + 1
            )));
        }
        tracing::info!(answering = answering.len(), needed = quorum - 1, "asked the other servers");
    }
    Ok(())
}

/// The names of the other voters that answer.
async fn ask_all(
    config: &ServerConfig,
    id: &ServerId,
    survivor: &Survivor,
    transport: &TransportConfig,
) -> Vec<String> {
    let listed = others(survivor, id)
        .filter_map(|member| transport.channel(member.node_id, &member.address, Lane::Control).ok());
    // Where they are now, if they have moved.
    let hinted = config.join.iter().filter_map(|address| introduce::channel_to(transport, address).ok());
    let asked = futures::future::join_all(listed.chain(hinted).map(ask)).await;
    let answered: std::collections::BTreeSet<u64> = asked.into_iter().flatten().collect();
    let answers = |member: &&balsa_log::Member| answered.contains(&member.node_id);
    others(survivor, id).filter(answers).map(|member| member.name.clone()).collect()
}

/// Which server answers.
async fn ask(channel: Channel) -> Option<u64> {
    let mut client = PeerServiceClient::new(channel);
    let answer = tokio::time::timeout(ASK, client.inspect(peer::InspectRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner().place?.node_id)
}
