//! Fair shares of this server: requests of one user wait for those of the same user, not for everybody's.
//!
//! A request takes a seat while it is worked on; reads and writes have seats of their own, so that writes
//! that wait for a leader do not keep reads from being answered. One user may have half of the seats. Whoever
//! finds none waits in the queue of their user, and seats that become free go round these queues. A queue
//! that is full, and a wait that is too long, end in 429. Watches have no seat while they last; they are
//! counted instead.
//!
//! Not asked for a seat: administrators (`system:masters`), the servers and their own parts, health and
//! metrics. Invariant: seats taken and seats free add up to all seats, whoever goes away when.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use balsa_model::{Failure, Reason};
use tokio::sync::oneshot;

use crate::authorize::MASTERS;
use crate::identity::Authenticated;

/// How long a request may wait for a seat.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests of one user that may wait: at a millisecond each they are through in a second.
const QUEUE: usize = 1000;
/// The part of the seats, and of the watches, that one user may have.
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
pub(crate) struct Fairness {
    reads: Seats,
    writes: Seats,
    watches: Watches,
}

impl Fairness {
    pub(crate) fn new(limits: Limits) -> Self {
        describe();
        Self {
            reads: Seats::new("readOnly", limits.reads, QUEUE),
            writes: Seats::new("mutating", limits.writes, QUEUE),
            watches: Watches { limit: limits.watches, held: Arc::default() },
        }
    }

    /// A seat for a request of `user`; `None` for whom there is always room.
    ///
    /// # Errors
    /// When too many requests of that user wait already, or it has waited too long.
    pub(crate) async fn seat(&self, user: &Authenticated, sort: Sort) -> Result<Option<Seat>, Failure> {
        if user.is_in(MASTERS) {
            return Ok(None);
        }
        let seats = if sort == Sort::Read { &self.reads } else { &self.writes };
        seats.take(user.user()).await.map(Some)
    }

    /// Counts a watch of `user` for as long as the answer lives.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn watch(&self, user: &Authenticated) -> Result<Option<Watching>, Failure> {
        if user.is_in(MASTERS) {
            return Ok(None);
        }
        self.watches.take(user.user()).map(Some)
    }
}

fn describe() {
    metrics::describe_gauge!("apiserver_current_inflight_requests", "Requests that have a seat, by kind");
    metrics::describe_gauge!("apiserver_current_inqueue_requests", "Requests that wait for a seat, by kind");
    metrics::describe_counter!(
        "apiserver_flowcontrol_rejected_requests_total",
        "Requests that were answered with 429, by reason"
    );
    metrics::describe_histogram!(
        "apiserver_flowcontrol_request_wait_duration_seconds",
        metrics::Unit::Seconds,
        "How long requests waited for a seat that had to wait"
    );
    metrics::describe_gauge!("balsa_watches", "Watches of clients on this server");
}

fn rejected(reason: &'static str, message: String) -> Failure {
    metrics::counter!("apiserver_flowcontrol_rejected_requests_total", "reason" => reason).increment(1);
    Failure::new(Reason::TooManyRequests, message).retry_after(1)
}

/// The seats for requests of one sort.
#[derive(Clone)]
struct Seats(Arc<Room>);

struct Room {
    /// Kubernetes' word for the sort.
    kind: &'static str,
    /// Seats that one user may have.
    share: usize,
    /// Requests of one user that may wait.
    queue: usize,
    state: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    free: usize,
    held: HashMap<Arc<str>, usize>,
    /// No queue is empty.
    queues: HashMap<Arc<str>, VecDeque<oneshot::Sender<Seat>>>,
    /// Whose turn it is: everybody with a queue, once.
    turns: VecDeque<Arc<str>>,
}

/// The right to be worked on; given back when it is dropped.
pub(crate) struct Seat {
    /// `None` once it is given back.
    room: Option<Arc<Room>>,
    user: Arc<str>,
}

impl Seats {
    fn new(kind: &'static str, seats: usize, queue: usize) -> Self {
        let share = (seats / SHARE).max(1);
        let state = Mutex::new(Taken { free: seats, ..Taken::default() });
        Self(Arc::new(Room { kind, share, queue, state }))
    }

    async fn take(&self, user: &Arc<str>) -> Result<Seat, Failure> {
        let waiter = match self.0.try_take(user)? {
            Ok(()) => return Ok(Seat { room: Some(self.0.clone()), user: user.clone() }),
            Err(waiter) => waiter,
        };
        let started = Instant::now();
        let seat = tokio::time::timeout(PATIENCE, waiter).await;
        metrics::histogram!("apiserver_flowcontrol_request_wait_duration_seconds").record(started.elapsed());
        match seat {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(rejected(
                "time-out",
                format!(
                    "the requests of user \"{user}\" are too many: this one has waited in vain; try again later"
                ),
            )),
        }
    }
}

