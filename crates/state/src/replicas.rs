//! Replicas check each other: at certain indexes each server knows the digest of its state, tells it to the
//! others, and holds what they say of the same index against its own.
//!
//! All servers fold the same entries, so any difference is a fault: of memory, of a disk, or of the fold.
//! It is never averaged out and does not go away; whoever is alone with its digest is wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use balsa_log::NodeId;
use bytes::Bytes;

/// Entries between two checks. Part of what servers agree on: they compare where all of them have one.
pub(crate) const CHECK_EVERY: u64 = 128;
/// Checks remembered, of this server and of each other one: enough for a server that lags.
const REMEMBERED: usize = 64;

/// What a server's state was before it applied the entry at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The index; all entries before it are in the state.
    pub index: u64,
    /// The hash of the state then.
    pub hash: Bytes,
}

/// The checks of one server, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Checks(VecDeque<Check>);

impl Checks {
    /// Remembers a check, unless it is not newer than the last.
    pub(crate) fn add(&mut self, check: Check) {
        if self.0.back().is_some_and(|last| last.index >= check.index) {
            return;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(check);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn all(&self) -> Vec<Check> {
        self.0.iter().cloned().collect()
    }

    fn at(&self, index: u64) -> Option<&Bytes> {
        self.0.iter().rev().find(|check| check.index == index).map(|check| &check.hash)
    }
}

/// What comparing came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Nobody else has said anything of an index that this server remembers.
    Nothing,
    /// All that have said anything of this index have the same.
    Same(u64),
    /// A majority of the voters has another state than this server: these have it.
    Wrong {
        /// Where the states differ; maybe they did so before.
        index: u64,
        /// Who has the majority's.
        right: BTreeSet<NodeId>,
    },
    /// These servers have another state than this one and a majority of the voters.
    OthersWrong {
        /// Where the states differ.
        index: u64,
        /// Who has another state.
        wrong: BTreeSet<NodeId>,
    },
    /// States differ, and no majority has said that it has the same: nobody can tell who is right.
    Undecided {
        /// Where the states differ.
        index: u64,
    },
}

/// What servers have said of themselves.
#[derive(Debug, Default)]
pub struct Replicas {
    heard: BTreeMap<NodeId, Checks>,
}

impl Replicas {
    /// Server `node` said this of itself; nothing, when it has started anew or was rebuilt.
    pub fn hear(&mut self, node: NodeId, check: Option<Check>) {
        let Some(check) = check else {
            self.heard.remove(&node);
            return;
        };
        let checks = self.heard.entry(node).or_default();
        // It was rebuilt, or started anew with less than it had: what it says now counts.
        if checks.0.back().is_some_and(|last| last.index > check.index) {
            checks.clear();
        }
        checks.add(check);
    }

    /// Forgets what was heard: what a server says after it was rebuilt counts only.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// Holds it against the checks of server `me`, at the newest index of which others have said something.
    pub fn compare(&self, me: NodeId, voters: &BTreeSet<NodeId>, own: &[Check]) -> Comparison {
        let compared = own.iter().rev().map(|own| (own, self.at(me, own))).find(|(_, all)| all.len() > 1);
        let Some((own, all)) = compared else { return Comparison::Nothing };
        let index = own.index;
        if all.values().all(|hash| *hash == own.hash) {
            return Comparison::Same(index);
        }
        let votes =
            |hash: &Bytes| all.iter().filter(|(node, said)| voters.contains(node) && *said == hash).count();
        match all.values().find(|hash| votes(hash) > voters.len() / 2) {
            None => Comparison::Undecided { index },
            Some(right) if *right == own.hash => {
                let wrong = all.iter().filter(|(_, hash)| *hash != right).map(|(node, _)| *node).collect();
                Comparison::OthersWrong { index, wrong }
            }
            Some(right) => {
                let right = all.iter().filter(|(_, hash)| *hash == right).map(|(node, _)| *node).collect();
                Comparison::Wrong { index, right }
            }
        }
    }

    /// What everybody says of an index, in the format of `own`.
    fn at(&self, me: NodeId, own: &Check) -> BTreeMap<NodeId, Bytes> {
        let others = self.heard.iter().filter(|(node, _)| **node != me);
        let said = others.filter_map(|(node, checks)| Some((*node, checks.at(own.index)?.clone())));
        let same_format = |hash: &Bytes| hash.first() == own.hash.first();
        let said = said.filter(|(_, hash)| same_format(hash));
        said.chain([(me, own.hash.clone())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(index: u64, state: &'static str) -> Check {
        Check { index, hash: Bytes::from_static(state.as_bytes()) }
    }

    /// What server 1 makes of it when the others are in these states at index 128.
    fn compared(own: &'static str, others: &[(NodeId, &'static str)]) -> Comparison {
        let mut replicas = Replicas::default();
        others.iter().for_each(|(node, state)| replicas.hear(*node, Some(check(128, state))));
        replicas.compare(1, &BTreeSet::from([1, 2, 3]), &[check(128, own), check(256, own)])
    }

    #[test]
    fn whoever_is_alone_is_wrong() {
        assert_eq!(compared("1a", &[]), Comparison::Nothing);
        assert_eq!(compared("1a", &[(2, "1a"), (3, "1a")]), Comparison::Same(128));
        let wrong = Comparison::Wrong { index: 128, right: BTreeSet::from([2, 3]) };
        assert_eq!(compared("1b", &[(2, "1a"), (3, "1a")]), wrong);
        let others = Comparison::OthersWrong { index: 128, wrong: BTreeSet::from([3]) };
        assert_eq!(compared("1a", &[(2, "1a"), (3, "1b")]), others);
    }

    #[test]
    fn without_a_majority_nobody_is_right() {
        assert_eq!(compared("1a", &[(2, "1b")]), Comparison::Undecided { index: 128 });
        assert_eq!(compared("1a", &[(2, "1b"), (3, "1c")]), Comparison::Undecided { index: 128 });
        // Server 4 has no vote.
        assert_eq!(compared("1a", &[(2, "1b"), (4, "1b")]), Comparison::Undecided { index: 128 });
    }

    #[test]
    fn what_is_of_another_format_or_of_another_index_is_not_compared() {
        assert_eq!(compared("1a", &[(2, "2a"), (3, "2a")]), Comparison::Nothing);
        let mut replicas = Replicas::default();
        replicas.hear(2, Some(check(384, "1b")));
        assert_eq!(replicas.compare(1, &BTreeSet::from([1, 2]), &[check(128, "1a")]), Comparison::Nothing);
    }

    #[test]
    fn a_server_that_lags_is_compared_with_what_was_heard_before() {
        let mut replicas = Replicas::default();
        for index in [128, 256, 384] {
            replicas.hear(2, Some(check(index, "1a")));
            replicas.hear(3, Some(check(index, "1a")));
        }
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(
            replicas.compare(1, &voters, &[check(128, "1a"), check(256, "1a")]),
            Comparison::Same(256)
        );
        replicas.forget();
        assert_eq!(replicas.compare(1, &voters, &[check(256, "1a")]), Comparison::Nothing);
    }
}
