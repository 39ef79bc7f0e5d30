//! The whole comparison in one run: Balsa and etcd are started by turns on the same disk, never both at a
//! time, every round on fresh data; medians over the rounds go into tables.

mod servers;
mod tables;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::resident;
use crate::scenarios::{list, objects, pod_start, watch, writes};
use crate::{Api, Cluster, Scenario};
use servers::{Balsa, Etcd};

/// How much is measured, and with what.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// The program.
    #[arg(long, default_value = "target/release/balsa")]
    balsa: PathBuf,
    /// etcd's program.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where the servers keep their data: the disk that is measured. Emptied.
    #[arg(long, default_value = "/var/tmp/balsa-bench")]
    work_dir: PathBuf,
    /// First of the five ports that are used.
    #[arg(long, default_value_t = 7140)]
    port: u16,
    /// How often everything is done.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each write load lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of clients that write.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    clients: Vec<usize>,
    /// HTTP/2 connections that gRPC clients share, of Balsa and of etcd.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Writes, Part::Reads, Part::Node])]
    parts: Vec<Part>,
    /// A Markdown file whose tables are replaced; else they are printed.
    #[arg(long)]
    update: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Writes through REST and gRPC, and etcd's puts.
    Writes,
    /// Lists, watchers, memory of objects.
    Reads,
    /// What needs Docker: start, memory with the demo, pod starts.
    Node,
}

/// After the demo has come up: until what only starting needed has been given back.
const IDLE: Duration = Duration::from_secs(30);

/// Measures, and writes the tables.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.work_dir)?;
    let machine = tables::machine(&options.work_dir, &options.etcd)?;
    let mut bench = Bench { options, lines: Vec::new() };
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}, load {}", options.rounds, tables::load());
        if options.parts.contains(&Part::Writes) {
            bench.balsa_writes().await?;
            bench.etcd_writes().await?;
        }
        if options.parts.contains(&Part::Reads) {
            bench.reads().await?;
        }
        if options.parts.contains(&Part::Node) {
            bench.node().await?;
        }
    }
    tables::publish(&machine, &bench.lines, options.update.as_deref())
}

struct Bench<'a> {
    options: &'a Options,
    lines: Vec<Value>,
}

impl Bench<'_> {
    fn note(&mut self, line: Value) {
        eprintln!("{line}");
        self.lines.push(line);
    }

    fn load(&self, clients: usize, pid: u32) -> writes::Load {
        let (connections, seconds) = (Some(self.options.connections), self.options.seconds);
        writes::Load { clients, connections, seconds, pid: Some(pid) }
    }

    async fn measure(&mut self, balsa: &Balsa, scenario: Scenario) -> anyhow::Result<()> {
        let number = self.lines.len();
        let cluster = Cluster {
            kubeconfig: balsa.kubeconfig(),
            namespace: format!("loadtest-{number}"),
            // The data goes with the server.
            keep: true,
        };
        let line = crate::run(&cluster, scenario).await?;
        self.note(line);
        Ok(())
    }

    async fn balsa_writes(&mut self) -> anyhow::Result<()> {
        for api in [Api::Rest, Api::Grpc] {
            let balsa = Balsa::start(self.options, 0).await?;
            for clients in self.options.clients.clone() {
                let load = self.load(clients, balsa.pid);
                let scenario = Scenario::Writes { api, endpoint: String::new(), load };
                self.measure(&balsa, scenario).await?;
            }
            balsa.stop().await?;
        }
        Ok(())
    }

    /// With connections as gRPC has them, and with one each, as REST has them.
    async fn etcd_writes(&mut self) -> anyhow::Result<()> {
        for shared in [false, true] {
            let etcd = Etcd::start(self.options).await?;
            for clients in self.options.clients.clone() {
                let mut load = self.load(clients, etcd.pid);
                load.connections = load.connections.filter(|_| shared);
                let mut line = writes::etcd(&etcd.endpoint, &load).await?;
                line["shared"] = shared.into();
                self.note(line);
            }
            etcd.stop().await?;
        }
        Ok(())
    }

    async fn reads(&mut self) -> anyhow::Result<()> {
        let balsa = Balsa::start(self.options, 0).await?;
        self.measure(&balsa, Scenario::Watch(watch::Size { watchers: 1_000, writes: 100 })).await?;
        self.measure(&balsa, Scenario::List(list::Size { pods: 10_000, rounds: 20, pid: Some(balsa.pid) }))
            .await?;
        balsa.stop().await?;
        for as_pods in [false, true] {
            let balsa = Balsa::start(self.options, 0).await?;
            let size = objects::Size { objects: 20_000, as_pods, pid: Some(balsa.pid) };
            self.measure(&balsa, Scenario::Objects(size)).await?;
            balsa.stop().await?;
        }
        Ok(())
    }

    async fn node(&mut self) -> anyhow::Result<()> {
        let balsa = Balsa::start(self.options, 1).await?;
        self.note(json!({"scenario": "start", "seconds": balsa.ready_after.as_secs_f64()}));
        balsa.tell_the_demo().await?;
        tokio::time::sleep(IDLE).await;
        let resident = resident(balsa.pid)?;
        self.note(json!({
            "scenario": "idle", "resident_mib": resident.all as f64 / 1024.0, "own_mib": resident.own as f64 / 1024.0,
        }));
        let size = pod_start::Size { pods: 50, image: "phippy:1".to_owned() };
        self.measure(&balsa, Scenario::PodStart(size)).await?;
        balsa.stop().await
    }
}
