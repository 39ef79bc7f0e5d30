//! What a register with compare-and-set may answer, and the search for an order of all calls on it that
//! explains every answer (Wing & Gong, with Lowe's memory of what was tried).

use std::collections::BTreeMap;
use std::time::Instant;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::Action::{Call as Begin, Response as End};
use todc_utils::linearizability::history::History;
use todc_utils::specifications::Specification;

/// What a register holds: every write but [`Operation::Again`] writes another value.
pub(crate) type Value = u64;

/// What a client asked of a register and was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Saw this value.
    Read(Value),
    /// Wrote this value whatever was there.
    Write(Value),
    /// Wrote a value that it had seen there before: where it still is, nothing changes, and where it is not, that
    /// is a write like any other.
    Again(Value),
    /// Wrote the second value where the first was.
    Swap(Value, Value),
    /// Was refused, because another value was there.
    Refused(Value),
}

/// A call as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: String,
    pub(crate) operation: Operation,
    pub(crate) begun: Instant,
    /// `None`: nobody knows whether and when it was carried out.
    pub(crate) ended: Option<Instant>,
}

/// The register, told by what it allows.
struct Register;

impl Specification for Register {
    type State = Value;
    type Operation = Operation;

    fn init() -> Value {
        0
    }

    fn apply(operation: &Operation, state: &Value) -> (bool, Value) {
        match *operation {
            Operation::Read(value) => (value == *state, *state),
            Operation::Write(value) | Operation::Again(value) => (true, value),
            Operation::Swap(expected, value) if expected == *state => (true, value),
            Operation::Swap(..) => (false, *state),
            Operation::Refused(expected) => (expected != *state, *state),
        }
    }
}

/// The registers whose calls no order explains, and those calls; none, when the history is linearizable.
/// Registers are independent of each other, so each is looked at alone.
pub(crate) fn inexplicable(calls: &[Call]) -> Vec<(String, Vec<Call>)> {
    let mut registers: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        registers.entry(&call.key).or_default().push(call);
    }
    let wrong = registers.into_iter().filter(|(_, calls)| !is_linearizable(calls));
    wrong.map(|(key, calls)| (key.to_owned(), calls.into_iter().cloned().collect())).collect()
}

fn is_linearizable(calls: &[&Call]) -> bool {
    // Moments that are equal tell no order: a beginning is put before an end, which allows more.
    let mut moments = Vec::new();
    for (process, call) in calls.iter().enumerate() {
        moments.push((Some(call.begun), false, process, Begin(call.operation)));
        moments.push((call.ended, true, process, End(call.operation)));
    }
    moments.sort_by_key(|(moment, is_end, process, _)| (moment.is_none(), *moment, *is_end, *process));
    let actions = moments.into_iter().map(|(_, _, process, action)| (process, action)).collect();
    WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn history(calls: &[(Operation, u64, u64)]) -> Vec<Call> {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let call = |&(operation, begun, ended)| Call {
            key: "a".to_owned(),
            operation,
            begun: at(begun),
            ended: Some(at(ended)),
        };
        calls.iter().map(call).collect()
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        use Operation::{Read, Swap, Write};
        let calls = history(&[
            (Write(1), 0, 9),
            (Write(2), 0, 9),
            (Read(2), 2, 3),
            (Read(1), 4, 5),
            (Swap(1, 3), 6, 7),
        ]);
        assert!(inexplicable(&calls).is_empty());
    }

    #[test]
    fn a_read_of_the_past_is_found() {
        use Operation::{Read, Write};
        let calls = history(&[(Write(1), 0, 1), (Write(2), 2, 3), (Read(1), 4, 5)]);
        assert_eq!(inexplicable(&calls).len(), 1);
    }

    #[test]
    fn two_swaps_of_one_value_are_found() {
        use Operation::{Swap, Write};
        let calls = history(&[(Write(1), 0, 1), (Swap(1, 2), 2, 9), (Swap(1, 3), 2, 9)]);
        assert_eq!(inexplicable(&calls).len(), 1);
    }

    #[test]
    fn a_refusal_without_a_reason_is_found() {
        use Operation::{Refused, Write};
        assert_eq!(inexplicable(&history(&[(Write(1), 0, 1), (Refused(1), 2, 3)])).len(), 1);
        assert!(inexplicable(&history(&[(Write(1), 0, 1), (Refused(0), 2, 3)])).is_empty());
    }

    #[test]
    fn a_write_of_unknown_outcome_may_happen_late() {
        use Operation::{Read, Write};
        let mut calls = history(&[(Write(1), 0, 1), (Write(2), 0, 1), (Read(1), 2, 3), (Read(2), 4, 5)]);
        assert_eq!(inexplicable(&calls).len(), 1, "both had ended");
        calls[1].ended = None;
        assert!(inexplicable(&calls).is_empty());
    }
}
