//! Runs that go through one thing that once went wrong, so that it is met in every run of the tests.

use crate::faults::{Run, Script};
use crate::seeds;
use crate::world::StateFault;

impl Run {
    /// A leader that loses its power and is back before anybody stands against it still has its vote, and no
    /// longer knows what is committed: that was not synced. What a follower showed before, it must not hide.
    pub(crate) fn leader_comes_back_at_once(&mut self) {
        for _ in 0..25 {
            let leader = self.world.shared().leader;
            if let Some(leader) = leader {
                self.note(format!("{leader}, which leads, starts anew"));
                self.crash(leader);
                self.pass(1..20);
                self.start(leader);
            }
            self.pass(300..1200);
        }
    }
}

impl Run {
    /// What no code does is done to one server's state: it must be found out and put right, while the cluster
    /// works and whoever leads.
    pub(crate) fn state_goes_wrong(&mut self, fault: StateFault) {
        self.world.shared().states_may_differ = true;
        for victim in 1..=3 {
            self.pass(1500..2500);
            let rebuilt = self.world.shared().rebuilt.len();
            self.note(format!("{fault:?} of {victim} goes wrong"));
            self.world.shared().fault = Some((victim, fault));
            self.until("it has gone wrong", |world| world.shared().fault.is_none());
            if fault == StateFault::Table {
                // Memory is right: what is wrong shows when it is read again.
                self.pass(100..500);
                self.crash(victim);
                self.start(victim);
                continue;
            }
            self.until("it is rebuilt", |world| world.shared().rebuilt.len() > rebuilt);
            assert_eq!(self.world.shared().rebuilt.last(), Some(&victim), "another one was rebuilt");
        }
    }
}

#[test]
fn a_state_that_goes_wrong_is_found_out_and_rebuilt() {
    seeds::run(1, Script::StateGoesWrong(StateFault::Fold));
    seeds::run(1, Script::StateGoesWrong(StateFault::Table));
}

#[test]
fn a_leader_that_comes_back_at_once_hides_nothing() {
    for seed in 1..=2 {
        seeds::run(seed, Script::LeaderComesBackAtOnce);
    }
}
