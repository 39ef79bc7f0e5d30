//! `balsa-loadtest`: measures a cluster from outside, through its public APIs with any kubeconfig, so that
//! the same command measures another server too; `writes --api etcd` measures raw puts of an etcd beside
//! it, and `bench` starts both by turns and writes the tables of `docs/benchmarks.md`.
//!
//! Every scenario prints one line of JSON on standard output; progress goes to standard error.

mod bench;
mod kubeconfig;
mod process;
mod rest;
mod scenarios;
mod summary;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use scenarios::load::Load;
use scenarios::{Namespace, gets, list, objects, patches, pod_start, watch, writes};
use serde_json::Value;

// Its own time is taken from the servers': the allocator is the fast one here, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures a cluster.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    command: Command,
}

/// Which cluster, and where in it.
#[derive(clap::Args, Clone)]
struct Cluster {
    /// How to reach the cluster.
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/balsa/admin.kubeconfig", global = true)]
    kubeconfig: PathBuf,
    /// Namespace in which everything is made; it is created, and deleted at the end.
    #[arg(long, default_value = "loadtest", global = true)]
    namespace: String,
    /// Leaves the namespace with all that was made.
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Runs several scenarios, in their usual sizes, against one cluster.
    Suite {
        /// Which, in this order.
        #[arg(value_enum, default_values_t = [Name::RestWrites, Name::List, Name::Watch])]
        scenarios: Vec<Name>,
    },
    /// Starts Balsa and etcd by turns, measures everything, and prints tables of medians and ratios.
    Bench(bench::Options),
}

#[derive(Subcommand, Clone)]
enum Scenario {
    /// Creates ConfigMaps of 1 KiB for some seconds, or puts as much into an etcd.
    Writes {
        /// Through what.
        #[arg(long, value_enum, default_value_t = Api::Rest)]
        api: Api,
        /// Where etcd answers, without TLS.
        #[arg(long, default_value = "http://127.0.0.1:2379")]
        endpoint: String,
        #[command(flatten)]
        load: Load,
    },
    /// Gets ConfigMaps of 1 KiB for some seconds, or reads as much out of an etcd.
    Gets {
        /// Through what.
        #[arg(long, value_enum, default_value_t = Api::Rest)]
        api: Api,
        /// Where etcd answers, without TLS.
        #[arg(long, default_value = "http://127.0.0.1:2379")]
        endpoint: String,
        /// What the asked server knows will do: serializable, not linearizable.
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        load: Load,
    },
    /// Changes ConfigMaps of 1 KiB for some seconds, each client one of its own.
    Patches {
        /// By server-side apply of the whole object, not by merge patches.
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        load: Load,
    },
    /// Lists pods of 2 KiB that no node runs.
    List(list::Size),
    /// Time from an acknowledged write to the last of many watchers.
    Watch(watch::Size),
    /// What the server's memory grows by for each object.
    Objects(objects::Size),
    /// Time from the creation of a pod to Running, one after another, beside `docker run`.
    PodStart(pod_start::Size),
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Api {
    Rest,
    Grpc,
    /// gRPC, with the calls of many clients in one stream.
    Pipeline,
    Etcd,
}

/// A scenario in its usual size.
#[derive(ValueEnum, Clone, Copy)]
enum Name {
    RestWrites,
    GrpcWrites,
    List,
    Watch,
    PodStart,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match cli.command {
            Command::Scenario(scenario) => print(&run(&cli.cluster, scenario).await?),
            Command::Suite { scenarios } => {
                for name in scenarios {
                    print(&run(&cli.cluster, usual(name)?).await?);
                }
            }
            Command::Bench(options) => bench::run(&options).await?,
        }
        Ok(())
    })
}

fn print(line: &Value) {
    println!("{line}");
}

/// A scenario as the command line would have it without options.
fn usual(name: Name) -> anyhow::Result<Scenario> {
    let line: &[&str] = match name {
        Name::RestWrites => &["writes"],
        Name::GrpcWrites => &["writes", "--api", "grpc"],
        Name::List => &["list"],
        Name::Watch => &["watch"],
        Name::PodStart => &["pod-start"],
    };
    let cli = Cli::try_parse_from([&["balsa-loadtest"], line].concat())?;
    match cli.command {
        Command::Scenario(scenario) => Ok(scenario),
        _ => anyhow::bail!("not a scenario"),
    }
}

/// Runs one scenario: on an etcd, or in a namespace of its own.
async fn run(cluster: &Cluster, scenario: Scenario) -> anyhow::Result<Value> {
    match &scenario {
        Scenario::Writes { api: Api::Etcd, endpoint, load } => {
            writes::etcd(std::slice::from_ref(endpoint), load).await
        }
        Scenario::Gets { api: Api::Etcd, endpoint, stale, load } => {
            gets::prepare_etcd(endpoint).await?;
            gets::etcd(endpoint, *stale, load).await
        }
        _ => run_in_namespace(cluster, scenario).await,
    }
}

async fn run_in_namespace(cluster: &Cluster, scenario: Scenario) -> anyhow::Result<Value> {
    let config = kubeconfig::Kubeconfig::read(&cluster.kubeconfig)?;
    let target = rest::Target::new(&config)?;
    let namespace = Namespace::create(&target, &cluster.namespace).await?;
    let name = namespace.name();
    let line = match &scenario {
        Scenario::Writes { api: Api::Grpc, load, .. } => writes::grpc(&[config], name, load).await,
        Scenario::Writes { api: Api::Pipeline, load, .. } => writes::pipeline(&[config], name, load).await,
        Scenario::Writes { load, .. } => writes::rest(std::slice::from_ref(&target), name, load).await,
        Scenario::Gets { api, stale, load, .. } => {
            gets::prepare(&target, name).await?;
            match api {
                Api::Grpc => gets::grpc(&config, name, *stale, load).await,
                Api::Pipeline => gets::pipeline(&config, name, *stale, load).await,
                _ => gets::rest(&target, name, *stale, load).await,
            }
        }
        Scenario::Patches { apply, load } => patches::rest(&target, name, *apply, load).await,
        Scenario::List(size) => list::run(&target, name, size).await,
        Scenario::Watch(size) => watch::run(&target, name, size).await,
        Scenario::Objects(size) => objects::run(&target, name, size).await,
        Scenario::PodStart(size) => pod_start::run(&target, name, size).await,
    };
    if !cluster.keep {
        namespace.delete(&target).await.context("the scenario's namespace")?;
    }
    line
}
