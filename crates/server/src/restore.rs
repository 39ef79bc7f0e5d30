//! A new cluster out of a backup: new ids for cluster and server, so that nobody of the old one can come
//! back into it.
//!
//! An earlier revision is reached by going back: the backup is restored as it is, and what has changed
//! since that revision is written once more as it was, as changes of their own. So revisions only ever
//! grow, and the history still tells what was undone.

use std::path::Path;

use balsa_log::{Log, LogConfig, TransportConfig};
use balsa_model::{Key, Mutation, Object, Operation, Precondition, Revision, kinds};
use balsa_rt::Clock;
use balsa_state::{KindView, Machine, State, StateConfig, Store};

use crate::identity::ServerId;
use crate::server::ServerError;

/// Stands in a data directory while it is made.
pub(crate) const UNFINISHED: &str = "restoring";
/// Where the server will be is known at its start; the leader puts that right.
const NOWHERE: &str = "restored:0";
/// Who changes things back, for the history.
const USER: &str = "system:restore";
/// Mutations of one entry, in number and in bytes: well below what a proposal may have.
const BATCH: (usize, usize) = (500, 4 << 20);

/// What going back to an earlier revision took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Objects that are as they were again.
    pub changed: usize,
    /// Objects that are there again.
    pub returned: usize,
    /// Objects that were not there then.
    pub removed: usize,
}

/// Makes the data directory of the first server of a new cluster, as of `revision` if one is given.
///
/// # Errors
/// When the directory holds a server already, the backup cannot be used, or its history does not reach
/// back to that revision.
pub async fn restore(
    backup: &Path,
    directory: &Path,
    name: &str,
    revision: Option<Revision>,
) -> Result<Rewound, ServerError> {
    let (log, unfinished) = (directory.join("log"), directory.join(UNFINISHED));
    if ServerId::load(directory)?.is_some() && !unfinished.exists() {
        let why =
            format!("{} holds a server already; restore into a new data directory", directory.display());
        return Err(ServerError::Config(why));
    }
    let id = ServerId::new(balsa_rt::new_uid(), name);
    let failed = |error: std::io::Error| ServerError::Config(format!("{}: {error}", directory.display()));
    if unfinished.exists() {
        std::fs::remove_dir_all(&log).or_else(not_found).map_err(failed)?;
    }
    // Keys that were not put there are made at the first start.
    std::fs::create_dir_all(directory.join("pki")).map_err(failed)?;
    // Until all is there nobody should take it for what was asked for; not after a crash either.
    std::fs::write(&unfinished, "").map_err(failed)?;
    balsa_log::backup::restore(backup, &log, id.id, NOWHERE, name)?;
    let rewound = match revision {
        Some(revision) => rewind(&log, &id, revision).await?,
        None => Rewound::default(),
    };
    id.store(directory)?;
    std::fs::remove_file(&unfinished).map_err(failed)?;
    Ok(rewound)
}

