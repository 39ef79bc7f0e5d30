//! The seats for requests of one sort, level by level.
//!
//! Each level has its part of them. What it does not need, others may have, as far as it lends and they borrow:
//! a seat is lent when what every level keeps for itself stays free, and comes back when its request ends. Who
//! finds none waits in the queue of their flow, and seats that become free go first to the levels that have the
//! least of what is theirs, and there round the flows. Invariant: seats taken and seats kept for others are never
//! more than all seats, whoever goes away when.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use balsa_model::{Failure, Reason};
use metrics::{Counter, Gauge};
use tokio::sync::oneshot;

use super::rules::{Flow, Level, Queue, Rules, Ticket};

/// How long a request may wait for a seat.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seats(Arc<Room>);

struct Room {
    /// What is told of it: seats that are taken, and requests that wait.
    told: [Gauge; 2],
    /// Seats that there are to be; rounding makes them a few more.
    wanted: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The seats of all levels.
    all: usize,
    levels: HashMap<Arc<str>, Part>,
}

/// One level's part of the seats.
#[derive(Default)]
struct Part {
    limits: Limits,
    held: usize,
    waiting: usize,
    /// No queue is empty.
    queues: HashMap<Flow, VecDeque<oneshot::Sender<Seat>>>,
    /// Whose turn it is: every flow with a queue, once.
    turns: VecDeque<Flow>,
}

/// What a level may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// What is its own.
    pub(super) nominal: usize,
    /// What it never lends.
    pub(super) least: usize,
    /// What it may have with what it borrows.
    pub(super) most: usize,
    queue: Option<Queue>,
}

/// The right to be worked on; given back when it is dropped.
pub(crate) struct Seat {
    /// `None` for who needs none, and once it is given back.
    room: Option<Arc<Room>>,
    level: Arc<str>,
}

impl Seats {
    /// So many, until it is told whose they are. `kind` is Kubernetes' word for the sort.
    pub(super) fn new(kind: &'static str, wanted: usize) -> Self {
        let told = [
            metrics::gauge!("apiserver_current_inflight_requests", "request_kind" => kind),
            metrics::gauge!("apiserver_current_inqueue_requests", "request_kind" => kind),
        ];
        Self(Arc::new(Room { told, wanted, state: Mutex::default() }))
    }

    /// Divides the seats as these rules have it. Levels that are gone end with their requests.
    pub(super) fn divide(&self, rules: &Rules) {
        let mut state = self.0.state();
        let (all, parts) = divided(self.0.wanted, rules);
        for part in state.levels.values_mut() {
            part.limits.least = 0;
        }
        state.all = all;
        for (name, limits) in &parts {
            state.levels.entry(name.clone()).or_default().limits = *limits;
        }
        state.levels.retain(|name, part| parts.contains_key(name) || part.held + part.waiting > 0);
        self.0.seat_waiting(&mut state);
    }

    /// What a level may have, for the metrics.
    pub(super) fn limits(&self) -> Vec<(Arc<str>, Limits)> {
        self.0.state().levels.iter().map(|(name, part)| (name.clone(), part.limits)).collect()
    }

    /// A seat, at once or after a while.
    ///
    /// # Errors
    /// When its level keeps no queue, the queue is full, or it has waited too long.
    pub(super) async fn take(&self, ticket: &Ticket) -> Result<Seat, Failure> {
        let level = &ticket.level().name;
        let waiter = match self.0.try_take(ticket)? {
            None => return Ok(Seat { room: Some(self.0.clone()), level: level.clone() }),
            Some(waiter) => waiter,
        };
        let _counted = Counted::begin(&ticket.told().waiting);
        let started = Instant::now();
        let seat = tokio::time::timeout(PATIENCE, waiter).await;
        let execute = if matches!(seat, Ok(Ok(_))) { "true" } else { "false" };
        metrics::histogram!("apiserver_flowcontrol_request_wait_duration_seconds",
            "priority_level" => level.to_string(), "flow_schema" => ticket.schema().to_string(),
            "execute" => execute)
        .record(started.elapsed());
        match seat {
            Ok(Ok(seat)) => Ok(seat),
            _ => {
                let why = "this request has waited for others of its priority level in vain";
                Err(rejected(ticket, "time-out", why))
            }
        }
    }
}

