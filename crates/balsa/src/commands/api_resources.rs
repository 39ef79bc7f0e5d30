//! `balsa api-resources`: the kinds that the cluster serves.

use balsa_proto::v1::{KindDescription, Resource};

use crate::connect::ConnectArgs;
use crate::output::{self, Table};

/// List the types of objects
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa api-resources\n  \
    balsa api-resources --namespaced=false\n  \
    balsa api-resources --verbs=list,watch --categories=all --sort-by=kind\n  \
    balsa api-resources --api-group=apps -o wide   # with what may be done to them")]
pub(crate) struct Args {
    /// Only those that are in namespaces, or only those that are not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only those of this API group; "" is the core group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only those to which all of these may be done, like list,watch
    #[arg(long, value_name = "VERBS", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only those of all of these categories, like all
    #[arg(long, value_name = "CATEGORIES", value_delimiter = ',')]
    categories: Vec<String>,
    /// In the order of their names or of their kinds; else by API group
    #[arg(long, value_name = "COLUMN", value_parser = ["name", "kind"])]
    sort_by: Option<String>,
    /// wide: verbs and categories too; name: only names
    #[arg(short, long, value_name = "FORMAT", value_parser = ["wide", "name"])]
    output: Option<String>,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let kinds = session.remote.kinds().await?.into_iter().map(|mut kind| {
        let Resource { group, plural, .. } = kind.resource.take().unwrap_or_default();
        (group, plural, kind)
    });
    let mut kinds: Vec<(String, String, KindDescription)> = kinds
        .filter(|(group, _, kind)| {
            args.namespaced.is_none_or(|wanted| wanted == kind.namespaced)
                && args.api_group.as_ref().is_none_or(|wanted| wanted == group)
                && args.verbs.iter().all(|wanted| kind.verbs.contains(wanted))
                && args.categories.iter().all(|wanted| kind.categories.contains(wanted))
        })
        .collect();
    kinds.sort_by(|(a_group, a, _), (b_group, b, _)| (a_group, a).cmp(&(b_group, b)));
    // Those of one name stay in the order of their groups.
    match args.sort_by.as_deref() {
        Some("name") => kinds.sort_by(|(_, a, _), (_, b, _)| a.cmp(b)),
        Some(_) => kinds.sort_by(|(.., a), (.., b)| a.kind.cmp(&b.kind)),
        None => {}
    }
    if args.output.as_deref() == Some("name") {
        let name = |group: &str, plural: &str| match group {
            "" => format!("{plural}\n"),
            _ => format!("{plural}.{group}\n"),
        };
        return output::print(
            &kinds.iter().map(|(group, plural, _)| name(group, plural)).collect::<String>(),
        );
    }
    let wide = args.output.is_some();
    let headings = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
    let shown = if wide { headings.len() } else { headings.len() - 2 };
    let mut table = Table::new(headings.into_iter().take(shown));
    for (group, plural, kind) in kinds {
        let KindDescription { version, kind, namespaced, short_names, categories, verbs, .. } = kind;
        let api = if group.is_empty() { version } else { format!("{group}/{version}") };
        let (short, verbs, categories) = (short_names.join(","), verbs.join(","), categories.join(","));
        let row = [plural, short, api, namespaced.to_string(), kind, verbs, categories];
        table.row(row.into_iter().take(shown));
    }
    output::print(&table.render(!args.no_headers))
}
