//! Fair shares of this server, as Kubernetes' flow schemas and priority levels have it.
//!
//! A request belongs to the first flow schema that takes it ([`rules`]); the schema names its level, and which
//! requests are one flow. It takes one of the level's seats while it is worked on, or waits in the queue of its
//! flow ([`seats`]); a queue that is full, and a wait that is too long, end in 429. Reads and writes have seats of
//! their own, divided alike, so that writes that wait for a leader do not keep reads from being answered. Watches
//! have no seat while they last; they are counted instead, and one user may have half of them.
//!
//! Not asked for a seat: who is exempt (administrators, health), the servers and their own parts, and what is
//! open for long (exec, logs, proxies).

mod rules;
mod seats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use balsa_model::kind::kind_of;
use balsa_model::{Failure, Reason, Revision};
use balsa_state::{KindView, State};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

use self::rules::Rules;
pub(crate) use self::rules::Ticket;
use self::seats::{Counted, EXECUTING, Seat, Seats};
use crate::authorize::{Attributes, MASTERS};
use crate::identity::Authenticated;

/// The part of the watches that one user may have.
const SHARE: usize = 2;

/// How much a server does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Reads at a time.
    pub reads: usize,
    /// Writes at a time.
    pub writes: usize,
    /// Watches at a time.
    pub watches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reads: 400, writes: 200, watches: 20_000 }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Read,
    Write,
}

impl Sort {
    /// By Kubernetes' verb.
    pub(crate) fn of(verb: &str) -> Self {
        if matches!(verb, "get" | "list" | "watch") { Self::Read } else { Self::Write }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fairness(Arc<Parts>);

struct Parts {
    state: State,
    rules: ArcSwap<Known>,
    /// Held by who makes the rules anew.
    renewing: Mutex<()>,
    reads: Seats,
    writes: Seats,
    watches: Watches,
}

/// Rules, and the objects' revisions that they are made of.
struct Known {
    of: (Revision, Revision),
    rules: Rules,
}

/// A request that may be worked on, until it is dropped.
pub(crate) struct Seated {
    _seat: Seat,
    _counted: Counted,
}

impl Fairness {
    /// Of the objects in `state`.
    pub(crate) fn new(limits: Limits, state: State) -> Self {
        describe();
        let parts = Parts {
            rules: ArcSwap::from_pointee(known(&views(&state))),
            state,
            renewing: Mutex::default(),
            reads: Seats::new("readOnly", limits.reads),
            writes: Seats::new("mutating", limits.writes),
            watches: Watches { limit: limits.watches, held: Arc::default() },
        };
        parts.divide();
        Self(Arc::new(parts))
    }

    /// Where a request of `user` belongs.
    pub(crate) fn classify(&self, user: &Authenticated, wanted: &Attributes) -> Ticket {
        self.0.renew();
        self.0.rules.load().rules.classify(user, wanted)
    }

    /// A seat for a request.
    ///
    /// # Errors
    /// When too many requests of its flow wait already, or it has waited too long.
    pub(crate) async fn seat(&self, ticket: &Ticket, sort: Sort) -> Result<Seated, Failure> {
        let seats = if sort == Sort::Read { &self.0.reads } else { &self.0.writes };
        let seat = if ticket.level().exempt { Seat::exempt() } else { seats.take(ticket).await? };
        ticket.told().dispatched.increment(1);
        Ok(Seated { _seat: seat, _counted: Counted::begin(&ticket.told().executing) })
    }

    /// Counts a watch of `user` for as long as the answer lives.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn watch(&self, user: &Authenticated) -> Result<Option<Watching>, Failure> {
        if user.is_in(MASTERS) {
            return Ok(None);
        }
        self.0.watches.take(user.user()).map(Some)
    }
}

impl Parts {
    /// Makes the rules anew if their objects have changed.
    fn renew(&self) {
        let views = views(&self.state);
        if self.rules.load().of == (views.0.changed(), views.1.changed()) {
            return;
        }
        // Whoever comes second finds them made: an older picture never replaces a newer one.
        let _renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known(&self::views(&self.state));
        if self.rules.load().of != known.of {
            self.rules.store(Arc::new(known));
            self.divide();
        }
    }

