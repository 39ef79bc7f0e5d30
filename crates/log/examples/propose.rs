//! Proposals a second of one server, by number of clients that each wait for their reply.
//!
//! `cargo run --release -p balsa-log --example propose -- [directory] [seconds]`

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use balsa_log::{
    Bytes, Committed, Log, LogConfig, LogIndex, StateMachine, StateMachineError, Table, TableBatch, Tables,
    TransportConfig, async_trait,
};
use balsa_rt::TaskKind;

const PAYLOAD: usize = 1024;

/// Puts every payload into the tables, as the real one does with objects.
struct Keeper;

#[async_trait]
impl StateMachine for Keeper {
    async fn restore(&mut self, _: &Tables, _: Option<LogIndex>) -> Result<(), StateMachineError> {
        Ok(())
    }

    async fn apply(&mut self, entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes> {
        for entry in &entries {
            batch.put(Table::Objects, entry.index.0.to_be_bytes().to_vec(), entry.payload.clone());
        }
        entries.iter().map(|_| Bytes::from_static(b"done")).collect()
    }

    async fn publish(&mut self, _: LogIndex) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::tempdir()?;
    let dir = arguments.next().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let seconds: u64 = arguments.next().map_or(Ok(5), |seconds| seconds.parse())?;
    let log = Log::open(LogConfig::new(dir, 1, "localhost:0"), Keeper, TransportConfig::plain()).await?;
    log.initialize().await?;
    log.leadership().wait_for(|now| now.is_leader).await?;
    println!("{:>8} {:>12} {:>10} {:>10}", "clients", "proposals/s", "p50 ms", "p99 ms");
    for clients in [1, 16, 64, 256] {
        let mut latencies = measure(&log, clients, Duration::from_secs(seconds)).await?;
        latencies.sort_unstable();
        let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_secs_f64() * 1000.0;
        let rate = latencies.len() as f64 / seconds as f64;
        println!("{clients:>8} {rate:>12.0} {:>10.2} {:>10.2}", quantile(0.5), quantile(0.99));
    }
    log.shutdown().await?;
    Ok(())
}

/// Each client proposes, waits, and proposes again; how long each proposal took.
async fn measure(log: &Log, clients: usize, duration: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    let end = Instant::now() + duration;
    let payload = Bytes::from(vec![0x5a; PAYLOAD]);
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (log, payload) = (log.clone(), payload.clone());
            balsa_rt::spawn(TaskKind::Helper, async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let started = Instant::now();
                    log.propose(payload.clone()).await?;
                    latencies.push(started.elapsed());
                }
                Ok::<_, balsa_log::ProposeError>(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await?.ok_or("a client panicked")??);
    }
    Ok(all)
}
