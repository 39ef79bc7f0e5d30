//! `balsa up`: a cluster on this machine.

use serde::{Deserialize, Serialize};

use crate::run::detach;
use crate::run::layout;
use crate::run::progress::Progress;
use crate::run::up::{self, Up};
use crate::settings::{self, ConfigFile, LogFlags, ServerFlags};

/// Start a cluster on this machine: a server, and nodes on its Docker
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    sudo balsa up                    # one node; Ctrl-C stops it, the containers go on\n  \
    sudo balsa up --nodes 3 --detach # three nodes, in the background\n  \
    sudo balsa up --servers 3        # three servers, any of which may fail\n  \
    sudo balsa down                  # and all is gone")]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    nodes: NodeFlags,
    /// Go on in the background, once the cluster is ready
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(clap::Args, Serialize, Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
struct NodeFlags {
    /// How many servers, each a process of its own if there are several [default: 1]
    #[arg(long, value_name = "N", env = "BALSA_SERVERS", value_parser = clap::value_parser!(u32).range(1..=9))]
    servers: Option<u32>,
    /// How many nodes; 0: only the server [default: 1]
    #[arg(long, value_name = "N", env = "BALSA_NODES")]
    nodes: Option<u32>,
    /// Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "HOST", env = "BALSA_DOCKER_HOST")]
    docker_host: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let server = args.file.fill(&args.server)?;
    let ranges = server.ranges();
    let server = server.resolve();
    let nodes = args.file.fill(&args.nodes)?;
    if args.file.print_config {
        settings::print(&server)?;
        let servers = Some(nodes.servers.unwrap_or(1));
        return settings::print(&NodeFlags { servers, nodes: Some(nodes.nodes.unwrap_or(1)), ..nodes });
    }
    let up = Up {
        log: args.file.fill(&args.log)?,
        server,
        ranges,
        servers: nodes.servers.unwrap_or(1),
        nodes: nodes.nodes.unwrap_or(1),
        docker_host: nodes.docker_host,
    };
    if args.detach {
        let progress = Progress::new();
        detach::start(&up.server.data_dir, &progress).await?;
        progress.finish();
        crate::output::tell_part(up::guide(&up, true));
        return Ok(());
    }
    let background = detach::is_background();
    up.log.install(if background { "info" } else { "warn" });
    let progress = if background {
        Progress::into_file(&up.server.data_dir.join(layout::PROGRESS))?
    } else {
        Progress::new()
    };
    up::run(up, progress).await
}
