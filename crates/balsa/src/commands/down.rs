//! `balsa down`: removes a cluster from this machine.

use std::path::PathBuf;

use balsa_rt::telemetry::{LogFormat, install_logs};

use crate::output;
use crate::run::down;
use crate::run::progress::Progress;

/// Stop the cluster on this machine and remove all that it made
#[derive(clap::Args)]
#[command(
    after_help = "What is removed: the process, containers, networks, firewall rules, and the files in the data\n\
    directory. What stays: the data of volumes that are to be retained, and all that Balsa has not made.\n\n\
    Example:\n  sudo balsa down"
)]
pub(crate) struct Args {
    /// Where the cluster keeps everything [default: /var/lib/balsa, or ~/.balsa for users]
    #[arg(long, value_name = "DIR", env = "BALSA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "HOST", env = "BALSA_DOCKER_HOST")]
    docker_host: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // The server that is started for a moment, to be asked, ends in the middle of things.
    install_logs("error,openraft=off", LogFormat::Text);
    let directory = std::path::absolute(args.data_dir.unwrap_or_else(output::data_dir))?;
    let progress = Progress::new();
    down::run(&directory, args.docker_host.as_deref(), &progress).await
}
