//! `balsa describe`: one object for people, with the events about it.
//!
//! Those that people ask about most are laid out as kubectl does, a file a kind; of the others there is
//! all they have, as a tree.

mod containers;
mod data;
mod deployment;
mod head;
mod node;
mod page;
mod pod;
mod service;
mod tree;

use std::sync::Arc;

use balsa_client::{Backend as _, ListQuery};
use balsa_model::kind::kind_of;
use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{KindRef, Object, table};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::connect::{ConnectArgs, Session};
use crate::manifest::Files;
use crate::output;
use crate::target::{self, Select};

use page::Page;

/// Show all about objects, and what happened to them
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa describe pod web\n  \
    balsa describe deploy/web svc/web\n  \
    balsa describe nodes\n  \
    balsa describe deploy --show-events=false")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// Also tell what happened to them
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    show_events: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let meant = if args.files.files.is_empty() {
        target::resolve(&session, &args.what, &args.select).await?
    } else {
        super::changes::places(&session, &args.files.read().await?)?
    };
    if meant.is_empty() {
        output::tell("No resources found");
    }
    for (i, (kind, key)) in meant.iter().enumerate() {
        let object = session.remote.get(*kind, key).await?;
        let related = related(&session, &object).await?;
        let events =
            if args.show_events { Some(super::events::about(&session, &object).await?) } else { None };
        let gap = if i > 0 { "\n\n" } else { "" };
        output::print(&format!("{gap}{}", describe(&object, &related, events.as_deref())))?;
    }
    Ok(())
}

/// What else is told of with an object: a node's pods, a Deployment's ReplicaSets, where a Service leads.
async fn related(session: &Session, object: &Object) -> anyhow::Result<Vec<Arc<Object>>> {
    let key = object.key();
    let mut filter = Filter::namespaced(&key.namespace);
    let kind: KindRef = match object.kind().descriptor().plural {
        "nodes" => {
            let fields = format!("spec.nodeName={}", key.name);
            filter.fields = FieldSelector::parse(&fields, kind_of::<Pod>().descriptor())?;
            kind_of::<Pod>()
        }
        "deployments" => kind_of::<ReplicaSet>(),
        "services" => {
            filter.labels = LabelSelector::parse(&format!("kubernetes.io/service-name={}", key.name))?;
            kind_of::<EndpointSlice>()
        }
        _ => return Ok(Vec::new()),
    };
    Ok(session.remote.list(kind, &ListQuery::matching(filter)).await?.items)
}

fn describe(object: &Object, related: &[Arc<Object>], events: Option<&[Arc<Object>]>) -> String {
    let (mut page, mut before) = (Page::default(), String::new());
    match object.kind().descriptor().plural {
        "pods" => pod::describe(&mut page, object),
        "nodes" => node::describe(&mut page, object, related),
        "deployments" => deployment::describe(&mut page, object, related),
        "services" => service::describe(&mut page, object, related),
        "configmaps" => before = data::config_map(object),
        // Nothing is told of what happened to them.
        "secrets" => return data::secret(object),
        _ => {
            any(&mut page, object);
            // Not a part of the page: what is in there may have tabs.
            before = std::mem::take(&mut page).finish() + &tree::describe(object);
        }
    }
    if let Some(events) = events {
        head::events(&mut page, events, Timestamp::now());
    }
    before + &page.finish()
}

fn any(page: &mut Page, object: &Object) {
    let meta = object.meta();
    head::name(page, object);
    head::labels_and_annotations(page, object);
    head::controlled_by(page, object);
    if let Some(created) = &meta.creation_timestamp {
        let age = table::age(created.0, Timestamp::now());
        page.field(0, "Created", format!("{} ({age} ago)", created.0));
    }
    if let Some(deleted) = &meta.deletion_timestamp {
        page.field(0, "Terminating", deleted.0);
    }
}
