//! `balsa get`: objects as tables or as they are, once or as they change.

use std::sync::Arc;

use anyhow::bail;
use balsa_client::{Backend as _, ListQuery, Start, WatchEvent};
use balsa_model::selector::Filter;
use balsa_model::{KindRef, Object};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::json;

use crate::connect::{ConnectArgs, Session};
use crate::manifest::Files;
use crate::output::{self, Columns, Format, Printer};
use crate::target::{self, Select, Target};

/// List objects
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa get pods                          # of the current namespace\n  \
    balsa get deploy,svc -A -o wide         # several types, all namespaces, more columns\n  \
    balsa get pod web -o yaml               # all about one\n  \
    balsa get pods -l app=web -w            # and go on as they change\n  \
    balsa get nodes -o jsonpath='{.items[*].metadata.name}'")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME…, or TYPE/NAME…; several types are separated by commas
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// wide, yaml, json, name or jsonpath=EXPRESSION
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// After listing, go on with the changes
    #[arg(short, long)]
    watch: bool,
    /// Only the changes
    #[arg(long)]
    watch_only: bool,
    /// Show the labels in a last column
    #[arg(long)]
    show_labels: bool,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    /// What is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was found, a kind at a time.
struct Found {
    kind: KindRef,
    items: Vec<Arc<Object>>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    if args.watch || args.watch_only {
        return watch(&args, &session).await;
    }
    let (found, named) = find(&args, &session).await?;
    match &args.output {
        None | Some(Format::Wide) => tables(&args, &session, &found),
        Some(Format::Name) => {
            let names = |found: &Found| {
                let line =
                    |object: &Arc<Object>| output::named(found.kind.descriptor(), &object.key().name) + "\n";
                found.items.iter().map(line).collect::<String>()
            };
            output::print(&found.iter().map(names).collect::<String>())
        }
        Some(format) => {
            let mut values: Vec<_> =
                found.iter().flat_map(|found| &found.items).map(|o| output::presentable(o)).collect();
            let value = match values.as_slice() {
                [_] if named => values.remove(0),
                [] if named => return Ok(()),
                _ => {
                    json!({"apiVersion": "v1", "items": values, "kind": "List", "metadata": {"resourceVersion": ""}})
                }
            };
            output::print(&format.render(&value)?)
        }
    }
}

/// The objects, and whether they were named one by one.
async fn find(args: &Args, session: &Session) -> anyhow::Result<(Vec<Found>, bool)> {
    let mut found: Vec<Found> = Vec::new();
    let mut add = |kind: KindRef, object| match found.iter_mut().find(|found| found.kind == kind) {
        Some(of_kind) => of_kind.items.push(object),
        None => found.push(Found { kind, items: vec![object] }),
    };
    let named = if args.files.files.is_empty() {
        match target::parse(&args.what)? {
            Target::All(kinds) => {
                for kind in kinds {
                    let query = ListQuery::matching(args.select.filter(session, kind)?);
                    let items = session.remote.list(kind, &query).await?.items;
                    found.push(Found { kind, items });
                }
                return Ok((found, false));
            }
            Target::Named(_) if args.select.all_namespaces => {
                bail!(
                    "a resource cannot be retrieved by name across all namespaces; name its namespace with -n"
                )
            }
            Target::Named(_) if args.select.selects() => bail!("names and selectors do not go together"),
            Target::Named(named) => {
                named.into_iter().map(|(kind, name)| (kind, session.key(kind, &name))).collect()
            }
        }
    } else {
        super::changes::places(session, &args.files.read()?)?
    };
    for (kind, key) in named {
        match session.remote.get(kind, &key).await {
            Ok(object) => add(kind, object),
            Err(failure) if args.ignore_not_found && failure.reason == balsa_model::Reason::NotFound => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok((found, true))
}

impl Args {
    fn columns(&self, kinds: bool) -> Columns {
        Columns {
            namespace: self.select.all_namespaces,
            wide: matches!(self.output, Some(Format::Wide)),
            labels: self.show_labels,
            kinds,
        }
    }
}

fn tables(args: &Args, session: &Session, found: &[Found]) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let shown: Vec<&Found> = found.iter().filter(|found| !found.items.is_empty()).collect();
    if shown.is_empty() && !args.ignore_not_found {
        let namespaced = found.iter().any(|found| found.kind.descriptor().is_namespaced());
        if namespaced && !args.select.all_namespaces {
            eprintln!("No resources found in {} namespace.", session.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    let mut text = String::new();
    for (i, Found { kind, items }) in shown.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        let mut printer = Printer::new(*kind, args.columns(found.len() > 1), !args.no_headers);
        items.iter().for_each(|object| printer.add(object, now));
        text.push_str(&printer.take());
    }
    output::print(&text)
}

/// The one kind and the filter that a watch is about.
fn watched(args: &Args, session: &Session) -> anyhow::Result<(KindRef, Filter)> {
    match target::parse(&args.what)? {
        Target::All(kinds) if kinds.len() == 1 => {
            let filter = args.select.filter(session, kinds[0])?;
            Ok((kinds[0], filter))
        }
        Target::Named(named) if named.len() == 1 => {
            let (kind, name) = &named[0];
            let filter = args.select.filter(session, *kind)?;
            Ok((*kind, Filter { name: Some(name.as_str().into()), ..filter }))
        }
        _ => bail!("one type, or one object, can be watched at a time"),
    }
}

async fn watch(args: &Args, session: &Session) -> anyhow::Result<()> {
    let (kind, filter) = watched(args, session)?;
    let mut printer = Printer::new(kind, args.columns(false), !args.no_headers);
    let mut start = Start::Initial;
    let mut listing = true;
    let mut backoff = super::changes::patience();
    loop {
        let mut stream = session.remote.watch(kind, &filter, start).await?;
        while let Some(event) = stream.next().await {
            let object = match event {
                Ok(WatchEvent::Applied(object) | WatchEvent::Deleted(object)) => object,
                Ok(WatchEvent::Synced(revision)) => {
                    listing = false;
                    start = Start::After(revision);
                    // All that was there goes out at once, so that its columns line up.
                    output::print(&printer.take())?;
                    continue;
                }
                Ok(WatchEvent::Bookmark(revision)) => {
                    start = Start::After(revision);
                    continue;
                }
                Err(failure) if super::changes::may_resume(&failure) => break,
                Err(failure) => return Err(failure.into()),
            };
            backoff.reset();
            if start != Start::Initial {
                start = Start::After(object.revision());
            }
            if listing && args.watch_only {
                continue;
            }
            show(args, &mut printer, &object, listing)?;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn show(args: &Args, printer: &mut Printer, object: &Object, listing: bool) -> anyhow::Result<()> {
    match &args.output {
        None | Some(Format::Wide) => {
            printer.add(object, Timestamp::now());
            if listing { Ok(()) } else { output::print(&printer.take()) }
        }
        Some(Format::Name) => output::line(output::named(object.kind().descriptor(), &object.key().name)),
        Some(format) => {
            let text = format.render(&output::presentable(object))?;
            let separator = if matches!(format, Format::Yaml) { "---\n" } else { "" };
            output::print(&format!("{separator}{text}"))
        }
    }
}
