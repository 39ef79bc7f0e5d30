//! What is left to do when the majority of a cluster is lost for good: the log of one survivor becomes
//! that of a cluster of its own.
//!
//! Who belongs to a cluster stands in its log, and a majority that is gone cannot change it any more. So
//! one entry of a later term, with the survivor as the only member, is put behind all that its log holds.
//! What came before stays, and counts as committed, whether a quorum ever had it or not. The log must not
//! be open while that happens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message as _;
use rocksdb::{IteratorMode, WriteBatch};

use crate::codec;
use crate::error::LogError;
use crate::machine::LogIndex;
use crate::members::{Member, listed};
use crate::snapshot;
use crate::store::{Family, Key, Store};
use crate::types::{Entry, EntryPayload, LogId, Membership, NodeId, Place, Term};

/// What a server has that is to stand alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The members of its cluster, as it knows them.
    pub members: Vec<Member>,
    /// The term it was in.
    pub term: u64,
    /// The last entry it has.
    pub last_index: LogIndex,
}

/// What the log of server `node` in `directory` says.
///
/// # Errors
/// When it is damaged, another server's, or empty.
pub fn survey(directory: &Path, node: NodeId) -> Result<Survivor, LogError> {
    let store = Store::open(directory, node, None)?;
    let last = last_entry(&store)?;
    let members = last_members(&store)?;
    Ok(Survivor { members: listed(&members), term: term_of(&store, last)?, last_index: LogIndex(last.index) })
}

/// Makes server `node`, at `address`, the only member of the cluster whose log is in `directory`.
///
/// # Errors
/// As [`survey`].
pub fn stand_alone(directory: &Path, node: NodeId, address: &str, name: &str) -> Result<(), LogError> {
    let store = Store::open(directory, node, None)?;
    snapshot::resume_install(&store)?;
    let last = last_entry(&store)?;
    let term = term_of(&store, last)? + 1;
    let members = BTreeMap::from([(node, Place::new(address, name))]);
    let alone = Membership::new(vec![BTreeSet::from([node])], members)
        .map_err(|error| LogError::Membership(error.to_string()))?;
    let log_id = LogId::new(Term::new(term), last.index + 1);
    let entry = Entry { log_id, payload: EntryPayload::Membership(alone) };
    let mut batch = WriteBatch::default();
    let log = store.family(Family::Log)?;
    if store.last_entry()?.is_none_or(|entry| entry.index < last.index) {
        // The tables came by a snapshot that reaches beyond the log: nothing of that is needed any more.
        batch.delete_range_cf(log, 0u64.to_be_bytes(), log_id.index.to_be_bytes());
        store.put_meta(&mut batch, Key::Purged, &codec::log_id(&last).encode_to_vec())?;
    }
    batch.put_cf(log, log_id.index.to_be_bytes(), codec::entry(&entry).encode_to_vec());
    let vote = codec::pb::Vote { term, node_id: node, committed: false };
    store.put_meta(&mut batch, Key::Vote, &vote.encode_to_vec())?;
    store.write(batch)?;
    store.sync()
}

/// The last entry that the log or the tables know of.
fn last_entry(store: &Store) -> Result<LogId, LogError> {
    let known = [store.last_entry()?, store.log_id(Key::Purged)?, store.log_id(Key::Applied)?];
    let last = known.into_iter().flatten().max();
    last.ok_or_else(|| LogError::Config(format!("the log in {} is empty", store.path().display())))
}

fn term_of(store: &Store, last: LogId) -> Result<u64, LogError> {
    let voted = store.vote()?.map_or(0, |vote| vote.leader_id.term);
    Ok(voted.max(last.leader_id.term))
}

/// The members list that counts: the newest that is in the log, committed or not.
fn last_members(store: &Store) -> Result<Membership, LogError> {
    let stored = store.membership()?;
    for item in store.db().iterator_cf(store.family(Family::Log)?, IteratorMode::End) {
        let (key, value) = item.map_err(|error| store.error(&error))?;
        let entry = store.decode(&key, value.into_vec())?;
        if Some(entry.log_id) <= *stored.log_id() {
            break;
        }
        if let EntryPayload::Membership(members) = entry.payload {
            return Ok(members);
        }
    }
    Ok(stored.membership().clone())
}
