//! What a server does whether it leads or not: it lets itself be taken in, tells the others where it is
//! and which nodes it has heard of, compares its state with theirs, writes down which tokens are used, and ends when the
//! cluster has removed it.

use std::time::Duration;

use balsa_client::Client;
use balsa_proto::peer;
use balsa_rt::{CancellationToken, Scope, TaskKind};
use tonic::Code;

use crate::authorize::Authorized;
use crate::engine::LocalBackend;
use crate::front::Front;
use crate::identity::last_use::{self, Uses};
use crate::leases;
use crate::members::{self, Members};
use crate::server::ServerConfig;

/// How often the leader hears which nodes are alive.
const REPORTS: Duration = Duration::from_secs(4);
/// How often a server looks whether it is a member still.
const LOOK: Duration = Duration::from_secs(1);
/// How long a server that was turned away looks for a leader before it believes that it was removed.
const HOPE: Duration = Duration::from_secs(8);

/// Starts it.
pub(crate) fn start(front: &Front, config: &ServerConfig, uses: Uses, scope: &Scope) {
    let members = front.members.clone();
    if members.id().entering {
        let entering = enter(members.clone(), config.clone());
        scope.spawn(TaskKind::Raft, until(scope.token(), entering, Ok(())));
    }
    let introduced = members::keep_introduced(members.clone(), config.join.clone());
    scope.spawn(TaskKind::Helper, until(scope.token(), introduced, ()));
    scope.spawn(TaskKind::Helper, until(scope.token(), report_nodes(front.clone()), ()));
    scope.spawn(TaskKind::Helper, until(scope.token(), front.certificates.clone().keep_fresh(), ()));
    let writer = Authorized::server_part("system:token-last-use");
    let client = Client::new(LocalBackend::new(front.engine.clone(), writer), "token-last-use");
    let told = last_use::run(client, front.engine.clock().clone(), uses);
    scope.spawn(TaskKind::Helper, until(scope.token(), told, ()));
    // An error ends the process: at its next start the server knows that its tables are damaged.
    let checked = members::check_replicas(members.clone());
    scope.spawn(TaskKind::Raft, until(scope.token(), checked, Ok(())));
    let removed = async move { Err::<(), String>(removed(members).await) };
    scope.spawn(TaskKind::Raft, until(scope.token(), removed, Ok(())));
}

/// What `work` comes to, or `stopped` when the token is cancelled first.
async fn until<T>(token: CancellationToken, work: impl Future<Output = T>, stopped: T) -> T {
    tokio::select! {
        () = token.cancelled() => stopped,
        done = work => done,
    }
}

/// Has the others take this server in, and remembers it.
async fn enter(members: Members, config: ServerConfig) -> Result<(), String> {
    let mut id = members.id().clone();
    members::enter_cluster(members, config.join).await.map_err(|failure| failure.message)?;
    id.entering = false;
    id.store(&config.data_dir).map_err(|error| error.to_string())
}

/// Tells the leader which nodes' agents this server has heard of, for ever; also that it has heard of none: a learner that
/// was removed has no other way to hear of that.
async fn report_nodes(front: Front) {
    let mut ticks = tokio::time::interval(REPORTS);
    loop {
        ticks.tick().await;
        let nodes = front.sessions.heard_here(leases::PERIOD);
        let Some(by) = front.members.log().leadership().borrow().leader else { continue };
        let Ok(Some(mut leader)) = front.members.leader() else { continue };
        let call = leader.report_nodes(peer::ReportNodesRequest { nodes });
        // The next report says it all again.
        if let Ok(Err(status)) = tokio::time::timeout(REPORTS, call).await
            && status.code() == Code::PermissionDenied
        {
            front.members.transport().refused(by, status.message());
        }
    }
}

/// Ends, saying why, when this server is no member any more: it has read so in the log, or the others do
/// not let it in and it finds no leader.
async fn removed(members: Members) -> String {
    let mut refusals = members.transport().refusals();
    let mut leadership = members.log().leadership();
    let mut ticks = tokio::time::interval(LOOK);
    // A new server is no member yet.
    let (mut was_member, mut outside) = (!members.id().entering, 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let log = members.log();
                let is_member = log.is_member(members.id().id);
                was_member |= is_member;
                outside = if was_member && !is_member && !log.members().is_empty() { outside + 1 } else { 0 };
                if outside > 2 {
                    return "this server was removed from the cluster; to add it again, empty its data directory \
                        and join anew"
                        .to_owned();
                }
                continue;
            }
            changed = refusals.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
        let Some((by, why)) = refusals.borrow_and_update().clone() else { continue };
        tracing::warn!(by, why, "another server does not let this one in");
        let leader = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != by));
        if tokio::time::timeout(HOPE, leader).await.is_err() {
            return why;
        }
    }
}
