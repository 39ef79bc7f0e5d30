//! `balsa get`: objects as tables or as they are, once or as they change.

mod scale;

use std::sync::Arc;

use anyhow::bail;
use balsa_client::{Backend as _, ListQuery, Start, WatchEvent};
use balsa_model::selector::Filter;
use balsa_model::{Key, KindRef, Object, Reason, Subresource};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::json;

use crate::connect::{ConnectArgs, Session};
use crate::jsonpath::JsonPath;
use crate::manifest::Files;
use crate::output::{self, Columns, Feed, Format, Printer};
use crate::target::{self, Select, Target};

/// List objects
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa get pods                          # of the current namespace\n  \
    balsa get deploy,svc -A -o wide         # several types, all namespaces, more columns\n  \
    balsa get pod web -o yaml               # all about one\n  \
    balsa get pods -l app=web -w            # and go on as they change\n  \
    balsa get -f web.yaml -w                # the one object of a manifest\n  \
    balsa get deploy web --subresource=scale\n  \
    balsa get pods --sort-by=.metadata.creationTimestamp\n  \
    balsa get pods -o custom-columns=NAME:.metadata.name,IP:.status.podIP\n  \
    balsa get nodes -o jsonpath='{.items[*].metadata.name}'")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME…, or TYPE/NAME…; several types are separated by commas
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// wide, yaml, json, name, jsonpath=EXPRESSION or custom-columns=NAME:PATH,…
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// In the order of a field, like .metadata.creationTimestamp
    #[arg(long, value_name = "PATH", value_parser = JsonPath::parse)]
    sort_by: Option<JsonPath>,
    /// Ask for so many objects at a time; 0: for all at once
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    chunk_size: usize,
    /// A part of the objects: status, or the scale of workloads
    #[arg(long, value_name = "PART", value_parser = ["status", "scale"])]
    subresource: Option<String>,
    /// After listing, go on with the changes
    #[arg(short, long)]
    watch: bool,
    /// Only the changes
    #[arg(long)]
    watch_only: bool,
    /// Show the labels in a last column
    #[arg(long)]
    show_labels: bool,
    /// Show these labels, a column each
    #[arg(short = 'L', long, value_name = "LABELS", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Show names with their types, like pod/web
    #[arg(long)]
    show_kind: bool,
    /// With -o yaml, json or jsonpath: show who set which field, too
    #[arg(long)]
    show_managed_fields: bool,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    /// What is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was found.
#[derive(Default)]
struct Found {
    /// A kind at a time.
    kinds: Vec<OfKind>,
    /// They were named one by one.
    named: bool,
    /// What is wrong with those that were named and are not here.
    failed: Vec<String>,
}

struct OfKind {
    kind: KindRef,
    items: Vec<Arc<Object>>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    if args.watch || args.watch_only {
        if args.subresource.is_some() {
            bail!("--watch and --subresource do not go together: objects are watched as a whole");
        }
        return watch(&args, &session).await;
    }
    let mut found = find(&args, &session).await?;
    if let Some(path) = &args.sort_by {
        sort(&mut found, path)?;
    }
    match args.subresource.as_deref() {
        Some("scale") => scale::show(&args, &found)?,
        Some(_) => with_status(&found).and_then(|()| show(&args, &session, &found))?,
        None => show(&args, &session, &found)?,
    }
    output::failures(&found.failed)
}

async fn find(args: &Args, session: &Session) -> anyhow::Result<Found> {
    if args.files.files.is_empty() {
        match target::parse(&args.what)? {
            Target::All(kinds) => list(args, session, kinds).await,
            Target::Named(_) if args.select.all_namespaces => {
                bail!(
                    "a resource cannot be retrieved by name across all namespaces; name its namespace with -n"
                )
            }
            Target::Named(_) if args.select.selects() => bail!("names and selectors do not go together"),
            Target::Named(named) => {
                let place = |(kind, name): (KindRef, String)| (kind, session.key(kind, &name));
                one_by_one(args, session, named.into_iter().map(place).collect()).await
            }
        }
    } else {
        let places = super::changes::places(session, &args.files.read().await?)?;
        one_by_one(args, session, places).await
    }
}

async fn list(args: &Args, session: &Session, kinds: Vec<KindRef>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for kind in kinds {
        let filter = args.select.filter(session, kind)?;
        let mut query = ListQuery { limit: args.chunk_size, ..ListQuery::matching(filter) };
        let mut items = Vec::new();
        loop {
            let page = match session.remote.list(kind, &query).await {
                // History has moved on between two pages: all of it at once, then.
                Err(failure) if failure.reason == Reason::Expired && query.limit > 0 => {
                    items.clear();
                    query = ListQuery::matching(query.filter);
                    continue;
                }
                page => page?,
            };
            items.extend(page.items);
            query.continue_token = page.continue_token;
            if query.continue_token.is_empty() {
                break;
            }
        }
        found.kinds.push(OfKind { kind, items });
    }
    Ok(found)
}

/// A status is read with its object; what has none is told.
fn with_status(found: &Found) -> anyhow::Result<()> {
    let mut kinds = found.kinds.iter().map(|of_kind| of_kind.kind.descriptor());
    match kinds.find(|kind| !kind.has(Subresource::Status)) {
        Some(kind) => bail!("{} have no status of their own; leave --subresource out", kind.plural),
        None => Ok(()),
    }
}

