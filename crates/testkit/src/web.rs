//! Plain HTTP to pods and services: a single request, and a steady stream of them that counts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of `path` at `address`; every request makes its own connection. Anything but a whole answer
/// with status 200 is an error.
pub fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = ask(address, path).map_err(|error| format!("{address}{path}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(head.to_owned()) }
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How a stream of requests went.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should.
    pub answered: usize,
    /// What went wrong with the others.
    pub failed: Vec<String>,
}

impl Tally {
    /// Panics if a request failed, or if there were so few that it was no load.
    #[track_caller]
    pub fn assert_none_failed(&self) {
        let Self { answered, failed } = self;
        assert!(failed.is_empty(), "{} failed of {}: {failed:?}", failed.len(), answered + failed.len());
        assert!(*answered > 200, "only {answered} requests: that was no load");
    }
}

/// Requests at a steady rate, until stopped.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Tally>>,
}

impl Steady {
    /// Starts asking for `path` at `address`, `rate` times a second.
    pub fn start(address: SocketAddr, path: &'static str, rate: u32) -> Self {
        // Several at it, so that one slow answer does not hold up the rest.
        const WORKERS: u32 = 8;
        let stop = Arc::new(AtomicBool::new(false));
        let period = Duration::from_secs(1) * WORKERS / rate;
        let workers = (0..WORKERS).map(|worker| {
            let stop = stop.clone();
            let first = Instant::now() + period * worker / WORKERS;
            std::thread::spawn(move || ask_steadily(address, path, first, period, &stop))
        });
        let workers = workers.collect();
        Self { stop, workers }
    }

    /// Stops and counts.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for worker in self.workers {
            let tally = worker.join().unwrap();
            sum.answered += tally.answered;
            sum.failed.extend(tally.failed);
        }
        sum
    }
}

fn ask_steadily(
    address: SocketAddr,
    path: &str,
    first: Instant,
    period: Duration,
    stop: &AtomicBool,
) -> Tally {
    let mut tally = Tally::default();
    let mut next = first;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += period;
        match get(address, path) {
            Ok(_) => tally.answered += 1,
            Err(error) => tally.failed.push(error),
        }
    }
    tally
}
