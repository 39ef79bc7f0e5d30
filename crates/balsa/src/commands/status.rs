//! `balsa status`: whether the cluster is well, on one screen.

use balsa_client::{Backend as _, ListQuery};
use balsa_model::kind::kind_of;
use balsa_model::selector::Filter;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::connect::{ConnectArgs, Session};
use crate::output::{self, Columns, Printer, Table};

/// Show whether the cluster is well
#[derive(clap::Args)]
#[command(after_help = "Example:\n  balsa status")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let status = session.remote.status().await?;
    let version = session.remote.version().await?;
    let mut table = Table::new(["SERVER", "ID", "ROLE", "TERM", "APPLIED", "REVISION", "VERSION"]);
    table.row([
        session.remote.servers().join(","),
        status.node_id.to_string(),
        status.role,
        status.term.to_string(),
        format!("{}/{}", status.applied_index, status.last_index),
        status.revision.to_string(),
        version.version,
    ]);
    output::print(&table.render(true))?;
    output::print("\n")?;
    let nodes = session.remote.list(kind_of::<Node>(), &ListQuery::matching(Filter::everything())).await?;
    let mut printer = Printer::new(kind_of::<Node>(), Columns::default(), true);
    let now = Timestamp::now();
    nodes.items.iter().for_each(|node| printer.add(node, now));
    output::print(&printer.take())?;
    output::print(&format!("\n{}\n", pods(&session).await?))
}

/// `12 pods: 10 Running, 2 Pending`.
async fn pods(session: &Session) -> anyhow::Result<String> {
    let list = session.remote.list(kind_of::<Pod>(), &ListQuery::matching(Filter::everything())).await?;
    let mut phases = std::collections::BTreeMap::new();
    for object in &list.items {
        let phase = object.typed::<Pod>().and_then(|pod| pod.status.as_ref()?.phase.clone());
        *phases.entry(phase.unwrap_or("Unknown".to_owned())).or_insert(0) += 1;
    }
    let parts: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    Ok(match list.items.len() {
        0 => "no pods".to_owned(),
        count => format!("{count} pods: {}", parts.join(", ")),
    })
}
