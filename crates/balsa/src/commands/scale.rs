//! `balsa scale`: how many replicas.

use anyhow::bail;
use balsa_client::Backend as _;
use balsa_client::remote::WriteDetails;
use balsa_model::{Key, KindRef, Reason, Subresource};
use balsa_proto::v1;
use serde_json::{Value, json};

use super::changes;
use crate::connect::{ConnectArgs, Session};
use crate::manifest::Files;
use crate::output::{self, DryRun, Format, Rehearsal, Report};
use crate::target::Select;

/// Set how many replicas workloads have
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa scale deploy/web --replicas=3\n  \
    balsa scale deploy/web sts/db --replicas=0      # several\n  \
    balsa scale deploy --all --replicas=1\n  \
    balsa scale -f web.yaml --replicas=2            # what a manifest names\n  \
    balsa scale deploy web --replicas=3 --current-replicas=2   # only if it has two now")]
pub(crate) struct Args {
    /// TYPE/NAME…, TYPE NAME…, or TYPE with -l or --all
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// How many there shall be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    replicas: i32,
    /// Only if there are so many now; -1: however many
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    current_replicas: Option<i32>,
    #[command(flatten)]
    select: Select,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// name, yaml, json or jsonpath=EXPRESSION
    #[arg(short, long, value_name = "FORMAT", value_parser = output::object_format)]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let details = WriteDetails {
        dry_run: args.dry_run.by == Rehearsal::Server,
        field_manager: "balsa".to_owned(),
        ..WriteDetails::default()
    };
    let meant = changes::meant(&session, &args.files, &args.what, (&args.select, args.all)).await?;
    if meant.is_empty() {
        bail!("no objects passed to scale");
    }
    let several = meant.len() > 1;
    let mut report = Report::new(args.output.clone(), args.dry_run.by);
    let mut failed = Vec::new();
    for (kind, key) in meant {
        let descriptor = kind.descriptor();
        match scale(&args, &session, (kind, &key), &details).await {
            Ok(()) if report.shows_objects() && args.dry_run.by == Rehearsal::Client => {
                let mut value = session.remote.get(kind, &key).await?.value();
                value["spec"]["replicas"] = args.replicas.into();
                report.value(value);
            }
            Ok(()) if report.shows_objects() => report.object(&*session.remote.get(kind, &key).await?),
            Ok(()) => report.line(descriptor, &key.name, "scaled")?,
            // The others may be there, and may be scaled.
            Err(error) if several => {
                failed.push(format!("{}: {error:#}", output::named(descriptor, &key.name)))
            }
            Err(error) => return Err(error),
        }
    }
    report.end()?;
    output::failures(&failed)
}

async fn scale(
    args: &Args,
    session: &Session,
    (kind, key): (KindRef, &Key),
    details: &WriteDetails,
) -> anyhow::Result<()> {
    let descriptor = kind.descriptor();
    if !descriptor.has(Subresource::Scale) {
        bail!("{} have no replicas; Deployments, ReplicaSets and the like do", descriptor.plural);
    }
    let mut patch = json!({"spec": {"replicas": args.replicas}});
    let mut backoff = changes::patience();
    loop {
        let condition = args.current_replicas.filter(|expected| *expected >= 0);
        let rehearsed = args.dry_run.by == Rehearsal::Client;
        if rehearsed || condition.is_some() {
            let object = session.remote.get(kind, key).await?;
            let now = object.value().pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            if let Some(expected) = condition.filter(|expected| i64::from(*expected) != now) {
                bail!("Expected replicas to be {expected}, was {now}");
            }
            if rehearsed {
                return Ok(());
            }
            patch["metadata"] = json!({"resourceVersion": object.revision().to_string()});
        }
        let merge = (v1::PatchType::Merge, &patch);
        match session.remote.patch(kind, key, v1::Part::Scale, merge, details).await {
            // Somebody wrote to it in between, often just its status: the replicas may be what they were.
            Err(failure) if condition.is_some() && failure.reason == Reason::Conflict => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            written => return Ok(written.map(drop)?),
        }
    }
}
