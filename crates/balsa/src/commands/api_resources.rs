//! `balsa api-resources`: the kinds that the cluster serves.

use balsa_proto::v1::{KindDescription, Resource};

use crate::connect::ConnectArgs;
use crate::output::{self, Table};

/// List the types of objects
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  balsa api-resources\n  balsa api-resources --namespaced=false")]
pub(crate) struct Args {
    /// Only those that are in namespaces, or only those that are not
    #[arg(long, value_name = "BOOL")]
    namespaced: Option<bool>,
    /// Only those of this API group; "" is the core group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let mut table = Table::new(["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    for kind in session.remote.kinds().await? {
        let KindDescription { resource, version, kind, namespaced, short_names, .. } = kind;
        let Resource { group, plural, .. } = resource.unwrap_or_default();
        let wanted = args.namespaced.is_none_or(|n| n == namespaced)
            && args.api_group.as_ref().is_none_or(|g| *g == group);
        if wanted {
            let api = if group.is_empty() { version } else { format!("{group}/{version}") };
            table.row([plural, short_names.join(","), api, namespaced.to_string(), kind]);
        }
    }
    output::print(&table.render(!args.no_headers))
}
