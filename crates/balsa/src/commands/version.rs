//! `balsa version`: of this program and of the cluster.

use balsa_model::KUBERNETES_VERSION;
use serde_json::json;

use crate::connect::ConnectArgs;
use crate::output::{self, Format};

/// Show versions
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  balsa version\n  balsa version --client -o json")]
pub(crate) struct Args {
    /// Only of this program; no cluster is asked
    #[arg(long)]
    client: bool,
    /// yaml or json
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let (major, minor, patch) = KUBERNETES_VERSION;
    let own = env!("CARGO_PKG_VERSION");
    let mut value = json!({"client": {"version": own, "kubernetes": format!("v{major}.{minor}.{patch}")}});
    let mut text = format!("Client: balsa {own} (Kubernetes API v{major}.{minor}.{patch})\n");
    if !args.client {
        let server = args.connect.open()?.remote.version().await?;
        text.push_str(&format!(
            "Server: balsa {} (Kubernetes API {}, {})\n",
            server.version, server.kubernetes_version, server.platform
        ));
        value["server"] = json!({"version": server.version, "kubernetes": server.kubernetes_version,
            "commit": server.commit, "platform": server.platform});
    }
    match &args.output {
        Some(format) => output::print(&format.render(&value)?),
        None => output::print(&text),
    }
}
