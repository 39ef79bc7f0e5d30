//! `balsa wait`: until objects are what they should be.

use anyhow::{anyhow, bail};
use balsa_client::Backend as _;
use balsa_model::Object;
use serde_json::Value;

use super::changes;
use crate::connect::ConnectArgs;
use crate::jsonpath::JsonPath;
use crate::manifest::Files;
use crate::output;
use crate::target::Select;

/// Wait until objects are what they should be
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa wait node --all --for=condition=Ready\n  \
    balsa wait deploy/web --for=condition=Available --timeout=2m\n  \
    balsa wait pod/job --for=jsonpath='{.status.phase}'=Succeeded\n  \
    balsa wait pod -l app=web --for=delete")]
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
    /// condition=NAME[=VALUE], create, delete, or jsonpath=PATH[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    until: String,
    /// How long at most; negative: without end
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    timeout: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

enum Goal {
    Created,
    Deleted,
    Condition(String, String),
    Path(JsonPath, Option<String>),
}

impl Goal {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let split = |text: &str| {
            // The value comes after the last =, unless that is within a filter.
            match text.rsplit_once('=') {
                Some((path, value)) if !value.contains(']') && !value.contains('}') => {
                    (path.to_owned(), Some(value.to_owned()))
                }
                _ => (text.to_owned(), None),
            }
        };
        match text.split_once('=') {
            None if text.eq_ignore_ascii_case("delete") => Ok(Self::Deleted),
            None if text.eq_ignore_ascii_case("create") => Ok(Self::Created),
            Some(("condition", rest)) if !rest.is_empty() => {
                let (name, status) = split(rest);
                Ok(Self::Condition(name, status.unwrap_or("True".to_owned())))
            }
            Some(("jsonpath", rest)) => {
                let (path, value) = split(rest);
                Ok(Self::Path(JsonPath::parse(path.trim_matches('\''))?, value))
            }
            _ => bail!("--for={text}: there are condition=NAME, create, delete and jsonpath=PATH=VALUE"),
        }
    }

    fn is_met(&self, object: Option<&Object>) -> bool {
        let Some(object) = object else { return matches!(self, Self::Deleted) };
        match self {
            Self::Created => true,
            Self::Deleted => false,
            Self::Condition(name, status) => has_condition(&object.value(), name, status),
            Self::Path(path, None) => !path.render(&object.value()).is_empty(),
            Self::Path(path, Some(wanted)) => path.render(&object.value()) == *wanted,
        }
    }
}

/// Whether a condition has that status, and is about the object as it is now.
fn has_condition(object: &Value, name: &str, status: &str) -> bool {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = object.pointer("/status/observedGeneration").and_then(Value::as_i64);
    if generation.zip(observed).is_some_and(|(generation, observed)| observed < generation) {
        return false;
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let text = |condition: &Value, field: &str| {
        condition.get(field).and_then(Value::as_str).unwrap_or_default().to_lowercase()
    };
    conditions.into_iter().flatten().any(|condition| {
        text(condition, "type") == name.to_lowercase() && text(condition, "status") == status.to_lowercase()
    })
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let goal = Goal::parse(&args.until)?;
    let limit = changes::duration(&args.timeout).map_err(anyhow::Error::msg)?;
    let which = (&args.select, args.all);
    let meant = changes::meant(&session, &args.files, &args.what, which).await?;
    if meant.is_empty() && !matches!(goal, Goal::Deleted) {
        bail!("no matching resources found");
    }
    let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
    for (kind, key) in meant {
        if !matches!(goal, Goal::Deleted | Goal::Created) {
            // What is not there is a mistake, not something to wait for.
            session.remote.get(kind, &key).await?;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(tokio::time::Instant::now()));
        let waited = changes::until(&session, (kind, &key), left, |object| goal.is_met(object)).await;
        waited.map_err(|error| anyhow!("{error:#}"))?;
        output::line(format!("{} condition met", output::named(kind.descriptor(), &key.name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::Revision;
    use balsa_model::kind::kind_of;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn goals_are_read_and_met() {
        let kind = kind_of::<Pod>();
        let value = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        let pod = Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap();
        let met = |text: &str| Goal::parse(text).unwrap().is_met(Some(&pod));
        for yes in [
            "condition=Ready",
            "condition=ready=true",
            "condition=Other=False",
            "create",
            "jsonpath={.status.phase}=Running",
            "jsonpath='{.status.phase}'=Running",
            "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True",
            "jsonpath={.status.phase}",
        ] {
            assert!(met(yes), "{yes}");
        }
        for no in [
            "condition=Gone",
            "condition=Ready=False",
            "delete",
            "jsonpath={.status.phase}=Failed",
            "jsonpath={.x}",
        ] {
            assert!(!met(no), "{no}");
        }
        assert!(Goal::parse("delete").unwrap().is_met(None));
        assert!(!Goal::parse("condition=Ready").unwrap().is_met(None));
        assert!(Goal::parse("ready").is_err());
    }

    #[test]
    fn a_condition_about_an_older_version_does_not_count() {
        let value = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1,
            "conditions": [{"type": "Available", "status": "True"}]}});
        assert!(!has_condition(&value, "Available", "True"));
    }
}