    fn divide(&self) {
        let known = self.rules.load();
        let mut all: HashMap<Arc<str>, [usize; 3]> = HashMap::new();
        for seats in [&self.reads, &self.writes] {
            seats.divide(&known.rules);
            for (level, limits) in seats.limits() {
                let sums = all.entry(level).or_default();
                for (sum, of) in sums.iter_mut().zip([limits.nominal, limits.least, limits.most]) {
                    *sum += of;
                }
            }
        }
        for (level, sums) in all {
            for (name, seats) in LIMITS.iter().zip(sums) {
                metrics::gauge!(*name, "priority_level" => level.to_string()).set(seats as f64);
            }
        }
    }
}

/// The seats of a level: its own, what it keeps, what it may have.
const LIMITS: [&str; 3] = [
    "apiserver_flowcontrol_nominal_limit_seats",
    "apiserver_flowcontrol_lower_limit_seats",
    "apiserver_flowcontrol_upper_limit_seats",
];

fn views(state: &State) -> (KindView, KindView) {
    (state.view(kind_of::<FlowSchema>()), state.view(kind_of::<PriorityLevelConfiguration>()))
}

fn known((schemas, levels): &(KindView, KindView)) -> Known {
    let rules = Rules::new(
        schemas.iter().filter_map(|object| object.typed::<FlowSchema>()),
        levels.iter().filter_map(|object| object.typed::<PriorityLevelConfiguration>()),
    );
    Known { of: (schemas.changed(), levels.changed()), rules }
}

fn describe() {
    metrics::describe_gauge!("apiserver_current_inflight_requests", "Requests that have a seat, by kind");
    metrics::describe_gauge!("apiserver_current_inqueue_requests", "Requests that wait for a seat, by kind");
    metrics::describe_counter!(
        "apiserver_flowcontrol_dispatched_requests_total",
        "Requests that were worked on, by priority level and flow schema"
    );
    metrics::describe_gauge!(EXECUTING, "Requests that are worked on, by priority level and flow schema");
    metrics::describe_gauge!(
        "apiserver_flowcontrol_current_inqueue_requests",
        "Requests that wait for a seat, by priority level and flow schema"
    );
    for (name, what) in
        LIMITS.iter().zip(["own seats", "seats that it never lends", "seats with borrowed ones"])
    {
        metrics::describe_gauge!(*name, format!("A priority level's {what}"));
    }
    metrics::describe_counter!(
        "apiserver_flowcontrol_rejected_requests_total",
        "Requests that were answered with 429, by priority level, flow schema and reason"
    );
    metrics::describe_histogram!(
        "apiserver_flowcontrol_request_wait_duration_seconds",
        metrics::Unit::Seconds,
        "How long requests waited for a seat that had to wait"
    );
    metrics::describe_counter!("balsa_watches_rejected_total", "Watches that were one too many");
    metrics::describe_gauge!("balsa_watches", "Watches of clients on this server");
}

fn too_many_watches(message: String) -> Failure {
    metrics::counter!("balsa_watches_rejected_total").increment(1);
    Failure::new(Reason::TooManyRequests, message).retry_after(1)
}

/// The watches there are.
#[derive(Clone)]
struct Watches {
    limit: usize,
    held: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// A watch that is counted until it is dropped.
pub(crate) struct Watching {
    watches: Watches,
    user: Arc<str>,
}

impl Watches {
    fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, user: &Arc<str>) -> Result<Watching, Failure> {
        let mut held = self.held();
        let (all, own) = (held.values().sum::<usize>(), held.get(user).copied().unwrap_or(0));
        let share = (self.limit / SHARE).max(1);
        if own >= share {
            let why =
                format!("user \"{user}\" has {own} watches on this server, and may have no more; end some");
            return Err(too_many_watches(why));
        }
        if all >= self.limit {
            let why = format!("this server has {all} watches, and takes no more; ask another one");
            return Err(too_many_watches(why));
        }
        *held.entry(user.clone()).or_default() += 1;
        metrics::gauge!("balsa_watches").set((all + 1) as f64);
        Ok(Watching { watches: self.clone(), user: user.clone() })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut held = self.watches.held();
        if let Some(own) = held.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.user);
            }
        }
        metrics::gauge!("balsa_watches").set(held.values().sum::<usize>() as f64);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn watches_are_counted_while_they_last() {
        let watches = Watches { limit: 3, held: Arc::default() };
        let first = watches.take(&user("a")).ok().unwrap();
        assert!(watches.take(&user("a")).is_err(), "half of three, and no less than one");
        let _others = [watches.take(&user("b")).ok().unwrap(), watches.take(&user("c")).ok().unwrap()];
        assert!(watches.take(&user("d")).is_err());
        drop(first);
        assert!(watches.take(&user("a")).is_ok());
    }
}
