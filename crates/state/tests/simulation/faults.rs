//! The faults of a run: what is broken, for how long, and that everything is whole in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use balsa_log::NodeId;
use balsa_rt::Random;
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use turmoil::Sim;

use crate::check::{self, Summary};
use crate::host;
use crate::watchers::Memory;
use crate::world::{Dump, SERVERS, StateFault, World, name};

const FAULTS: usize = 10;
const WATCHERS: usize = 5;
/// Simulated time within which a cluster without faults must come to rest.
const SETTLE: Duration = Duration::from_secs(90);

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Whatever the seed draws.
    Drawn,
    /// See [`crate::scenarios`].
    LeaderComesBackAtOnce,
    /// See [`crate::scenarios`].
    StateGoesWrong(StateFault),
}

impl Script {
    const ALL: [Self; 4] = [
        Self::Drawn,
        Self::LeaderComesBackAtOnce,
        Self::StateGoesWrong(StateFault::Fold),
        Self::StateGoesWrong(StateFault::Table),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drawn => "drawn",
            Self::LeaderComesBackAtOnce => "leader-comes-back-at-once",
            Self::StateGoesWrong(StateFault::Fold) => "fold-goes-wrong",
            Self::StateGoesWrong(StateFault::Table) => "table-goes-wrong",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|script| script.name() == name).expect("BALSA_SCRIPT names a script")
    }
}

/// One run. Panics when the cluster does not recover, or somebody was told what is not true.
pub(crate) fn run(seed: u64, script: Script) -> Summary {
    balsa_rt::simulate_on_this_thread(seed);
    let world = World::new();
    let mut run = Run { sim: simulation(seed, &world), world, log: Vec::new() };
    run.until("the cluster forms", |world| world.shared().voting.len() == 3);
    run.world.shared().idle_watchers = vec![Memory::default(); WATCHERS];
    match script {
        Script::Drawn => run.drawn(),
        Script::LeaderComesBackAtOnce => run.leader_comes_back_at_once(),
        Script::StateGoesWrong(fault) => run.state_goes_wrong(fault),
    }
    let dumps = run.settle();
    match script {
        // Until it is found out, who reads from that server is told what is not true.
        Script::StateGoesWrong(_) => check::check_servers(&run.world.shared(), &dumps, run.log.len()),
        _ => check::check(&run.world.shared(), &dumps, run.log.len()),
    }
}

fn simulation(seed: u64, world: &World) -> Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(8))
        .tcp_capacity(1 << 16)
        .build();
    for server in 1..=SERVERS {
        let world = world.clone();
        sim.host(name(server), move || host::run(server, world.clone()));
    }
    sim
}

pub(crate) struct Run {
    sim: Sim<'static>,
    pub(crate) world: World,
    /// What was done, for whoever looks for the cause of a failure.
    log: Vec<String>,
}

impl Run {
    fn drawn(&mut self) {
        for _ in 0..FAULTS {
            self.fault();
            self.pass(100..1500);
        }
    }

    fn step(&mut self) {
        self.world.set_now(self.sim.elapsed());
        let stepped = self.sim.step();
        let failures = std::mem::take(&mut self.world.shared().failures);
        assert!(stepped.is_ok() && failures.is_empty(), "{stepped:?} {failures:?}\nfaults: {:#?}", self.log);
    }

