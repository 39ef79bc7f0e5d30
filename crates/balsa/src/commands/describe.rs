//! `balsa describe`: one object for people, with the events about it.

use balsa_client::Backend as _;
use balsa_model::Object;
use balsa_model::kind::kind_of;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::connect::{ConnectArgs, Session};
use crate::manifest::Files;
use crate::output::{self, Columns, Printer};
use crate::target::{self, Select};

/// Show all about objects, and what happened to them
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa describe pod web\n  \
    balsa describe deploy/web svc/web\n  \
    balsa describe nodes")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    select: Select,
    /// Leave the events out
    #[arg(long)]
    no_events: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let meant = if args.files.files.is_empty() {
        target::resolve(&session, &args.what, &args.select).await?
    } else {
        super::changes::places(&session, &args.files.read()?)?
    };
    if meant.is_empty() {
        eprintln!("No resources found");
    }
    for (i, (kind, key)) in meant.iter().enumerate() {
        let object = session.remote.get(*kind, key).await?;
        let events = if args.no_events { String::new() } else { events(&session, &object).await? };
        let gap = if i > 0 { "\n\n" } else { "" };
        output::print(&format!("{gap}{}{events}", describe(&object)))?;
    }
    Ok(())
}

async fn events(session: &Session, object: &Object) -> anyhow::Result<String> {
    let events = super::events::about(session, object).await?;
    if events.is_empty() {
        return Ok("Events:  <none>\n".to_owned());
    }
    let mut printer = Printer::new(kind_of::<Event>(), Columns::default(), true);
    let now = Timestamp::now();
    events.iter().for_each(|event| printer.add(event, now));
    let rows: String = printer.take().lines().map(|line| format!("  {line}\n")).collect();
    Ok(format!("Events:\n{rows}"))
}

/// What people look for first, and then the rest of the object as it is.
fn describe(object: &Object) -> String {
    let value = output::presentable(object);
    let meta = object.meta();
    let mut text = String::new();
    let mut field = |name: &str, value: &str| text.push_str(&format!("{name:<14}{value}\n"));
    field("Name:", &object.key().name);
    if !object.key().namespace.is_empty() {
        field("Namespace:", &object.key().namespace);
    }
    let last_applied = |name: &str| name == "kubectl.kubernetes.io/last-applied-configuration";
    for (heading, map) in [("Labels:", &meta.labels), ("Annotations:", &meta.annotations)] {
        let pairs = map.iter().flatten().filter(|(name, _)| !last_applied(name));
        let lines: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
        field(heading, lines.first().map_or("<none>", String::as_str));
        lines.iter().skip(1).for_each(|line| field("", line));
    }
    let mut out = text;
    let owners = meta.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
    owners
        .for_each(|owner| out.push_str(&format!("{:<14}{}/{}\n", "Controlled By:", owner.kind, owner.name)));
    if let Some(created) = &meta.creation_timestamp {
        let age = balsa_model::table::age(created.0, Timestamp::now());
        out.push_str(&format!("{:<14}{} ({age} ago)\n", "Created:", created.0));
    }
    if let Some(deleted) = &meta.deletion_timestamp {
        out.push_str(&format!("{:<14}{}\n", "Terminating:", deleted.0));
    }
    let rest = value.as_object().into_iter().flatten();
    for (name, value) in rest.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"))
    {
        tree(&title(name), &secretless(object, name, value), 0, &mut out);
    }
    out
}

/// Secrets show how much there is, not what.
fn secretless(object: &Object, field: &str, value: &Value) -> Value {
    if object.kind().descriptor().kind != "Secret" || field != "data" {
        return value.clone();
    }
    let sizes = value.as_object().into_iter().flatten().map(|(name, data)| {
        let encoded = data.as_str().unwrap_or_default();
        let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
        (
            name.clone(),
            Value::from(format!("{} bytes", encoded.len() / 4 * 3 - padding.min(encoded.len() / 4 * 3))),
        )
    });
    Value::Object(sizes.collect())
}

