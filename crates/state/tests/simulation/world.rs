//! What outlives a server: disks, what clients and watchers were told, what the faults want.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_log::NodeId;
use balsa_model::kind::{KindRef, kind_of};
use balsa_model::{Key, Object, Revision};
use balsa_rt::{Clock, ManualClock};
use balsa_state::Check;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::watchers::Memory;

/// Servers there are; three of them vote at a time.
pub(crate) const SERVERS: u64 = 4;
/// The port of their log.
pub(crate) const PORT: u16 = 7000;

/// When a simulation begins, for whoever asks the system instead of tokio. No clock shows less.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// The name under which the network knows a server.
pub(crate) fn name(server: NodeId) -> String {
    format!("server-{server}")
}

pub(crate) fn kind() -> KindRef {
    kind_of::<ConfigMap>()
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// One call of a client.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: Key,
    pub(crate) started: Duration,
    /// `None`: the client died waiting.
    pub(crate) ended: Option<Duration>,
    pub(crate) did: Did,
}

/// What a client asked for, and what it was told.
#[derive(Clone, Debug)]
pub(crate) enum Did {
    /// The picture of a revision showed the key's object as of the second one, or no object.
    Read { picture: Revision, found: Option<Revision> },
    /// `wrote` is the new value; nothing: the object was to be removed.
    Write { wrote: Option<String>, expected: Option<Revision>, told: Told },
}

/// What a client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing, or that nothing is known.
    Unknown,
    /// It did not happen.
    Refused,
    /// It is this revision.
    Done(Revision),
}

/// What a server says about itself in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dump {
    /// Key, revision and bytes of every object.
    pub(crate) objects: Vec<(Key, Revision, Vec<u8>)>,
    /// Revision, key and value (none: deleted) of all that ever happened.
    pub(crate) changes: BTreeMap<Revision, (Key, Option<String>)>,
}

/// How a server's state goes wrong: never by what the code does, so it must be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateFault {
    /// It folds something else than the others.
    Fold,
    /// A row goes missing in its tables, and not in its memory.
    Table,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) calls: Vec<Call>,
    /// Watchers that no server serves at the moment.
    pub(crate) idle_watchers: Vec<Memory>,
    /// Who is to vote.
    pub(crate) voters: BTreeSet<NodeId>,
    /// Clients make no more calls.
    pub(crate) quiet: bool,
    /// Servers tell how far they are.
    pub(crate) applied: Option<BTreeMap<NodeId, u64>>,
    /// Servers tell all that they have.
    pub(crate) dump: bool,
    /// Watchers have seen enough when they have seen this.
    pub(crate) goal: Option<Revision>,
    pub(crate) dumps: BTreeMap<NodeId, Dump>,
    pub(crate) leader: Option<NodeId>,
    /// Who votes, as the leader sees it.
    pub(crate) voting: BTreeSet<NodeId>,
    pub(crate) elections: BTreeSet<u64>,
    pub(crate) failures: Vec<String>,
    /// Writes under way, also those that are tried again.
    pub(crate) writing: usize,
    /// The last check of each server's state.
    pub(crate) checks: BTreeMap<NodeId, Check>,
    /// Whose state is to go wrong, and how.
    pub(crate) fault: Option<(NodeId, StateFault)>,
    /// Otherwise states that differ fail the run.
    pub(crate) states_may_differ: bool,
    /// Servers that were rebuilt from another one's tables.
    pub(crate) rebuilt: Vec<NodeId>,
    /// Simulated time, the same for all servers: what happens at one moment has no order in time.
    pub(crate) now: Duration,
}

/// Shared by all that runs in one simulation.
#[derive(Clone)]
pub(crate) struct World {
    shared: Arc<Mutex<Shared>>,
    disks: Arc<BTreeMap<NodeId, Arc<Disk>>>,
    /// What clocks on the wall show.
    clock: ManualClock,
}

impl World {
    pub(crate) fn new() -> Self {
        // Memory where there is some: the disk's speed is simulated.
        let root = std::path::Path::new("/dev/shm");
        balsa_entropy::set_clock(EPOCH);
        let new_dir = || if root.is_dir() { TempDir::new_in(root) } else { TempDir::new() };
        let disks = (1..=SERVERS).map(|server| (server, Arc::new(Disk::new(new_dir().unwrap())))).collect();
        let shared = Shared { voters: BTreeSet::from([1, 2, 3]), ..Shared::default() };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            disks: Arc::new(disks),
            clock: ManualClock::at(Timestamp::UNIX_EPOCH),
        }
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.shared().now
    }

    /// Time has come to `now`.
    pub(crate) fn set_now(&self, now: Duration) {
        let before = std::mem::replace(&mut self.shared().now, now);
        self.clock.advance(now.saturating_sub(before));
        balsa_entropy::set_clock(EPOCH + now);
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock.clock()
    }

    pub(crate) fn disk(&self, server: NodeId) -> &Arc<Disk> {
        &self.disks[&server]
    }

    /// Something that must not be: the simulation fails with it.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        self.shared().failures.push(what.into());
    }

    /// Notes that a call has begun; what came of it goes under the number.
    pub(crate) fn begin(&self, call: Call) -> usize {
        let mut shared = self.shared();
        shared.calls.push(call);
        shared.calls.len() - 1
    }

    pub(crate) fn end(&self, call: usize, did: Did) {
        let mut shared = self.shared();
        shared.calls[call].ended = Some(shared.now);
        shared.calls[call].did = did;
    }
}

/// The value that a client wrote into an object.
pub(crate) fn value(object: &Object) -> String {
    object.value()["data"]["value"].as_str().unwrap_or_default().to_owned()
}