impl Room {
    fn state(&self) -> MutexGuard<'_, Taken> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat at once, or the place in the queue.
    fn try_take(&self, user: &Arc<str>) -> Result<Result<(), oneshot::Receiver<Seat>>, Failure> {
        let mut state = self.state();
        let held = state.held.get(user).copied().unwrap_or(0);
        if state.free > 0 && held < self.share {
            state.sit(user);
            self.tell(&state);
            return Ok(Ok(()));
        }
        let queue = state.queues.entry(user.clone()).or_default();
        // Those who went away make room.
        queue.retain(|waiter| !waiter.is_closed());
        if queue.len() >= self.queue {
            return Err(rejected(
                "queue-full",
                format!("too many requests of user \"{user}\" wait already; try again later"),
            ));
        }
        let (sender, receiver) = oneshot::channel();
        queue.push_back(sender);
        if !state.turns.contains(user) {
            state.turns.push_back(user.clone());
        }
        self.tell(&state);
        Ok(Err(receiver))
    }

    fn give_back(self: &Arc<Self>, user: &Arc<str>) {
        let mut state = self.state();
        state.stand_up(user);
        while let Some((next, waiter)) = state.next(self.share) {
            let seat = Seat { room: Some(self.clone()), user: next.clone() };
            state.sit(&next);
            if let Err(mut unwanted) = waiter.send(seat) {
                unwanted.room = None;
                state.stand_up(&next);
                continue;
            }
            if state.free == 0 {
                break;
            }
        }
        self.tell(&state);
    }

    fn tell(&self, state: &Taken) {
        let taken: usize = state.held.values().sum();
        let waiting: usize = state.queues.values().map(VecDeque::len).sum();
        metrics::gauge!("apiserver_current_inflight_requests", "request_kind" => self.kind).set(taken as f64);
        metrics::gauge!("apiserver_current_inqueue_requests", "request_kind" => self.kind)
            .set(waiting as f64);
    }
}

impl Taken {
    fn sit(&mut self, user: &Arc<str>) {
        self.free -= 1;
        *self.held.entry(user.clone()).or_default() += 1;
    }

    fn stand_up(&mut self, user: &Arc<str>) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(user) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(user);
            }
        }
    }

    /// The next one to get a seat that is free, of the users who have less than their share.
    fn next(&mut self, share: usize) -> Option<(Arc<str>, oneshot::Sender<Seat>)> {
        if self.free == 0 {
            return None;
        }
        for _ in 0..self.turns.len() {
            let user = self.turns.pop_front()?;
            if self.held.get(&user).is_some_and(|held| *held >= share) {
                self.turns.push_back(user);
                continue;
            }
            let waiter = self.queues.get_mut(&user).and_then(VecDeque::pop_front);
            if self.queues.get(&user).is_some_and(|queue| !queue.is_empty()) {
                self.turns.push_back(user.clone());
            } else {
                self.queues.remove(&user);
            }
            if let Some(waiter) = waiter {
                return Some((user, waiter));
            }
        }
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            room.give_back(&self.user);
        }
    }
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
            return Err(rejected("watches", why));
        }
        if all >= self.limit {
            let why = format!("this server has {all} watches, and takes no more; ask another one");
            return Err(rejected("watches", why));
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
    use futures::FutureExt as _;

    use super::*;

    fn user(name: &str) -> Arc<str> {
        name.into()
    }

    /// Takes a seat that must be there at once.
    fn now(seats: &Seats, name: &str) -> Seat {
        seats.take(&user(name)).now_or_never().expect("there is a seat").unwrap()
    }

    #[tokio::test]
    async fn one_user_has_half_of_the_seats_and_others_the_rest() {
        let seats = Seats::new("mutating", 4, 10);
        let _noisy = [now(&seats, "noisy"), now(&seats, "noisy")];
        assert!(seats.take(&user("noisy")).now_or_never().is_none());
        let _quiet = now(&seats, "quiet");
    }

    #[tokio::test]
    async fn seats_go_round_the_users_and_not_by_who_came_first() {
        let seats = Seats::new("mutating", 2, 10);
        let (a, b) = (now(&seats, "a"), now(&seats, "b"));
        let mut waiting = ["c", "c", "c", "d"].map(|name| {
            let (seats, name) = (seats.clone(), user(name));
            let mut waits = Box::pin(async move { seats.take(&name).await.unwrap() });
            assert!(waits.as_mut().now_or_never().is_none());
            waits
        });
        drop((a, b));
        let first = waiting[0].as_mut().now_or_never();
        assert!(first.is_some());
        assert!(waiting[1].as_mut().now_or_never().is_none(), "c has its share");
        assert!(waiting[3].as_mut().now_or_never().is_some(), "d came last, and is next");
        drop(first);
        assert!(waiting[1].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_full_queue_is_told_at_once_and_who_goes_away_makes_room() {
        let seats = Seats::new("mutating", 2, 1);
        let held = now(&seats, "a");
        let a = user("a");
        let mut waits = Box::pin(seats.take(&a));
        assert!(waits.as_mut().now_or_never().is_none());
        let refused = seats.take(&user("a")).await.err().unwrap();
        assert_eq!((refused.reason, refused.retry_after_seconds), (Reason::TooManyRequests, 1));
        drop(waits);
        let mut waits = Box::pin(seats.take(&a));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        // It was given the seat and goes away without having looked: nothing is lost.
        drop(waits);
        let _all = [now(&seats, "a"), now(&seats, "b")];
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let seats = Seats::new("mutating", 2, 10);
        let _held = now(&seats, "a");
        let refused = seats.take(&user("a")).await.err().unwrap();
        assert_eq!(refused.reason, Reason::TooManyRequests);
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