/// The seats of all levels together, and each one's part.
fn divided(wanted: usize, rules: &Rules) -> (usize, HashMap<Arc<str>, Limits>) {
    let shares: usize = rules.levels().map(|level| level.shares).sum();
    let nominal = |level: &Level| (wanted * level.shares).div_ceil(shares.max(1));
    let all = rules.levels().map(nominal).sum::<usize>().max(wanted);
    let percent = |of: usize, percent: usize| (of.saturating_mul(percent) + 50) / 100;
    let limits = |level: &Level| {
        let nominal = nominal(level);
        let borrowed = level.borrowing.map_or(all, |limit| percent(nominal, limit));
        Limits {
            nominal,
            least: nominal - percent(nominal, level.lendable),
            most: nominal.saturating_add(borrowed).min(all),
            queue: level.queue,
        }
    };
    (all, rules.levels().map(|level| (level.name.clone(), limits(level))).collect())
}

/// Refuses a request, and counts that.
pub(super) fn rejected(ticket: &Ticket, reason: &'static str, why: &str) -> Failure {
    metrics::counter!("apiserver_flowcontrol_rejected_requests_total",
        "priority_level" => ticket.level().name.to_string(),
        "flow_schema" => ticket.schema().to_string(), "reason" => reason)
    .increment(1);
    let message = format!("Too many requests, please try again later: {why}");
    Failure::new(Reason::TooManyRequests, message).retry_after(1)
}

impl State {
    /// Whether a level may have one seat more.
    fn has_room(&self, level: &Arc<str>) -> bool {
        let Some(part) = self.levels.get(level) else { return false };
        let sum = |of: fn(&Part) -> usize| self.levels.values().map(of).sum::<usize>();
        if part.held < part.limits.least {
            // One that is kept for it: missing only while what was divided otherwise before comes back.
            return sum(|part| part.held) < self.all;
        }
        part.held < part.limits.most && sum(|part| part.held.max(part.limits.least)) < self.all
    }

    /// The next one to get a seat, with their level: of the levels that have the least of what is theirs.
    fn next(&mut self) -> Option<(Arc<str>, oneshot::Sender<Seat>)> {
        let wanting = self.levels.iter().filter(|(_, part)| part.waiting > 0);
        let mut wanting: Vec<(f64, Arc<str>)> =
            wanting.map(|(name, part)| (part.fullness(), name.clone())).collect();
        wanting.sort_by(|a, b| a.0.total_cmp(&b.0));
        let level = wanting.into_iter().map(|(_, name)| name).find(|name| self.has_room(name))?;
        let waiter = self.levels.get_mut(&level)?.call()?;
        Some((level, waiter))
    }
}

impl Part {
    /// How much of what is its own it has.
    fn fullness(&self) -> f64 {
        self.held as f64 / self.limits.nominal.max(1) as f64
    }

    /// The one whose turn it is.
    fn call(&mut self) -> Option<oneshot::Sender<Seat>> {
        let flow = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&flow)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&flow);
        } else {
            self.turns.push_back(flow);
        }
        self.waiting -= usize::from(waiter.is_some());
        waiter
    }

    /// A place in the queue of a flow, or why there is none.
    fn line_up(&mut self, flow: Flow) -> Result<oneshot::Receiver<Seat>, (&'static str, &'static str)> {
        let Some(limits) = self.limits.queue else {
            return Err(("concurrency-limit", "its priority level has no seat free, and no queue"));
        };
        let queue = self.queues.entry(flow.clone()).or_default();
        // Those who went away make room.
        let before = queue.len();
        queue.retain(|waiter| !waiter.is_closed());
        self.waiting -= before - queue.len();
        if queue.len() >= limits.flow || self.waiting >= limits.all {
            if queue.is_empty() {
                self.queues.remove(&flow);
                self.turns.retain(|other| *other != flow);
            }
            return Err(("queue-full", "as many of its flow wait already as may"));
        }
        let (sender, receiver) = oneshot::channel();
        queue.push_back(sender);
        self.waiting += 1;
        if !self.turns.contains(&flow) {
            self.turns.push_back(flow);
        }
        Ok(receiver)
    }
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: a seat at once; else the place in the queue.
    fn try_take(&self, ticket: &Ticket) -> Result<Option<oneshot::Receiver<Seat>>, Failure> {
        let (level, mut state) = (&ticket.level().name, self.state());
        let free = state.has_room(level);
        // A level that went in this moment has nothing: what still comes for it is refused.
        let part = state.levels.entry(level.clone()).or_default();
        let outcome = if free && part.waiting == 0 {
            part.held += 1;
            Ok(None)
        } else {
            part.line_up(ticket.flow()).map(Some)
        };
        self.tell(&state);
        outcome.map_err(|(reason, why)| rejected(ticket, reason, why))
    }

    fn give_back(self: &Arc<Self>, level: &Arc<str>) {
        let mut state = self.state();
        if let Some(part) = state.levels.get_mut(level) {
            part.held -= 1;
        }
        self.seat_waiting(&mut state);
    }

    /// Gives the seats that are free to those who wait.
    fn seat_waiting(self: &Arc<Self>, state: &mut State) {
        while let Some((level, waiter)) = state.next() {
            let seat = Seat { room: Some(self.clone()), level: level.clone() };
            match waiter.send(seat) {
                Ok(()) => {
                    if let Some(part) = state.levels.get_mut(&level) {
                        part.held += 1;
                    }
                }
                // It went away.
                Err(mut unwanted) => unwanted.room = None,
            }
        }
        self.tell(state);
    }

    fn tell(&self, state: &State) {
        let sum = |of: fn(&Part) -> usize| state.levels.values().map(of).sum::<usize>() as f64;
        let [held, waiting] = &self.told;
        held.set(sum(|part| part.held));
        waiting.set(sum(|part| part.waiting));
    }
}

