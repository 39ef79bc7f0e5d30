//! A server of the simulation: what the program's server is made of, without its front doors.

use std::sync::Arc;
use std::time::Duration;

use balsa_log::{
    Bytes, Committed, Log, LogConfig, LogIndex, NodeId, StateMachine, StateMachineError, Table, TableBatch,
    Tables, TransportConfig,
};
use balsa_rt::{Scope, TaskKind};
use balsa_state::{Comparison, Machine, Replicas, State, StateConfig, Store};

use crate::clients::BYSTANDER;
use crate::network::{Wire, serve};
use crate::world::{Dump, PORT, SERVERS, StateFault, World, key, kind, name, value};
use crate::{clients, watchers};

const CLIENTS: u64 = 3;
const WATCHERS: usize = 2;

/// Runs until the server is killed.
pub(crate) async fn run(server: NodeId, world: World) -> turmoil::Result {
    let machine = Machine::new(&[kind()], StateConfig { recent_changes: 32, ..StateConfig::default() });
    let state = machine.state();
    let machine = Faulty { machine, server, world: world.clone() };
    let transport = TransportConfig::with_connector(Arc::new(Wire::default()));
    let log = match Log::open(config(server, &world), machine, transport).await {
        Ok(log) => log,
        // What a disk that fails already at the start does; it is started again when it is mended.
        Err(_) if world.disk(server).is_failing() => return std::future::pending().await,
        Err(error) => return Err(format!("{}: {error}", name(server)).into()),
    };
    let scope = Scope::new();
    scope.spawn(TaskKind::Test, serve(log.service()));
    if server == 1 {
        log.initialize().await?;
    }
    scope.spawn(TaskKind::Test, keep_members(log.clone(), world.clone()));
    let store = Store::new(log.clone(), state.clone(), world.clock());
    if server == 1 {
        scope.spawn(TaskKind::Test, clients::create_bystander(store.clone()));
    }
    for client in 0..CLIENTS {
        scope.spawn(TaskKind::Test, clients::run(server, client, store.clone(), world.clone()));
    }
    for _ in 0..WATCHERS {
        scope.spawn(TaskKind::Test, watchers::serve(state.clone(), world.clone()));
    }
    scope.spawn(TaskKind::Test, check_state(server, log.clone(), state.clone(), world.clone()));
    scope.spawn(TaskKind::Test, dump(server, log.clone(), state, world.clone()));
    // When the disk fails, the log stops; the server stands there until it is killed.
    std::future::pending().await
}

/// A machine whose state goes wrong when the world wants it.
struct Faulty {
    machine: Machine,
    server: NodeId,
    world: World,
}

#[balsa_log::async_trait]
impl StateMachine for Faulty {
    async fn restore(&mut self, tables: &Tables, applied: Option<LogIndex>) -> Result<(), StateMachineError> {
        self.machine.restore(tables, applied).await
    }

    async fn apply(&mut self, mut entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes> {
        let fault = self.world.shared().fault.take_if(|(victim, _)| *victim == self.server);
        if let (Some((_, StateFault::Fold)), Some(entry)) = (fault, entries.last_mut()) {
            // One that nobody can read: the others carry it out.
            entry.payload = Bytes::from_static(b"\xff");
        }
        let replies = self.machine.apply(entries, batch).await;
        if let Some((_, StateFault::Table)) = fault {
            let (resource, key) = (kind().descriptor().resource(), key(BYSTANDER));
            batch.delete(Table::Objects, format!("{resource}\0{}\0{}", key.namespace, key.name).into_bytes());
        }
        replies
    }

    async fn publish(&mut self, applied: LogIndex) {
        self.machine.publish(applied).await;
    }
}

/// What a server does to find out whether its state is right; the others' checks come by way of the world.
async fn check_state(server: NodeId, log: Log, state: State, world: World) {
    let mut replicas = Replicas::default();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let own = state.checks();
        let heard = {
            let mut shared = world.shared();
            match own.last() {
                Some(check) => shared.checks.insert(server, check.clone()),
                None => shared.checks.remove(&server),
            };
            shared.checks.clone()
        };
        (1..=SERVERS).for_each(|node| replicas.hear(node, heard.get(&node).cloned()));
        let voters = log.members().into_iter().filter(|member| member.voter).map(|member| member.node_id);
        match replicas.compare(server, &voters.collect(), &own) {
            Comparison::Nothing | Comparison::Same(_) => {}
            differing if !world.shared().states_may_differ => {
                world.fail(format!("{}: states differ: {differing:?}", name(server)));
            }
            Comparison::Wrong { right, .. } => {
                let from = right.into_iter().next().expect("a majority is somebody");
                match log.rebuild(from).await {
                    Ok(_) => world.shared().rebuilt.push(server),
                    Err(error) => tracing::debug!(%error, "not rebuilt for now"),
                }
                replicas.forget();
            }
            Comparison::OthersWrong { .. } | Comparison::Undecided { .. } => {}
        }
    }
}

fn config(server: NodeId, world: &World) -> LogConfig {
    let disk = world.disk(server);
    let mut config = LogConfig::new(disk.path(), server, format!("{}:{PORT}", name(server)));
    config.faults = Some(disk.clone());
    config.propose_timeout = Duration::from_secs(2);
    // Compacted often, so that who was away needs a snapshot.
    (config.snapshot_after, config.keep_entries, config.cache_bytes) = (60, 10, 4096);
    config
}

/// While it leads: makes those vote who are to vote.
async fn keep_members(log: Log, world: World) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = log.status();
        if !log.leadership().borrow().is_leader {
            continue;
        }
        let voting =
            status.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
        let wanted = {
            let mut shared = world.shared();
            shared.leader = Some(status.node_id);
            shared.elections.insert(status.term);
            shared.voting = voting;
            shared.voters.clone()
        };
        // One step a round; what is refused is tried again.
        let voting = world.shared().voting.clone();
        let step = if let Some(missing) = wanted.difference(&voting).next() {
            match log.add_learner(*missing, format!("{}:{PORT}", name(*missing))).await {
                Ok(()) => log.promote(*missing).await,
                refused => refused,
            }
        } else if let Some(surplus) = voting.difference(&wanted).next() {
            log.remove_member(*surplus).await
        } else {
            Ok(())
        };
        if let Err(error) = step {
            tracing::debug!(%error, "the members stay as they are for now");
        }
    }
}

/// Tells what this server has, when that is wanted.
async fn dump(server: NodeId, log: Log, state: State, world: World) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(applied) = &mut world.shared().applied {
            applied.insert(server, log.applied().borrow().0);
        }
        if !world.shared().dump {
            continue;
        }
        let view = state.view(kind());
        let objects = view
            .iter()
            .map(|object| (object.key().clone(), object.revision(), object.bytes().to_vec()))
            .collect();
        match watchers::all_changes(&state, view.revision()).await {
            Ok(told) => {
                let changes = told.into_iter().map(|event| {
                    let object = event.object().unwrap();
                    let deleted = event.type_name() == "DELETED";
                    (event.revision(), (object.key().clone(), (!deleted).then(|| value(object))))
                });
                let dump = Dump { objects, changes: changes.collect() };
                world.shared().dumps.insert(server, dump);
                return;
            }
            Err(error) => world.fail(format!("{}: its history: {error}", name(server))),
        }
    }
}
