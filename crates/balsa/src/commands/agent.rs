//! `balsa agent`: a node as a process of its own.

use std::time::Duration;

use balsa_agent::HostPorts;
use balsa_rt::Scope;
use balsa_rt::telemetry::install_metrics;

use crate::run::layout::Claim;
use crate::run::{node, stop_signal, up};
use crate::settings::{self, AgentFlags, ConfigFile, LogFlags};

/// Run a node's agent
#[derive(clap::Args)]
#[command(after_help = "The token is needed once; from then on the node has a certificate of its own.\n\n\
    Examples:\n  \
    sudo balsa agent --server 10.0.0.5:6443 --token TOKEN --name worker-1\n  \
    sudo balsa agent --server 10.0.0.5:6443             # again, later")]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentFlags,
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    log: LogFlags,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut flags = args.file.fill(&args.agent)?;
    let token = flags.token.take();
    let settings = flags.resolve()?;
    if args.file.print_config {
        return settings::print(&settings);
    }
    args.file.fill(&args.log)?.install("info");
    // Of the node, not of the data directory: several agents, and a server, may share that.
    let claim = Claim::take(&settings.node_dir())?;
    let runtime = up::docker(settings.docker_host.as_deref()).await?;
    let scope = Scope::new();
    let agent =
        node::start(&settings, token, runtime, HostPorts::default(), install_metrics().ok(), &scope).await?;
    tracing::info!(node = agent.node_name(), "the agent runs");
    stop_signal().await?;
    tracing::info!("stopping; the containers go on running");
    agent.drain().await;
    scope.close(Duration::from_secs(2)).await;
    claim.release(&settings.node_dir());
    Ok(())
}
