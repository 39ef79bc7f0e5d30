//! `balsa scale`: how many replicas.

use anyhow::bail;
use balsa_client::Backend as _;
use balsa_client::remote::WriteDetails;
use balsa_model::Subresource;
use balsa_proto::v1;
use serde_json::json;

use crate::connect::ConnectArgs;
use crate::output;
use crate::target::{self, Select};

/// Set how many replicas a workload has
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa scale deploy/web --replicas=3\n  \
    balsa scale deploy web --replicas=3 --current-replicas=2   # only if it has two now")]
pub(crate) struct Args {
    /// TYPE/NAME… or TYPE NAME…
    #[arg(value_name = "WHAT", required = true)]
    what: Vec<String>,
    /// How many there shall be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    replicas: i32,
    /// Only if there are so many now
    #[arg(long, value_name = "N")]
    current_replicas: Option<i32>,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    for (kind, key) in target::resolve(&session, &args.what, &args.select).await? {
        let descriptor = kind.descriptor();
        if !descriptor.has(Subresource::Scale) {
            bail!("{} have no replicas; Deployments, ReplicaSets and the like do", descriptor.plural);
        }
        let mut patch = json!({"spec": {"replicas": args.replicas}});
        if let Some(expected) = args.current_replicas {
            let object = session.remote.get(kind, &key).await?;
            let now =
                object.value().pointer("/spec/replicas").and_then(serde_json::Value::as_i64).unwrap_or(1);
            if now != i64::from(expected) {
                bail!("Expected replicas to be {expected}, was {now}");
            }
            patch["metadata"] = json!({"resourceVersion": object.revision().to_string()});
        }
        let merge = (v1::PatchType::Merge, &patch);
        let details = WriteDetails { field_manager: "balsa".to_owned(), ..WriteDetails::default() };
        session.remote.patch(kind, &key, v1::Part::Scale, merge, &details).await?;
        output::line(format!("{} scaled", output::named(descriptor, &key.name)))?;
    }
    Ok(())
}
