//! What clients and watchers were told in a run, and what must be true of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::register::{Call, Operation, Value, inexplicable};

/// An object's version in the whole cluster.
pub(crate) type Revision = u64;

/// A change, as a watch told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) revision: Revision,
    pub(crate) key: String,
    pub(crate) value: Value,
}

/// An acknowledged write.
#[derive(Clone, Debug)]
struct Written {
    event: Event,
    begun: Instant,
    ended: Instant,
}

/// Filled by all clients of a run at once.
#[derive(Default)]
pub(crate) struct History {
    calls: Mutex<Vec<Call>>,
    written: Mutex<Vec<Written>>,
    /// When a value was first seen in a watch: a write that was never answered had happened by then.
    seen: Mutex<BTreeMap<Value, Instant>>,
    /// What each watcher was told, in its order.
    watched: Mutex<BTreeMap<String, Vec<Event>>>,
    enough: AtomicBool,
}

/// What a run was like.
pub(crate) struct Summary {
    calls: usize,
    acknowledged: usize,
    unknown: usize,
    pause: Duration,
    watchers: usize,
    events: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, acknowledged, unknown, pause, watchers, events } = self;
        write!(
            f,
            "{calls} calls, {acknowledged} writes acknowledged, {unknown} of unknown outcome; the longest time \
             without an acknowledged write {:.2} s; {watchers} watchers had the same {events} events",
            pause.as_secs_f64()
        )
    }
}

impl History {
    /// Clients end when they see it.
    pub(crate) fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// A call that was answered.
    pub(crate) fn answered(&self, key: &str, operation: Operation, begun: Instant) {
        let ended = Some(Instant::now());
        self.calls.lock().unwrap().push(Call { key: key.to_owned(), operation, begun, ended });
    }

    /// A write that was acknowledged with its revision.
    pub(crate) fn acknowledged(&self, key: &str, operation: Operation, revision: Revision, begun: Instant) {
        let (Operation::Write(value) | Operation::Swap(_, value)) = operation else {
            panic!("{operation:?} writes nothing");
        };
        self.answered(key, operation, begun);
        let event = Event { revision, key: key.to_owned(), value };
        self.written.lock().unwrap().push(Written { event, begun, ended: Instant::now() });
    }

    /// A write whose answer never came.
    pub(crate) fn unknown(&self, key: &str, operation: Operation, begun: Instant) {
        self.calls.lock().unwrap().push(Call { key: key.to_owned(), operation, begun, ended: None });
    }

    /// A watcher was told of a change. Panics when it goes back or repeats itself.
    pub(crate) fn watched(&self, watcher: &str, event: Event) {
        self.seen.lock().unwrap().entry(event.value).or_insert_with(Instant::now);
        let mut watched = self.watched.lock().unwrap();
        let events = watched.entry(watcher.to_owned()).or_default();
        if let Some(last) = events.last() {
            assert!(event.revision > last.revision, "{watcher} was told {event:?} after {last:?}");
        }
        events.push(event);
    }

    /// Panics unless everything that anybody was told is true together.
    pub(crate) fn check(&self) -> Summary {
        let (events, watchers) = self.watchers_agree();
        self.every_acknowledged_write_is_seen(&events);
        self.revisions_follow_time();
        let unknown = self.settle_unknown();
        let calls = self.calls.lock().unwrap();
        if let Some((key, calls)) = inexplicable(&calls).into_iter().next() {
            panic!("{key} is no register: {calls:#?}");
        }
        let written = self.written.lock().unwrap();
        Summary {
            calls: calls.len(),
            acknowledged: written.len(),
            unknown,
            pause: longest_pause(&written),
            watchers,
            events: events.len(),
        }
    }

    /// All were told the same, whichever servers they asked in whatever order.
    fn watchers_agree(&self) -> (Vec<Event>, usize) {
        let watched = self.watched.lock().unwrap();
        let (first, events) = watched.iter().next().expect("somebody watched");
        for (watcher, told) in watched.iter() {
            let differs = events.iter().zip(told).find(|(one, other)| one != other);
            assert_eq!(differs, None, "{first} and {watcher} were told different things");
            assert_eq!(events.len(), told.len(), "{first} and {watcher}: one was told more");
        }
        (events.clone(), watched.len())
    }

    fn every_acknowledged_write_is_seen(&self, events: &[Event]) {
        let by_revision: BTreeMap<Revision, &Event> =
            events.iter().map(|event| (event.revision, event)).collect();
        for Written { event, .. } in self.written.lock().unwrap().iter() {
            assert_eq!(by_revision.get(&event.revision), Some(&event), "acknowledged, and no watcher saw it");
        }
    }

    /// What was acknowledged before something else was asked for has a lower revision, over all objects.
    fn revisions_follow_time(&self) {
        let mut written = self.written.lock().unwrap().clone();
        let mut ends: Vec<(Instant, Revision)> =
            written.iter().map(|written| (written.ended, written.event.revision)).collect();
        ends.sort();
        written.sort_by_key(|written| written.begun);
        let (mut known, mut ended) = (0, ends.into_iter().peekable());
        for later in written {
            while let Some((_, revision)) = ended.next_if(|(ended, _)| *ended < later.begun) {
                known = known.max(revision);
            }
            assert!(later.event.revision > known, "{later:?} comes before {known}, which was known by then");
        }
    }

    /// Watchers saw every change: a write without an answer that they did not see never happened, and one that
    /// they saw had happened by then.
    fn settle_unknown(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let mut calls = self.calls.lock().unwrap();
        let unknown = calls.iter().filter(|call| call.ended.is_none()).count();
        calls.retain_mut(|call| match call.operation {
            Operation::Write(value) | Operation::Swap(_, value) if call.ended.is_none() => {
                call.ended = seen.get(&value).copied();
                call.ended.is_some()
            }
            _ => true,
        });
        unknown
    }
}

fn longest_pause(written: &[Written]) -> Duration {
    let mut ends: Vec<_> = written.iter().map(|written| written.ended).collect();
    ends.sort();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
