//! `balsa-loadtest`: measures a cluster from outside, through its REST API with any kubeconfig, so that
//! the same command measures another server too; `etcd-writes` measures raw puts of an etcd beside it.
//!
//! Every scenario prints one line of JSON on standard output; progress goes to standard error.

mod rest;
mod scenarios;
mod summary;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures a cluster.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// How to reach the cluster.
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/balsa/admin.kubeconfig", global = true)]
    kubeconfig: PathBuf,
    /// Namespace in which everything is made; it is created, and deleted at the end.
    #[arg(long, default_value = "loadtest", global = true)]
    namespace: String,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Creates ConfigMaps of 1 KiB for some seconds.
    Writes {
        /// Connections that write at the same time.
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// How long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Puts 1 KiB values into an etcd for some seconds: what `writes` is compared with.
    EtcdWrites {
        /// Where etcd answers, without TLS.
        #[arg(long, default_value = "http://127.0.0.1:2379")]
        endpoint: String,
        /// Connections that write at the same time.
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// How long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Lists pods of 2 KiB that no node runs.
    List {
        /// How many pods.
        #[arg(long, default_value_t = 10_000)]
        pods: usize,
        /// How many lists are timed.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
    /// Time from an acknowledged write to the last of many watchers.
    Watch {
        /// Watchers of one kind in one namespace.
        #[arg(long, default_value_t = 1_000)]
        watchers: usize,
        /// How many writes are timed.
        #[arg(long, default_value_t = 100)]
        writes: usize,
    },
    /// Time from the creation of a pod to Running, one after another.
    PodStart {
        /// How many pods.
        #[arg(long, default_value_t = 50)]
        pods: usize,
        /// An image that every node has.
        #[arg(long, default_value = "phippy:1")]
        image: String,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let line = runtime.block_on(run(cli))?;
    println!("{line}");
    Ok(())
}

async fn run(cli: Cli) -> anyhow::Result<serde_json::Value> {
    if let Scenario::EtcdWrites { endpoint, clients, seconds } = &cli.scenario {
        return scenarios::writes::etcd(endpoint, *clients, *seconds).await;
    }
    let target = rest::Target::from_kubeconfig(&cli.kubeconfig)?;
    let namespace = scenarios::Namespace::create(&target, &cli.namespace).await?;
    let line = match cli.scenario {
        Scenario::Writes { clients, seconds } => {
            scenarios::writes::rest(&target, namespace.name(), clients, seconds).await
        }
        Scenario::List { pods, rounds } => {
            scenarios::list::run(&target, namespace.name(), pods, rounds).await
        }
        Scenario::Watch { watchers, writes } => {
            scenarios::watch::run(&target, namespace.name(), watchers, writes).await
        }
        Scenario::PodStart { pods, image } => {
            scenarios::pod_start::run(&target, namespace.name(), pods, &image).await
        }
        Scenario::EtcdWrites { .. } => anyhow::bail!("handled above"),
    };
    namespace.delete(&target).await?;
    line
}
