//! `balsa events`: what happened, the latest last.

use std::sync::Arc;

use anyhow::bail;
use balsa_client::{Backend as _, ListQuery, Start, WatchEvent};
use balsa_model::kind::kind_of;
use balsa_model::selector::{FieldSelector, Filter};
use balsa_model::{KindRef, Object};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::json;

use crate::connect::{ConnectArgs, Session};
use crate::output::{self, Columns, Feed, Format};
use crate::target;

/// Show what happened
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa events                      # of the current namespace, the latest last\n  \
    balsa events --for pod/web -w     # of one object, and go on\n  \
    balsa events -A --types=Warning   # what went wrong anywhere\n  \
    balsa events -w -o json           # for programs")]
pub(crate) struct Args {
    /// Only about this TYPE/NAME
    #[arg(long = "for", value_name = "TYPE/NAME")]
    about: Option<String>,
    /// Only of these types: Normal, Warning
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on as they happen
    #[arg(short, long)]
    watch: bool,
    /// wide, yaml, json, name, jsonpath=EXPRESSION or custom-columns=NAME:PATH,…
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// No headings
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    fn filter(&self, session: &Session, kind: KindRef) -> anyhow::Result<Filter> {
        let namespace = if self.all_namespaces { "" } else { session.namespace.as_str() };
        let mut filter = Filter::namespaced(namespace);
        if let Some(about) = &self.about {
            let (of, name) = target::one(about)?;
            if !of.descriptor().is_namespaced() && !self.all_namespaces {
                // What is in no namespace is told of in the default one.
                filter = Filter::namespaced("default");
            }
            let fields = format!("involvedObject.kind={},involvedObject.name={name}", of.descriptor().kind);
            filter.fields = FieldSelector::parse(&fields, kind.descriptor())?;
        }
        Ok(filter)
    }

    fn shows(&self, object: &Object) -> bool {
        let of_type = |event: &Event| {
            let own = event.type_.as_deref().unwrap_or_default();
            self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(own))
        };
        self.types.is_empty() || object.is(of_type)
    }
}

/// When it happened last.
pub(crate) fn last_seen(object: &Object) -> Timestamp {
    let Some(event) = object.typed::<Event>() else { return Timestamp::UNIX_EPOCH };
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|t| t.0);
    series
        .or(event.last_timestamp.as_ref().map(|t| t.0))
        .or(event.event_time.as_ref().map(|t| t.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Events about an object, the latest last.
pub(crate) async fn about(session: &Session, object: &Object) -> anyhow::Result<Vec<Arc<Object>>> {
    let namespace = if object.key().namespace.is_empty() { "default" } else { &object.key().namespace };
    let mut filter = Filter::namespaced(namespace);
    let kind = kind_of::<Event>();
    let fields = format!(
        "involvedObject.kind={},involvedObject.name={}",
        object.kind().descriptor().kind,
        object.key().name
    );
    filter.fields = FieldSelector::parse(&fields, kind.descriptor())?;
    let mut items = session.remote.list(kind, &ListQuery::matching(filter)).await?.items;
    items.sort_by_key(|event| last_seen(event));
    Ok(items)
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.types.iter().any(|t| !t.eq_ignore_ascii_case("normal") && !t.eq_ignore_ascii_case("warning")) {
        bail!("--types takes Normal and Warning");
    }
    let session = args.connect.open()?;
    let kind = kind_of::<Event>();
    let filter = args.filter(&session, kind)?;
    let mut list = session.remote.list(kind, &ListQuery::matching(filter.clone())).await?;
    list.items.retain(|object| args.shows(object));
    list.items.sort_by_key(|object| last_seen(object));
    if list.items.is_empty() && !args.watch {
        let place = filter.namespace.map(|namespace| format!(" in {namespace} namespace"));
        output::tell(format_args!("No events found{}.", place.unwrap_or_default()));
        return Ok(());
    }
    if let (Some(format @ (Format::Yaml | Format::Json | Format::JsonPath(_))), false) =
        (&args.output, args.watch)
    {
        let values: Vec<_> = list.items.iter().map(|object| output::presentable(object)).collect();
        let value =
            json!({"apiVersion": "v1", "items": values, "kind": "List", "metadata": {"resourceVersion": ""}});
        return output::print(&format.render(&value)?);
    }
    let wide = matches!(args.output, Some(Format::Wide));
    let columns = Columns { namespace: args.all_namespaces, wide, ..Columns::default() };
    let mut feed = Feed::new(kind, args.output.clone(), columns, !args.no_headers);
    list.items.iter().try_for_each(|object| feed.add(object))?;
    output::print(&feed.take())?;
    if args.watch {
        follow(&args, &session, &filter, Start::After(list.revision), &mut feed).await?;
    }
    Ok(())
}

async fn follow(
    args: &Args,
    session: &Session,
    filter: &Filter,
    mut start: Start,
    feed: &mut Feed,
) -> anyhow::Result<()> {
    let mut backoff = super::changes::patience();
    loop {
        let mut stream = session.remote.watch(kind_of::<Event>(), filter, start).await?;
        while let Some(event) = stream.next().await {
            match event {
                Ok(WatchEvent::Applied(object)) => {
                    backoff.reset();
                    start = Start::After(object.revision());
                    if args.shows(&object) {
                        feed.add(&object)?;
                        output::print(&feed.take())?;
                    }
                }
                Ok(WatchEvent::Bookmark(revision) | WatchEvent::Synced(revision)) => {
                    start = Start::After(revision)
                }
                Ok(WatchEvent::Deleted(_)) => {}
                Err(failure) if super::changes::may_resume(&failure) => break,
                Err(failure) => return Err(failure.into()),
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
