//! What was told, held against what happened.
//!
//! The servers' history gives every change its revision, so the order of all changes is known and
//! nothing has to be searched for: a run is linearizable exactly if each call fits into that order at
//! a moment between its beginning and its end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use balsa_log::NodeId;
use balsa_model::{Key, Revision};

use crate::world::{Call, Did, Dump, Shared, Told};

/// What a run did.
pub(crate) struct Summary {
    calls: usize,
    acknowledged: usize,
    unknown: usize,
    terms: usize,
    faults: usize,
    /// Equal for runs that did the same.
    pub(crate) fingerprint: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, acknowledged, unknown, terms, faults, .. } = self;
        write!(
            f,
            "{calls} calls, {acknowledged} writes acknowledged, {unknown} of unknown outcome, \
             {terms} terms with a leader, {faults} faults"
        )
    }
}

type Changes = BTreeMap<Revision, (Key, Option<String>)>;

/// Panics when anybody was told what is not true.
pub(crate) fn check(shared: &Shared, dumps: &BTreeMap<NodeId, Dump>, faults: usize) -> Summary {
    let changes = &dumps[&1].changes;
    servers_agree(dumps);
    writes_happened_as_told(&shared.calls, changes);
    reads_show_what_was(&shared.calls, changes);
    order_is_real_time(&shared.calls, changes);
    watchers_saw_everything_once(shared, changes);
    summary(shared, changes, faults)
}

/// Panics when the servers have not come to the same, whatever clients were told.
pub(crate) fn check_servers(shared: &Shared, dumps: &BTreeMap<NodeId, Dump>, faults: usize) -> Summary {
    servers_agree(dumps);
    summary(shared, &dumps[&1].changes, faults)
}

fn servers_agree(dumps: &BTreeMap<NodeId, Dump>) {
    let first = &dumps[&1];
    for (server, dump) in dumps.iter().filter(|(server, _)| **server <= 3) {
        assert_eq!(dump.objects, first.objects, "objects of server {server}");
        assert_eq!(dump.changes, first.changes, "history of server {server}");
    }
}

/// Acknowledged writes are there, refused ones are not, none happened twice, and each found what it
/// expected.
fn writes_happened_as_told(calls: &[Call], changes: &Changes) {
    let mut by_value = HashMap::new();
    for (revision, (_, value)) in changes {
        let Some(value) = value else { continue };
        assert_eq!(by_value.insert(value.as_str(), *revision), None, "{value} was written twice");
    }
    for call in calls {
        let Did::Write { wrote, expected, told } = &call.did else { continue };
        let happened = wrote.as_deref().and_then(|wrote| by_value.get(wrote)).copied();
        match told {
            Told::Done(revision) => {
                assert_eq!(changes.get(revision), Some(&(call.key.clone(), wrote.clone())), "lost: {call:?}");
            }
            Told::Refused => assert_eq!(happened, None, "refused, and yet it happened: {call:?}"),
            Told::Unknown => {}
        }
        let revision = if let Told::Done(revision) = told { Some(*revision) } else { happened };
        if let (Some(revision), Some(expected)) = (revision, expected) {
            assert_eq!(
                before(changes, &call.key, revision),
                Some(*expected),
                "{call:?} found another object"
            );
        }
    }
}

/// A picture shows of its key the last change up to its revision.
fn reads_show_what_was(calls: &[Call], changes: &Changes) {
    for call in calls {
        let Did::Read { picture, found } = &call.did else { continue };
        let last = changes.range(..=*picture).rev().find(|(_, (key, _))| *key == call.key);
        let there = last.and_then(|(revision, (_, value))| value.as_ref().map(|_| *revision));
        assert_eq!(*found, there, "{call:?} saw what was not there");
    }
}

/// What ended before something else began comes before it; and nothing is seen before it was asked for.
fn order_is_real_time(calls: &[Call], changes: &Changes) {
    // A removal of unknown outcome has no value to be known by: only writes that are known count.
    let mut asked: HashMap<&str, Duration> = HashMap::new();
    let mut ends: Vec<(Duration, Revision)> = Vec::new();
    for call in calls {
        match (&call.did, call.ended) {
            (Did::Write { told: Told::Done(revision), .. }, Some(ended)) => ends.push((ended, *revision)),
            (Did::Read { picture, .. }, Some(ended)) => {
                let last = changes.range(..=*picture).next_back().map(|(revision, _)| *revision);
                ends.extend(last.map(|last| (ended, last)));
            }
            _ => {}
        }
        if let Did::Write { wrote: Some(wrote), .. } = &call.did {
            asked.insert(wrote, call.started);
        }
    }
    ends.sort();
    let mut latest = Revision(0);
    for end in &mut ends {
        latest = latest.max(end.1);
        end.1 = latest;
    }
    let known_by = |moment: Duration| {
        let place = ends.partition_point(|(ended, _)| *ended < moment);
        place.checked_sub(1).map_or(Revision(0), |place| ends[place].1)
    };
    for call in calls {
        let known = known_by(call.started);
        match &call.did {
            Did::Write { told: Told::Done(revision), .. } => {
                assert!(*revision > known, "{call:?} comes before what was known ({known})");
            }
            Did::Read { picture, found } => {
                assert!(*picture >= known, "{call:?} is older than what was known ({known})");
                let value = found.and_then(|found| changes[&found].1.as_deref());
                let asked = value.map_or(call.started, |value| asked[value]);
                assert!(
                    call.ended.is_some_and(|ended| asked <= ended),
                    "{call:?} saw what nobody had asked for yet"
                );
            }
            Did::Write { .. } => {}
        }
    }
}

fn before(changes: &Changes, key: &Key, revision: Revision) -> Option<Revision> {
    let last = changes.range(..revision).rev().find(|(_, (changed, _))| changed == key)?;
    last.1.1.as_ref().map(|_| *last.0)
}

fn watchers_saw_everything_once(shared: &Shared, changes: &Changes) {
    let happened: Vec<(Revision, Key)> =
        changes.iter().map(|(revision, (key, _))| (*revision, key.clone())).collect();
    for watcher in &shared.idle_watchers {
        let told: Vec<(Revision, Key)> =
            watcher.events.iter().map(|(revision, key, _)| (*revision, key.clone())).collect();
        assert_eq!(told, happened, "a watcher missed or repeated something");
        let mut there: HashMap<&Key, bool> = HashMap::new();
        for (revision, key, event) in &watcher.events {
            let was = there.insert(key, *event != "DELETED").unwrap_or(false);
            assert_eq!(*event == "ADDED", !was, "{event} of {key} at {revision}");
        }
    }
}

fn summary(shared: &Shared, changes: &Changes, faults: usize) -> Summary {
    let count = |wanted: fn(&Told) -> bool| {
        shared
            .calls
            .iter()
            .filter(|call| matches!(&call.did, Did::Write { told, .. } if wanted(told)))
            .count()
    };
    let acknowledged = count(|told| matches!(told, Told::Done(_)));
    assert!(acknowledged > 50, "hardly anything was acknowledged: {acknowledged}");
    let mut hasher = DefaultHasher::new();
    changes.iter().for_each(|change| change.hash(&mut hasher));
    shared.calls.iter().for_each(|call| (call.started, call.ended).hash(&mut hasher));
    Summary {
        calls: shared.calls.len(),
        acknowledged,
        unknown: count(|told| *told == Told::Unknown),
        terms: shared.elections.len(),
        faults,
        fingerprint: hasher.finish(),
    }
}