fn not_found(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

async fn rewind(directory: &Path, id: &ServerId, revision: Revision) -> Result<Rewound, ServerError> {
    // However much has changed since then.
    let machine =
        Machine::new(kinds::all(), StateConfig { replayed_changes: usize::MAX, ..Default::default() });
    let state = machine.state();
    let config = LogConfig { name: id.name.clone(), ..LogConfig::new(directory, id.id, NOWHERE) };
    let log = Log::open(config, machine, TransportConfig::plain()).await?;
    let rewound = go_back(&log, &state, revision).await;
    log.shutdown().await?;
    rewound
}

async fn go_back(log: &Log, state: &State, revision: Revision) -> Result<Rewound, ServerError> {
    let failed = |error: &dyn std::fmt::Display| ServerError::Config(format!("going back: {error}"));
    let (oldest, newest) = (state.oldest(), state.revision());
    if revision < oldest || revision > newest {
        return Err(ServerError::Config(format!(
            "--revision {revision} is out of reach: the history in this backup goes from revision {oldest} to {newest}"
        )));
    }
    let unrecorded = StateConfig::default().without_history;
    let recorded = state.kinds().iter().filter(|kind| !unrecorded.contains(&kind.descriptor().resource()));
    let mut steps = Steps::default();
    for kind in recorded {
        // All of them before the first change: changes make the history forget.
        let then = state.list_at(*kind, revision).await.map_err(|error| failed(&error))?;
        steps.add(&state.view(*kind), &then)?;
    }
    let leads = log.leadership().wait_for(|now| now.is_leader).await.map(|_| ());
    leads.map_err(|error| failed(&error))?;
    let store = Store::new(log.clone(), state.clone(), Clock::system());
    let mut left = steps.removals.into_iter().chain(steps.puts).peekable();
    while left.peek().is_some() {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(mutation) = left.next_if(|_| batch.len() < BATCH.0 && bytes < BATCH.1) {
            bytes += mutation.object.len();
            batch.push(mutation);
        }
        let verdicts = store.propose(batch).await.map_err(|error| failed(&error))?;
        if let Some(refusal) = verdicts.into_iter().find_map(Result::err) {
            return Err(failed(&refusal));
        }
    }
    Ok(steps.counts)
}

/// What leads from one picture of the cluster to another.
#[derive(Default)]
struct Steps {
    /// First, so that what they hold of the cluster is free.
    removals: Vec<Mutation>,
    puts: Vec<Mutation>,
    counts: Rewound,
}

impl Steps {
    fn add(&mut self, now: &KindView, then: &KindView) -> Result<(), ServerError> {
        for object in now.iter().filter(|object| then.get(object.key()).is_none()) {
            self.removals.push(removal(object));
            self.counts.removed += 1;
        }
        for object in then.iter() {
            match now.get(object.key()) {
                None => {
                    self.puts.push(put(object, None)?);
                    self.counts.returned += 1;
                }
                Some(current) if current.revision() == object.revision() => {}
                Some(current) => {
                    let put = put(object, Some(current.as_ref()))?;
                    // Another object of that name, or one that has given away what it had of the cluster.
                    if put.operation == Operation::Create {
                        self.removals.push(removal(current));
                    }
                    self.puts.push(put);
                    self.counts.changed += 1;
                }
            }
        }
        Ok(())
    }
}

fn removal(object: &Object) -> Mutation {
    let precondition = Precondition { revision: Some(object.revision()), uid: None };
    mutation(Operation::Remove, object, bytes::Bytes::new(), precondition)
}

fn put(object: &Object, current: Option<&Object>) -> Result<Mutation, ServerError> {
    let claims = |object: &Object| {
        let typed = object.decode();
        let what = || ServerError::Config(format!("going back: {object:?} does not decode"));
        typed.map(|typed| typed.claims()).ok_or_else(what)
    };
    let claimed = claims(object)?;
    let tokens = |claims: &[balsa_model::kind::Claim]| {
        claims.iter().map(|claim| claim.token.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let bytes = Object::canonical(object.kind(), &object.value()).into();
    let mut put = match current {
        Some(current) if current.uid() == object.uid() && tokens(&claims(current)?) == tokens(&claimed) => {
            let precondition = Precondition { revision: Some(current.revision()), uid: None };
            mutation(Operation::Replace, object, bytes, precondition)
        }
        _ => mutation(Operation::Create, object, bytes, Precondition::default()),
    };
    put.claims = claimed;
    Ok(put)
}

fn mutation(
    operation: Operation,
    object: &Object,
    bytes: bytes::Bytes,
    precondition: Precondition,
) -> Mutation {
    let key: Key = object.key().clone();
    Mutation {
        operation,
        kind: object.kind(),
        key,
        object: bytes,
        precondition,
        claims: Vec::new(),
        user: USER.into(),
    }
}
