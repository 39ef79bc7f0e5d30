//! `balsa server`: a server as a process of its own.

use balsa_rt::Clock;
use balsa_rt::telemetry::install_metrics;
use balsa_server::{Server, ServerConfig};

use crate::run::layout::Claim;
use crate::run::{admin, stop_signal};
use crate::settings::{self, ConfigFile, LogFlags, ServerFlags};

/// Run a server
#[derive(clap::Args)]
#[command(
    after_help = "Options come from flags, then the environment (BALSA_…), then the file of --config.\n\n\
    Examples:\n  \
    sudo balsa server --print-config           # what results from all of them\n  \
    sudo balsa server --port 6443\n  \
    sudo balsa token create                    # and with it, on another machine:\n  \
    sudo balsa agent --server 10.0.0.5:6443 --token TOKEN"
)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerFlags,
    /// Go on alone, as a new cluster with all that this server has: when the majority of its cluster is lost
    /// for good. Refused while a majority answers. For one start, of one survivor
    #[arg(long)]
    force_new_cluster: bool,
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    log: LogFlags,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.file.fill(&args.server)?.resolve();
    if args.file.print_config {
        return settings::print(&settings);
    }
    args.file.fill(&args.log)?.install("info");
    let claim = Claim::take(&settings.data_dir)?;
    let config = ServerConfig { force_new_cluster: args.force_new_cluster, ..settings.config() };
    let server = Server::start(config, Clock::system(), install_metrics().ok()).await?;
    let kubeconfig = admin::write(&settings.data_dir, server.authority(), &settings.local_address())?;
    tracing::info!(address = %server.address(), kubeconfig = %kubeconfig.display(), "the server answers");
    stop_signal().await?;
    tracing::info!("stopping");
    server.shutdown().await?;
    claim.release(&settings.data_dir);
    Ok(())
}