async fn one_by_one(args: &Args, session: &Session, places: Vec<(KindRef, Key)>) -> anyhow::Result<Found> {
    let mut found = Found { named: true, ..Found::default() };
    let several = places.len() > 1;
    for (kind, key) in places {
        match session.remote.get(kind, &key).await {
            Ok(object) => match found.kinds.iter_mut().find(|of| of.kind == kind) {
                Some(of_kind) => of_kind.items.push(object),
                None => found.kinds.push(OfKind { kind, items: vec![object] }),
            },
            Err(failure) if args.ignore_not_found && failure.reason == Reason::NotFound => {}
            // The others may be there.
            Err(failure) if several => found.failed.push(failure.to_string()),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(found)
}

fn sort(found: &mut Found, path: &JsonPath) -> anyhow::Result<()> {
    let (mut any, mut has_field) = (false, false);
    for of_kind in &mut found.kinds {
        any |= !of_kind.items.is_empty();
        has_field |= output::sort(&mut of_kind.items, path);
    }
    if any && !has_field {
        bail!("--sort-by: none of the objects has such a field; write it like .metadata.creationTimestamp");
    }
    Ok(())
}

fn show(args: &Args, session: &Session, found: &Found) -> anyhow::Result<()> {
    let mut objects = found.kinds.iter().flat_map(|of_kind| of_kind.items.iter().map(|o| (of_kind.kind, o)));
    match &args.output {
        None | Some(Format::Wide) => tables(args, session, found),
        Some(Format::Custom(columns)) => {
            let mut printer = Printer::custom(columns.clone(), !args.no_headers);
            objects.for_each(|(_, object)| printer.add(object, Timestamp::now()));
            output::print(&printer.take())
        }
        Some(Format::Name) => objects.try_for_each(|(kind, object)| {
            output::line(output::named(kind.descriptor(), &object.key().name))
        }),
        Some(format) => {
            let mut values: Vec<_> =
                objects.map(|(_, object)| output::shown(object, args.show_managed_fields)).collect();
            let value = match values.as_slice() {
                [_] if found.named => values.remove(0),
                [] if found.named => return Ok(()),
                _ => {
                    json!({"apiVersion": "v1", "items": values, "kind": "List", "metadata": {"resourceVersion": ""}})
                }
            };
            output::print(&format.render(&value)?)
        }
    }
}

impl Args {
    fn columns(&self, kinds: bool) -> Columns {
        Columns {
            namespace: self.select.all_namespaces,
            wide: matches!(self.output, Some(Format::Wide)),
            of_labels: self.label_columns.clone(),
            labels: self.show_labels,
            kinds: kinds || self.show_kind,
        }
    }
}

fn tables(args: &Args, session: &Session, found: &Found) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let shown: Vec<&OfKind> = found.kinds.iter().filter(|of_kind| !of_kind.items.is_empty()).collect();
    if shown.is_empty() && !args.ignore_not_found && found.failed.is_empty() {
        let namespaced = found.kinds.iter().any(|found| found.kind.descriptor().is_namespaced());
        if namespaced && !args.select.all_namespaces {
            output::tell(format_args!("No resources found in {} namespace.", session.namespace));
        } else {
            output::tell("No resources found");
        }
    }
    let mut text = String::new();
    for (i, OfKind { kind, items }) in shown.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        let mut printer = Printer::new(*kind, args.columns(found.kinds.len() > 1), !args.no_headers);
        items.iter().for_each(|object| printer.add(object, now));
        text.push_str(&printer.take());
    }
    output::print(&text)
}

/// The one kind and the filter that a watch is about.
async fn watched(args: &Args, session: &Session) -> anyhow::Result<(KindRef, Filter)> {
    if !args.files.files.is_empty() {
        return match super::changes::places(session, &args.files.read().await?)?.as_slice() {
            [(kind, key)] => {
                let filter = Filter::namespaced(&key.namespace);
                Ok((*kind, Filter { name: Some(key.name.clone()), ..filter }))
            }
            _ => bail!("one type, or one object, can be watched at a time; the manifests name several"),
        };
    }
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
    let (kind, filter) = watched(args, session).await?;
    if args.sort_by.is_some() {
        output::tell("warning: --watch requested, --sort-by will be ignored");
    }
    let new_feed = || {
        Feed::new(kind, args.output.clone(), args.columns(false), !args.no_headers)
            .with_managed_fields(args.show_managed_fields)
    };
    let mut feed = new_feed();
    let mut start = Start::Initial;
    let mut listing = true;
    let mut backoff = super::changes::patience();
    loop {
        if listing {
            // What came of a list that broke off comes again.
            feed = new_feed();
        }
        let mut stream = session.remote.watch(kind, &filter, start).await?;
        while let Some(event) = stream.next().await {
            let object = match event {
                Ok(WatchEvent::Applied(object) | WatchEvent::Deleted(object)) => object,
                Ok(WatchEvent::Synced(revision)) => {
                    listing = false;
                    start = Start::After(revision);
                    // All that was there goes out at once, so that its columns line up.
                    output::print(&feed.take())?;
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
            feed.add(&object)?;
            if !listing {
                output::print(&feed.take())?;
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
