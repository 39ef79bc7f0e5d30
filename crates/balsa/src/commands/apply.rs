//! `balsa apply`: makes the cluster hold what manifests say.
//!
//! What was applied last is kept in an annotation, as kubectl does, so that a field that has left the
//! manifest leaves the object, and what others set stays.

use anyhow::Context as _;
use balsa_client::Backend as _;
use balsa_client::remote::WriteDetails;
use balsa_model::{Key, Object, Reason, patch, schema};
use balsa_proto::v1;
use serde_json::{Value, json};

use super::changes::place;
use crate::connect::{ConnectArgs, Session};
use crate::manifest::{Files, Manifest};
use crate::output;

/// Where the manifest that was applied last is kept.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Make the cluster hold what manifests say
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa apply -f web.yaml               # one file, one object or many\n  \
    balsa apply -f manifests/ -R          # a directory, and those in it\n  \
    cat web.yaml | balsa apply -f -       # standard input\n  \
    balsa apply -f web.yaml --dry-run     # what the server would say")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Have the server check it all, and change nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "server", value_parser = ["server", "none"])]
    dry_run: Option<String>,
    /// What to do about fields that do not exist: strict refuses, warn tells, ignore drops them
    #[arg(long, default_value = "strict", value_parser = ["strict", "warn", "ignore", "true", "false"], value_name = "HOW")]
    validate: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let validation = match args.validate.as_str() {
        "strict" | "true" => "Strict",
        "warn" => "Warn",
        _ => "Ignore",
    };
    let details = WriteDetails {
        dry_run: args.dry_run.as_deref() == Some("server"),
        field_manager: "balsa-client-side-apply".to_owned(),
        field_validation: validation.to_owned(),
    };
    let manifests = args.files.read()?;
    let mut failed = Vec::new();
    for manifest in &manifests {
        let name = output::named(manifest.kind.descriptor(), &manifest.name);
        match apply(&session, manifest, &details).await {
            Ok(done) => {
                let dry = if details.dry_run { " (server dry run)" } else { "" };
                output::line(format!("{name} {done}{dry}"))?;
            }
            // The other objects may be good; all that is wrong is told.
            Err(error) if manifests.len() > 1 => failed.push(format!("{name}: {error:#}")),
            Err(error) => return Err(error),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failed.join("\nerror: "))) }
}

async fn apply(
    session: &Session,
    manifest: &Manifest,
    details: &WriteDetails,
) -> anyhow::Result<&'static str> {
    let key = place(session, manifest)?;
    let wanted = with_annotation(manifest, &key)?;
    let remote = &session.remote;
    let current = match remote.get(manifest.kind, &key).await {
        Ok(current) => current,
        Err(failure) if failure.reason == Reason::NotFound => {
            let written = remote.create_object(manifest.kind, &key.namespace, &wanted, details).await?;
            output::warn(&written.warnings);
            return Ok("created");
        }
        Err(failure) => return Err(failure.into()),
    };
    let patch = difference(manifest, wanted, &current, details)?;
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok("unchanged");
    }
    let strategic = (v1::PatchType::Strategic, &patch);
    let written = remote.patch(manifest.kind, &key, v1::Part::Main, strategic, details).await?;
    output::warn(&written.warnings);
    let changed = written.object.revision() != current.revision() || details.dry_run;
    Ok(if changed { "configured" } else { "unchanged" })
}

/// The manifest in its namespace, with itself in the annotation.
fn with_annotation(manifest: &Manifest, key: &Key) -> anyhow::Result<Value> {
    let mut value = manifest.value.clone();
    let meta = value.get_mut("metadata").and_then(Value::as_object_mut).context("metadata is no object")?;
    if !key.namespace.is_empty() {
        meta.insert("namespace".to_owned(), json!(*key.namespace));
    }
    let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    annotations.as_object_mut().context("metadata.annotations is no object")?.remove(LAST_APPLIED);
    let text = format!("{}\n", output::sorted(value.clone()));
    value["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(value)
}

/// The patch that makes `current` what the manifest says.
fn difference(
    manifest: &Manifest,
    wanted: Value,
    current: &Object,
    details: &WriteDetails,
) -> anyhow::Result<Value> {
    let descriptor = manifest.kind.descriptor();
    let checked = schema::check(descriptor.message, wanted)?;
    match details.field_validation.as_str() {
        "Strict" => {
            let refusal = schema::strict_failure(descriptor.kind, descriptor.version, &checked.unknown, &[]);
            refusal.map_or(Ok(()), Err)?;
        }
        "Warn" => output::warn(&checked.unknown),
        _ => {}
    }
    let annotations = current.meta().annotations.as_ref();
    let last = match annotations.and_then(|annotations| annotations.get(LAST_APPLIED)) {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => {
            eprintln!(
                "Warning: {} lacks what was applied last; fields that it got otherwise stay until they are removed by hand",
                output::named(descriptor, &manifest.name)
            );
            Value::Null
        }
    };
    Ok(patch::three_way(descriptor.message, &last, &checked.value, &current.value()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::Revision;

    fn manifest(text: &str) -> Manifest {
        crate::manifest::parse(text).unwrap().0.remove(0)
    }

    #[test]
    fn a_manifest_carries_itself() {
        let manifest = manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1'}}");
        let key = Key::new("zoo", "c");
        let value = with_annotation(&manifest, &key).unwrap();
        assert_eq!(
            value["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"1\"},\"kind\":\"ConfigMap\",\"metadata\":{\"annotations\":{},\"name\":\"c\",\"namespace\":\"zoo\"}}\n"
        );
        let mut again = manifest;
        again.value = value.clone();
        assert_eq!(with_annotation(&again, &key).unwrap(), value);
    }

    #[test]
    fn what_left_the_manifest_leaves_the_object() {
        let before =
            manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}");
        let key = Key::new("zoo", "c");
        let stored = with_annotation(&before, &key).unwrap();
        let kind = before.kind;
        let current = Object::seal(kind, &Object::canonical(kind, &stored), Revision(1)).unwrap();
        let details = WriteDetails { field_validation: "Strict".to_owned(), ..WriteDetails::default() };
        assert_eq!(difference(&before, stored, &current, &details).unwrap(), json!({}));
        let after = manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '3'}}");
        let wanted = with_annotation(&after, &key).unwrap();
        let patch = difference(&after, wanted, &current, &details).unwrap();
        assert_eq!(patch["data"], json!({"a": "3", "b": null}));
        let wrong = manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, bogus: 1}");
        let wanted = with_annotation(&wrong, &key).unwrap();
        let refused = difference(&wrong, wanted, &current, &details).unwrap_err();
        assert!(refused.to_string().contains("unknown field \"bogus\""), "{refused}");
    }
}
