//! What is broken in a run, in which order and for how long: drawn from a seed, so that a run can be told again.

use std::fmt;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::servers::Servers;

/// A fault that lasts for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of some server.
    KillOne,
    /// kill -9 of all servers at once.
    KillAll,
    /// The leader's process stands still (SIGSTOP) and goes on later, believing that it leads.
    PauseLeader,
    /// Nothing passes between the leader and the others.
    IsolateLeader,
    /// A minority without the leader is cut off.
    IsolateMinority,
    /// The leader hears nobody, and everybody hears the leader.
    DeafLeader,
    /// Nobody hears the leader, and the leader hears everybody.
    MuteLeader,
    /// Two halves hear each other only through one server that both hear.
    Bridge,
    /// Some server's clock jumps an hour ahead and later back.
    ClockAhead,
    /// The leader's clock jumps an hour back.
    ClockBehind,
    /// Some server's disk has no room left.
    FullDisk,
    /// All servers are stopped (SIGTERM) and started again, one after the other.
    RollingRestart,
    /// A server is lost with its disk and replaced by a new one.
    Replace,
}

use Fault::{
    Bridge, ClockAhead, ClockBehind, DeafLeader, FullDisk, IsolateLeader, IsolateMinority, KillAll,
    KillLeader, KillOne, MuteLeader, PauseLeader, Replace, RollingRestart,
};

/// All of them; what makes the shortest trouble comes first.
pub(crate) const ALL: [Fault; 14] = [
    KillLeader,
    PauseLeader,
    IsolateLeader,
    DeafLeader,
    MuteLeader,
    IsolateMinority,
    Bridge,
    KillOne,
    ClockAhead,
    ClockBehind,
    FullDisk,
    KillAll,
    RollingRestart,
    Replace,
];

/// Some faults, one after the other.
pub(crate) struct Schedule {
    steps: Vec<Step>,
}

struct Step {
    fault: Fault,
    /// Which server, where the fault may hit any.
    victim: usize,
    lasts: Duration,
    /// Without a fault, after it.
    rest: Duration,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{:?} {:.1} s", step.fault, step.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Schedule {
    /// The given fault first, and then some others.
    pub(crate) fn draw(first: Fault, more: usize, servers: usize, random: &mut StdRng) -> Self {
        let mut faults = vec![first];
        faults.extend((0..more).map(|_| *ALL.choose(random).unwrap()));
        let milliseconds = |random: &mut StdRng, range| Duration::from_millis(random.random_range(range));
        let step = |fault| Step {
            fault,
            victim: random.random_range(0..servers),
            lasts: milliseconds(random, 500..3500),
            rest: milliseconds(random, 200..2000),
        };
        Self { steps: faults.into_iter().map(step).collect() }
    }

    /// Carries it out. In the end everything is whole again, and all servers are well.
    pub(crate) fn run(&self, servers: &mut Servers) {
        for step in &self.steps {
            step.begin(servers);
            std::thread::sleep(step.lasts);
            step.end(servers);
            std::thread::sleep(step.rest);
        }
        servers.well();
    }
}

impl Step {
    fn begin(&self, servers: &mut Servers) {
        let count = servers.all.len();
        // There may be none, after what was before: then somebody is meant.
        let leader = servers.leader().unwrap_or(self.victim);
        let others = |number: usize| (0..count).filter(move |other| *other != number);
        match self.fault {
            KillLeader => servers.all[leader].kill(),
            KillOne => servers.all[self.victim].kill(),
            KillAll => servers.all.iter_mut().for_each(crate::servers::Server::kill),
            PauseLeader => servers.all[leader].pause(),
            IsolateLeader => others(leader).for_each(|other| cut(servers, leader, other)),
            IsolateMinority => {
                let minority: Vec<_> = others(leader).take((count - 1) / 2).collect();
                for number in 0..count {
                    let apart = minority.iter().filter(|_| !minority.contains(&number));
                    apart.for_each(|other| cut(servers, number, *other));
                }
            }
            DeafLeader => others(leader).for_each(|other| deaf(servers, leader, other)),
            MuteLeader => others(leader).for_each(|other| deaf(servers, other, leader)),
            Bridge => {
                let (left, right) = (0..count / 2, count / 2 + 1..count);
                left.for_each(|one| right.clone().for_each(|other| cut(servers, one, other)));
            }
            ClockAhead => servers.all[self.victim].set_clock(3600),
            ClockBehind => servers.all[leader].set_clock(-3600),
            FullDisk => servers.all[self.victim].host.fill_disk(),
            RollingRestart => {
                for number in 0..count {
                    servers.all[number].stop();
                    servers.all[number].restart();
                    servers.well();
                }
            }
            Replace => {
                servers.well();
                servers.replace(self.victim);
            }
        }
    }

    fn end(&self, servers: &mut Servers) {
        if self.fault == FullDisk {
            servers.all[self.victim].host.free_disk();
            // A server whose disk was full ends, or says that it needs to be started again.
            servers.all[self.victim].kill();
        }
        servers.heal();
    }
}

fn cut(servers: &Servers, one: usize, other: usize) {
    servers.all[one].host.cut_off(&servers.all[other].host);
    servers.all[other].host.cut_off(&servers.all[one].host);
}

fn deaf(servers: &Servers, one: usize, other: usize) {
    servers.all[one].host.does_not_hear(&servers.all[other].host);
}
