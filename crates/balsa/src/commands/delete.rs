//! `balsa delete`: objects by name, selector or manifest, and waiting until they are gone.

use std::time::Duration;

use anyhow::bail;
use balsa_client::{Backend as _, DeleteQuery};
use balsa_model::strategy::{DeleteOptions, Propagation};
use balsa_model::{Key, KindRef, Precondition, Reason};

use super::changes;
use crate::connect::ConnectArgs;
use crate::manifest::Files;
use crate::output::{self, DryRun, Rehearsal};
use crate::target::Select;

/// Delete objects
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa delete pod web                    # and wait until it is gone\n  \
    balsa delete -f web.yaml                # what a manifest names\n  \
    balsa delete deploy,svc -l app=web      # by label\n  \
    balsa delete pod web --now              # with one second to say goodbye\n  \
    balsa delete deploy web --cascade=orphan   # its pods stay")]
pub(crate) struct Args {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with -l or --all
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that pods have to end [default: their own]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    grace_period: Option<i64>,
    /// The same as --grace-period=1
    #[arg(long)]
    now: bool,
    /// Do not wait for the node to stop the pods
    #[arg(long)]
    force: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"], value_name = "HOW")]
    cascade: String,
    /// Wait until they are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait [default: without end]
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true)]
    timeout: String,
    /// What is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// name: print only names
    #[arg(short, long, value_parser = ["name"])]
    output: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    fn query(&self) -> anyhow::Result<DeleteQuery> {
        let grace = match (self.grace_period, self.now, self.force) {
            (Some(_), true, _) => bail!("--now and --grace-period do not go together"),
            (Some(seconds), false, _) => Some(seconds).filter(|seconds| *seconds >= 0),
            (None, true, _) => Some(1),
            (None, false, true) => Some(0),
            (None, false, false) => None,
        };
        let propagation = match self.cascade.as_str() {
            "foreground" => Propagation::Foreground,
            "orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        };
        Ok(DeleteQuery {
            options: DeleteOptions { grace_period_seconds: grace, propagation: Some(propagation) },
            precondition: Precondition::default(),
            dry_run: self.dry_run.by == Rehearsal::Server,
        })
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let query = args.query()?;
    let limit = match changes::duration(&args.timeout).map_err(anyhow::Error::msg)? {
        Some(Duration::ZERO) | None => None,
        limit => limit,
    };
    let mut going = Vec::new();
    let mut missing = None;
    let which = (&args.select, args.all);
    for (kind, key) in changes::meant(&session, &args.files, &args.what, which).await? {
        let deleted = match args.dry_run.by {
            // Whether there is anything to delete is all that can be said from here.
            Rehearsal::Client => session.remote.get(kind, &key).await,
            _ => session.remote.delete(kind, &key, &query).await,
        };
        match deleted {
            Ok(object) => {
                told(&args, kind, &key)?;
                going.push((kind, key, object.uid().to_owned()));
            }
            Err(failure) if failure.reason == Reason::NotFound => {
                if !args.ignore_not_found && !args.all {
                    missing = Some(failure);
                }
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    if args.wait && args.dry_run.by == Rehearsal::None {
        for (kind, key, uid) in &going {
            // One with another UID is a new one: the one that was meant is gone.
            let gone = |object: Option<&balsa_model::Object>| object.is_none_or(|object| object.uid() != uid);
            changes::until(&session, (*kind, key), limit, gone).await?;
        }
    }
    missing.map_or(Ok(()), |failure| Err(failure.into()))
}

fn told(args: &Args, kind: KindRef, key: &Key) -> anyhow::Result<()> {
    if args.output.is_some() {
        return output::line(output::named(kind.descriptor(), &key.name));
    }
    let how = if args.force { "force deleted" } else { "deleted" };
    let dry = args.dry_run.by.mark();
    output::line(format!("{} \"{}\" {how}{dry}", output::singular(kind.descriptor()), key.name))
}