    /// Lets a drawn number of milliseconds pass.
    pub(crate) fn pass(&mut self, milliseconds: std::ops::Range<u64>) {
        let end = self.sim.elapsed() + Duration::from_millis(Random.random_range(milliseconds));
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&World) -> bool) {
        let end = self.sim.elapsed() + SETTLE;
        while !condition(&self.world) {
            assert!(self.sim.elapsed() < end, "in vain: {what}\nfaults: {:#?}", self.log);
            self.step();
        }
    }

    pub(crate) fn note(&mut self, what: String) {
        self.log.push(format!("{:?} {what}", self.sim.elapsed()));
    }

    /// The leader every other time.
    fn victim(&self) -> NodeId {
        match self.world.shared().leader {
            Some(leader) if Random.random_bool(0.5) => leader,
            _ => Random.random_range(1..=SERVERS),
        }
    }

    fn fault(&mut self) {
        let victim = self.victim();
        match Random.random_range(0..10) {
            0..=2 => self.crash_one(victim),
            3 => self.crash_all(),
            4 => self.delay_messages(victim),
            5 => self.partition(victim),
            6 => self.partition_one_way(victim),
            7 => self.slow_disk(victim),
            8 => self.failing_disk(victim),
            _ => self.other_voters(),
        }
    }

    fn crash_one(&mut self, victim: NodeId) {
        self.note(format!("crash {victim}"));
        self.crash(victim);
        self.pass(100..3000);
        self.start(victim);
    }

    fn crash_all(&mut self) {
        self.note("crash all".to_owned());
        (1..=SERVERS).for_each(|server| self.crash(server));
        let mut order: Vec<NodeId> = (1..=SERVERS).collect();
        order.shuffle(&mut Random);
        for server in order {
            self.pass(1..1000);
            self.start(server);
        }
    }

    /// As a network does whose packets are sent again until they arrive.
    fn delay_messages(&mut self, victim: NodeId) {
        self.note(format!("hold messages of {victim}"));
        let others = others(victim);
        others.iter().for_each(|other| self.sim.hold(name(victim), name(*other)));
        self.pass(300..3000);
        others.iter().for_each(|other| self.sim.release(name(victim), name(*other)));
    }

    /// Messages are lost, so connections break.
    fn partition(&mut self, victim: NodeId) {
        self.note(format!("partition {victim}"));
        let others = others(victim);
        others.iter().for_each(|other| self.sim.partition(name(victim), name(*other)));
        self.pass(300..4000);
        others.iter().for_each(|other| self.sim.repair(name(victim), name(*other)));
    }

    fn partition_one_way(&mut self, victim: NodeId) {
        self.note(format!("nobody hears {victim}"));
        let others = others(victim);
        others.iter().for_each(|other| self.sim.partition_oneway(name(victim), name(*other)));
        self.pass(300..4000);
        others.iter().for_each(|other| self.sim.repair_oneway(name(victim), name(*other)));
    }

    fn slow_disk(&mut self, victim: NodeId) {
        let delay = Duration::from_millis(Random.random_range(20..600));
        self.note(format!("syncs of {victim} take {delay:?}"));
        self.world.disk(victim).set_delay(delay);
        self.pass(500..4000);
        self.world.disk(victim).set_delay(Duration::ZERO);
    }

    fn failing_disk(&mut self, victim: NodeId) {
        self.note(format!("syncs of {victim} fail"));
        self.world.disk(victim).set_failing(true);
        self.pass(100..3000);
        self.crash(victim);
        self.world.disk(victim).set_failing(false);
        self.pass(1..500);
        self.start(victim);
    }

    fn other_voters(&mut self) {
        let all: Vec<NodeId> = (1..=SERVERS).collect();
        let voters: BTreeSet<NodeId> = all.sample(&mut Random, 3).copied().collect();
        self.note(format!("{voters:?} are to vote"));
        self.world.shared().voters = voters;
        self.pass(500..4000);
    }

    pub(crate) fn crash(&mut self, server: NodeId) {
        self.sim.crash(name(server));
        let disk = self.world.disk(server);
        disk.set_delay(Duration::ZERO);
        disk.lose_unsynced();
    }

    pub(crate) fn start(&mut self, server: NodeId) {
        self.sim.bounce(name(server));
    }

    /// Waits until all is quiet and everybody has seen everything; what the voters have then.
    fn settle(&mut self) -> BTreeMap<NodeId, Dump> {
        self.world.shared().voters = BTreeSet::from([1, 2, 3]);
        self.world.shared().quiet = true;
        self.until("the first three vote", |world| world.shared().voting == BTreeSet::from([1, 2, 3]));
        self.until("nobody writes", |world| world.shared().writing == 0);
        self.world.shared().applied = Some(BTreeMap::new());
        self.until("the voters have applied the same", |world| {
            let shared = world.shared();
            let applied = |server| shared.applied.as_ref()?.get(&server);
            applied(1).is_some() && (2..=3).all(|server| applied(server) == applied(1))
        });
        self.world.shared().dump = true;
        self.until("the voters tell what they have", |world| {
            (1..=3).all(|server| world.shared().dumps.contains_key(&server))
        });
        let dumps = std::mem::take(&mut self.world.shared().dumps);
        let last = dumps[&1].changes.keys().next_back().copied();
        self.world.shared().goal = last;
        self.until("the watchers have seen everything", |world| {
            let shared = world.shared();
            shared.idle_watchers.len() == WATCHERS
                && shared.idle_watchers.iter().all(|watcher| Some(watcher.resume()) >= last)
        });
        dumps
    }
}

fn others(victim: NodeId) -> Vec<NodeId> {
    (1..=SERVERS).filter(|server| *server != victim).collect()
}