impl Seat {
    /// For who needs none.
    pub(super) fn exempt() -> Self {
        Self { room: None, level: Arc::default() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            room.give_back(&self.level);
        }
    }
}

pub(super) const EXECUTING: &str = "apiserver_flowcontrol_current_executing_requests";
const WAITING: &str = "apiserver_flowcontrol_current_inqueue_requests";

/// What is told of the requests of a schema. Looked up once: to find a series by its labels costs more than to count.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) dispatched: Counter,
    pub(super) executing: Gauge,
    waiting: Gauge,
}

impl Told {
    pub(super) fn of(level: &str, schema: &str) -> Self {
        let labels = [("priority_level", level.to_owned()), ("flow_schema", schema.to_owned())];
        Self {
            dispatched: metrics::counter!("apiserver_flowcontrol_dispatched_requests_total", &labels),
            executing: metrics::gauge!(EXECUTING, &labels),
            waiting: metrics::gauge!(WAITING, &labels),
        }
    }
}

/// A request that is counted until it is dropped.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn begin(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt as _;
    use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
    use serde_json::{Value, json};

    use super::*;
    use crate::authorize::Attributes;
    use crate::identity::Authenticated;
    use balsa_model::kinds::flow_schema::{all_requests, groups};

    /// Rules with levels of their own for the groups of the same name.
    fn rules(levels: &[(&str, Value)]) -> Rules {
        let schemas: Vec<FlowSchema> = levels
            .iter()
            .map(|(name, _)| {
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
                    "matchingPrecedence": 100, "priorityLevelConfiguration": {"name": name},
                    "distinguisherMethod": {"type": "ByUser"}, "rules": all_requests(&groups(&[name]))}}))
                .unwrap()
            })
            .collect();
        let levels: Vec<PriorityLevelConfiguration> = levels
            .iter()
            .map(|(name, limited)| {
                let spec = json!({"type": "Limited", "limited": limited});
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
            })
            .collect();
        Rules::new(schemas.iter(), levels.iter())
    }

    /// A level that queues `waiting` requests of each flow.
    fn level(shares: i32, lendable: i32, borrowing: i32, waiting: i32) -> Value {
        json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "borrowingLimitPercent": borrowing,
            "limitResponse": {"type": "Queue",
                "queuing": {"queues": 10, "handSize": 1, "queueLengthLimit": waiting}},
        })
    }

    fn ticket(rules: &Rules, level: &str, user: &str) -> Ticket {
        let user = Authenticated::impersonated(user, vec![level.to_owned()]);
        let wanted = Attributes { verb: "get".into(), path: "/".into(), ..Attributes::default() };
        rules.classify(&user, &wanted)
    }

    fn seats(wanted: usize, rules: &Rules) -> Seats {
        let seats = Seats::new("mutating", wanted);
        seats.divide(rules);
        seats
    }

    /// Takes a seat that must be there at once.
    fn now(seats: &Seats, ticket: &Ticket) -> Seat {
        seats.take(ticket).now_or_never().expect("there is a seat").ok().unwrap()
    }

    fn must_wait(seats: &Seats, ticket: &Ticket) -> bool {
        seats.take(ticket).now_or_never().is_none()
    }

    #[tokio::test]
    async fn a_level_has_its_part_and_lends_what_it_may() {
        // Of ten seats five are catch-all's, who lends none.
        let rules = rules(&[("a", level(3, 0, 0, 9)), ("b", level(2, 50, 0, 9)), ("c", level(0, 0, 100, 9))]);
        let seats = seats(10, &rules);
        let limits: HashMap<_, _> = seats.limits().into_iter().collect();
        let of = |name: &str| (limits[name].nominal, limits[name].least, limits[name].most);
        assert_eq!((of("a"), of("b"), of("catch-all")), ((3, 3, 3), (2, 1, 2), (5, 5, 10)));
        let (a, b) = (ticket(&rules, "a", "x"), ticket(&rules, "b", "x"));
        let mut held: Vec<Seat> = (0..3).map(|_| now(&seats, &a)).collect();
        assert!(must_wait(&seats, &a), "three are its own, and it borrows none");
        let rest = ticket(&rules, "nobody", "x");
        held.extend((0..6).map(|_| now(&seats, &rest)));
        assert!(seats.take(&rest).await.is_err(), "b keeps one, and there is no queue");
        held.push(now(&seats, &b));
        assert!(must_wait(&seats, &b), "what it has lent comes back when it is given back");
        let mut waits = Box::pin(seats.take(&b));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held.drain(3..4));
        assert!(waits.now_or_never().is_some());
    }

    #[tokio::test]
    async fn seats_go_round_the_flows_and_not_by_who_came_first() {
        let rules = rules(&[("a", level(1, 0, 0, 9))]);
        let seats = seats(6, &rules);
        let held = now(&seats, &ticket(&rules, "a", "first"));
        let mut waiting = ["c", "c", "d"].map(|user| {
            let (seats, ticket) = (seats.clone(), ticket(&rules, "a", user));
            let mut waits = Box::pin(async move { seats.take(&ticket).await.ok().unwrap() });
            assert!(waits.as_mut().now_or_never().is_none());
            waits
        });
        drop(held);
        let first = waiting[0].as_mut().now_or_never();
        assert!(first.is_some() && waiting[1].as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting[1].as_mut().now_or_never().is_none());
        assert!(waiting[2].as_mut().now_or_never().is_some(), "d came last, and is next");
        assert!(waiting[1].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_full_queue_is_told_at_once_and_who_goes_away_makes_room() {
        let rules = rules(&[("a", level(1, 0, 0, 1))]);
        let (seats, a) = (seats(6, &rules), ticket(&rules, "a", "x"));
        let held = now(&seats, &a);
        let mut waits = Box::pin(seats.take(&a));
        assert!(waits.as_mut().now_or_never().is_none());
        let refused = seats.take(&a).await.err().unwrap();
        assert_eq!((refused.reason, refused.retry_after_seconds), (Reason::TooManyRequests, 1));
        drop(waits);
        let mut waits = Box::pin(seats.take(&a));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        // It was given the seat and goes away without having looked: nothing is lost.
        drop(waits);
        let _seat = now(&seats, &a);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let rules = rules(&[("a", level(1, 0, 0, 9))]);
        let (seats, a) = (seats(6, &rules), ticket(&rules, "a", "x"));
        let _held = now(&seats, &a);
        let refused = seats.take(&a).await.err().unwrap();
        assert_eq!(refused.reason, Reason::TooManyRequests);
    }

    #[tokio::test]
    async fn a_level_that_is_gone_ends_with_its_requests_and_one_that_grows_lets_them_in() {
        let small = rules(&[("a", level(1, 0, 0, 9)), ("b", level(1, 0, 0, 9))]);
        let (seats, a, b) = (seats(7, &small), ticket(&small, "a", "x"), ticket(&small, "b", "x"));
        let held = [now(&seats, &a), now(&seats, &b)];
        let mut waits = Box::pin(seats.take(&a));
        assert!(waits.as_mut().now_or_never().is_none());
        seats.divide(&rules(&[("a", level(10, 0, 0, 9))]));
        assert!(waits.now_or_never().is_some());
        assert!(seats.limits().iter().any(|(name, _)| &**name == "b"), "its request goes on");
        drop(held);
        seats.divide(&rules(&[("a", level(10, 0, 0, 9))]));
        assert!(!seats.limits().iter().any(|(name, _)| &**name == "b"));
    }
}
