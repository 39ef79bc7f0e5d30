//! The whole comparison in one run: Balsa and etcd are started by turns on the same disk, never both at a
//! time, every round on fresh data; medians over the rounds go into tables.

mod kubernetes;
mod servers;
mod tables;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kubeconfig::Kubeconfig;
use crate::process::resident;
use crate::rest::Target;
use crate::scenarios::Namespace;
use crate::scenarios::load::Load;
use crate::scenarios::{fanout, gets, list, objects, pod_start, watch, writes};
use crate::{Api, Cluster, Scenario};
use servers::{Balsa, Etcd, Servers};

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
    /// First of the ten ports that are used.
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
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Writes, Part::Gets, Part::Reads, Part::Fanout, Part::Servers, Part::Many, Part::Node])]
    parts: Vec<Part>,
    /// Starts and stops a Kubernetes control plane to be measured beside Balsa (part `kubernetes`): `SCRIPT up` ends
    /// with the path of its kubeconfig, `SCRIPT status` names its processes (`… pid N …`, one a line), `SCRIPT wipe`
    /// stops it and forgets its data.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// A Markdown file whose tables are replaced; else they are printed.
    #[arg(long)]
    update: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Writes through REST and gRPC, and etcd's puts.
    Writes,
    /// Reads of single objects, and etcd's.
    Gets,
    /// Lists, watchers, memory of objects.
    Reads,
    /// Many watches of everything, and etcd's.
    Fanout,
    /// Writes and reads on three servers, and on three members of etcd.
    Servers,
    /// A server with 100,000 objects: its memory, its start, and another server that joins it.
    Many,
    /// What a Kubernetes control plane does, beside one; needs `--peer`.
    Kubernetes,
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
        if options.parts.contains(&Part::Gets) {
            bench.gets().await?;
        }
        if options.parts.contains(&Part::Reads) {
            bench.reads().await?;
        }
        if options.parts.contains(&Part::Fanout) {
            bench.fanout().await?;
        }
        if options.parts.contains(&Part::Servers) {
            bench.balsa_servers().await?;
            bench.etcd_members().await?;
        }
        if options.parts.contains(&Part::Many) {
            bench.many().await?;
        }
        if options.parts.contains(&Part::Kubernetes) {
            bench.beside_kubernetes().await?;
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

    fn load(&self, clients: usize, pids: &[u32]) -> Load {
        let (connections, seconds) = (Some(self.options.connections), self.options.seconds);
        Load { clients, connections, seconds, pids: pids.to_owned() }
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
        for api in [Api::Rest, Api::Grpc, Api::Pipeline] {
            let balsa = Balsa::start(self.options, 0).await?;
            for clients in self.options.clients.clone() {
                let load = self.load(clients, &[balsa.pid]);
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
            let etcd = Etcd::start(self.options, 1).await?;
            for clients in self.options.clients.clone() {
                let mut load = self.load(clients, &etcd.pids);
                load.connections = load.connections.filter(|_| shared);
                let mut line = writes::etcd(&etcd.endpoints, &load).await?;
                line["shared"] = shared.into();
                self.note(line);
            }
            etcd.stop().await?;
        }
        Ok(())
    }

    /// Reads through REST and gRPC, and etcd's with as many connections as either has.
    async fn gets(&mut self) -> anyhow::Result<()> {
        let balsa = Balsa::start(self.options, 0).await?;
        for api in [Api::Rest, Api::Grpc, Api::Pipeline] {
            for stale in [false, true] {
                for clients in self.options.clients.clone() {
                    let load = self.load(clients, &[balsa.pid]);
                    self.measure(&balsa, Scenario::Gets { api, endpoint: String::new(), stale, load })
                        .await?;
                }
            }
        }
        balsa.stop().await?;
        let etcd = Etcd::start(self.options, 1).await?;
        gets::prepare_etcd(&etcd.endpoints[0]).await?;
        for (shared, stale) in [(false, false), (false, true), (true, false), (true, true)] {
            for clients in self.options.clients.clone() {
                let mut load = self.load(clients, &etcd.pids);
                load.connections = load.connections.filter(|_| shared);
                let mut line = gets::etcd(&etcd.endpoints[0], stale, &load).await?;
                line["shared"] = shared.into();
                self.note(line);
            }
        }
        etcd.stop().await
    }

    /// One writer, and watches of everything or of an object each.
    async fn fanout(&mut self) -> anyhow::Result<()> {
        for (watches, apart) in [(1_000, false), (10_000, false), (1_000, true), (10_000, true)] {
            let mut size =
                fanout::Size { watches, apart, shared: false, seconds: self.options.seconds, pid: 0 };
            // With an object each there is nothing to share.
            for shared in if apart { &[false][..] } else { &[false, true] } {
                let balsa = Balsa::start(self.options, 0).await?;
                let config = Kubeconfig::read(&balsa.kubeconfig())?;
                let namespace = Namespace::create(&Target::new(&config)?, "loadtest").await?;
                (size.shared, size.pid) = (*shared, balsa.pid);
                let line = fanout::grpc(&config, namespace.name(), &size).await?;
                self.note(line);
                balsa.stop().await?;
            }
            let etcd = Etcd::start(self.options, 1).await?;
            size.pid = etcd.pids[0];
            let line = fanout::etcd(&etcd.endpoints[0], &size).await?;
            self.note(line);
            etcd.stop().await?;
        }
        Ok(())
    }

    /// Three servers: writes through all of them, reads from the leader and from a follower.
    async fn balsa_servers(&mut self) -> anyhow::Result<()> {
        let cluster = Servers::start(self.options).await?;
        let leader = Target::new(&cluster.configs[0])?;
        let namespace = Namespace::create(&leader, "loadtest").await?;
        let name = namespace.name();
        gets::prepare(&leader, name).await?;
        let targets = cluster.configs.iter().map(Target::new).collect::<anyhow::Result<Vec<_>>>()?;
        for clients in self.options.clients.clone() {
            let load = self.load(clients, &cluster.pids);
            // Every load makes the same names.
            let written = Namespace::create(&leader, &format!("loadtest-{clients}")).await?;
            self.of_three("all", writes::rest(&targets, written.name(), &load).await?);
            for (place, server, stale) in
                [("leader", 0, false), ("follower", 1, false), ("follower", 1, true)]
            {
                let config = &cluster.configs[server];
                self.of_three(place, gets::grpc(config, name, stale, &load).await?);
                self.of_three(place, gets::pipeline(config, name, stale, &load).await?);
            }
        }
        cluster.stop().await?;
        for in_streams in [false, true] {
            // Empty again, as it was for those through REST.
            let cluster = Servers::start(self.options).await?;
            let leader = Target::new(&cluster.configs[0])?;
            for clients in self.options.clients.clone() {
                let load = self.load(clients, &cluster.pids);
                let written = Namespace::create(&leader, &format!("loadtest-{clients}")).await?;
                let (configs, name) = (&cluster.configs, written.name());
                let line = match in_streams {
                    false => writes::grpc(configs, name, &load).await?,
                    true => writes::pipeline(configs, name, &load).await?,
                };
                self.of_three("all", line);
            }
            cluster.stop().await?;
        }
        Ok(())
    }

    /// The same of three members of etcd.
    async fn etcd_members(&mut self) -> anyhow::Result<()> {
        let etcd = Etcd::start(self.options, 3).await?;
        gets::prepare_etcd(&etcd.endpoints[0]).await?;
        let leader = etcd.leader().await?;
        for clients in self.options.clients.clone() {
            for shared in [false, true] {
                let mut load = self.load(clients, &etcd.pids);
                load.connections = load.connections.filter(|_| shared);
                let mut line = writes::etcd(&etcd.endpoints, &load).await?;
                line["shared"] = shared.into();
                self.of_three("all", line);
            }
            let load = self.load(clients, &etcd.pids);
            let follower = (leader + 1) % 3;
            for (place, member) in [("leader", leader), ("follower", follower)] {
                self.of_three(place, gets::etcd(&etcd.endpoints[member], false, &load).await?);
            }
            self.of_three("follower", gets::etcd(&etcd.endpoints[follower], true, &load).await?);
        }
        etcd.stop().await
    }

    fn of_three(&mut self, place: &str, mut line: Value) {
        line["servers"] = 3.into();
        line["place"] = place.into();
        self.note(line);
    }

    /// What many objects cost: memory, a start, another server.
    async fn many(&mut self) -> anyhow::Result<()> {
        let mut balsa = Balsa::start(self.options, 0).await?;
        let size = objects::Size { objects: 50_000, as_pods: false, pid: Some(balsa.pid) };
        self.measure(&balsa, Scenario::Objects(size)).await?;
        let restarted = balsa.restart().await?;
        let resident = resident(balsa.pid)?;
        let joined = balsa.another(self.options).await?;
        self.note(json!({
            "scenario": "many", "restart_seconds": restarted.as_secs_f64(),
            "resident_mib": resident.own as f64 / 1024.0, "join_seconds": joined.as_secs_f64(),
        }));
        balsa.stop().await
    }

    async fn reads(&mut self) -> anyhow::Result<()> {
        let balsa = Balsa::start(self.options, 0).await?;
        self.measure(
            &balsa,
            Scenario::Watch(watch::Size { watchers: 1_000, writes: 100, connections: None }),
        )
        .await?;
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