fn tree(name: &str, value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if fields.is_empty() => out.push_str(&format!("{indent}{name}:  <none>\n")),
        Value::Array(items) if items.is_empty() => out.push_str(&format!("{indent}{name}:  <none>\n")),
        Value::Object(fields) => {
            out.push_str(&format!("{indent}{name}:\n"));
            branches(fields, depth + 1, NAMED_BY_USERS.contains(&name), out);
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let texts: Vec<String> = items.iter().map(scalar).collect();
            out.push_str(&format!("{indent}{name}:  {}\n", texts.join(", ")));
        }
        Value::Array(items) => {
            out.push_str(&format!("{indent}{name}:\n"));
            for item in items {
                element(item, depth + 1, out);
            }
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str(&format!("{indent}{name}:\n"));
            text.lines().for_each(|line| out.push_str(&format!("{indent}  {line}\n")));
        }
        scalar_value => out.push_str(&format!("{indent}{name}:  {}\n", scalar(scalar_value))),
    }
}

/// Fields whose own fields are names that people gave, which stay as they are.
const NAMED_BY_USERS: [&str; 12] = [
    "Labels",
    "Annotations",
    "Match Labels",
    "Selector",
    "Node Selector",
    "Data",
    "String Data",
    "Binary Data",
    "Limits",
    "Requests",
    "Capacity",
    "Allocatable",
];

fn branches(fields: &serde_json::Map<String, Value>, depth: usize, as_they_are: bool, out: &mut String) {
    for (key, value) in fields {
        let own = as_they_are && !value.is_object() && !value.is_array();
        tree(&if own { key.clone() } else { title(key) }, value, depth, out);
    }
}

/// An item of a list: named items under their name, others after a dash.
fn element(item: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let heading = ["name", "type", "ip", "mountPath"].into_iter().find_map(|field| item.get(field)?.as_str());
    match (item, heading) {
        (Value::Object(fields), Some(heading)) => {
            out.push_str(&format!("{indent}{heading}:\n"));
            let rest: serde_json::Map<String, Value> = fields
                .iter()
                .filter(|(_, v)| v.as_str() != Some(heading))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            branches(&rest, depth + 1, false, out);
        }
        (Value::Object(fields), None) => {
            out.push_str(&format!("{indent}-\n"));
            branches(fields, depth + 1, false, out);
        }
        (other, _) => out.push_str(&format!("{indent}- {}\n", scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `podIP` becomes `Pod IP`.
fn title(name: &str) -> String {
    let mut out = String::new();
    let mut before_is_lower = false;
    for (i, character) in name.chars().enumerate() {
        if i == 0 {
            out.extend(character.to_uppercase());
        } else {
            if character.is_uppercase() && before_is_lower {
                out.push(' ');
            }
            out.push(character);
        }
        before_is_lower = character.is_lowercase();
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::{Revision, kinds};
    use serde_json::json;

    #[test]
    fn objects_read_well() {
        let kind = kinds::by_resource("", "pods").unwrap();
        let value = json!({"metadata": {"name": "web", "namespace": "zoo", "labels": {"a": "1", "b": "2"}},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x", "y"]}]},
            "status": {"podIP": "10.0.0.1", "conditions": []}});
        let object = Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap();
        assert_eq!(
            describe(&object),
            "Name:         web\nNamespace:    zoo\nLabels:       a=1\n              b=2\nAnnotations:  <none>\n\
             Spec:\n  Containers:\n    c:\n      Args:  x, y\n      Image:  i\n\
             Status:\n  Conditions:  <none>\n  Pod IP:  10.0.0.1\n"
        );
    }

    #[test]
    fn secrets_stay_secret() {
        let kind = kinds::by_resource("", "secrets").unwrap();
        let value = json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"key": "aGVsbG8="}});
        let object = Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap();
        let text = describe(&object);
        assert!(text.contains("key:  5 bytes") && !text.contains("aGVs"), "{text}");
    }
}
