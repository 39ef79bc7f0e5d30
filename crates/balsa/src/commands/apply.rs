//! `balsa apply`: makes the cluster hold what manifests say.
//!
//! What was applied last is kept in an annotation, as kubectl does, so that a field that has left the
//! manifest leaves the object, and what others set stays.

mod ownership;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use balsa_client::Backend as _;
use balsa_client::remote::WriteDetails;
use balsa_model::selector::LabelSelector;
use balsa_model::{Key, Object, Reason, patch, schema};
use balsa_proto::v1;
use serde_json::{Map, Value, json};

use super::changes::place;
use crate::connect::{ConnectArgs, Session};
use crate::manifest::{Files, Manifest};
use crate::output::{self, DryRun, Format, Rehearsal, Report};

/// Where the manifest that was applied last is kept.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Make the cluster hold what manifests say
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa apply -f web.yaml               # one file, one object or many\n  \
    balsa apply -f manifests/ -R          # a directory, and those in it\n  \
    balsa apply -f https://example.com/web.yaml\n  \
    cat web.yaml | balsa apply -f -       # standard input\n  \
    balsa apply -f web.yaml --dry-run     # what the server would say\n  \
    balsa apply -f web.yaml -l app=web    # only the objects with that label\n  \
    balsa apply -f web.yaml --server-side # fields are merged by the server, each with its owner")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Only objects of the manifests with these labels, like app=web,tier!=db
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    selector: String,
    /// Have the server merge, which remembers who set which field
    #[arg(long)]
    server_side: bool,
    /// Take fields that others have set otherwise
    #[arg(long)]
    force_conflicts: bool,
    /// In whose name fields are set [default: balsa, or balsa-client-side-apply without --server-side]
    #[arg(long, value_name = "NAME")]
    field_manager: Option<String>,
    #[command(flatten)]
    dry_run: DryRun,
    /// What to do about fields that do not exist: strict refuses, warn tells, ignore drops them
    #[arg(long, default_value = "strict", value_parser = ["strict", "warn", "ignore", "true", "false"], value_name = "HOW")]
    validate: String,
    /// name, yaml, json or jsonpath=EXPRESSION
    #[arg(short, long, value_name = "FORMAT", value_parser = output::object_format)]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    fn details(&self) -> WriteDetails {
        let validation = match self.validate.as_str() {
            "strict" | "true" => "Strict",
            "warn" => "Warn",
            _ => "Ignore",
        };
        let usual = if self.server_side { "balsa" } else { "balsa-client-side-apply" };
        WriteDetails {
            dry_run: self.dry_run.by == Rehearsal::Server,
            field_manager: self.field_manager.clone().unwrap_or_else(|| usual.to_owned()),
            field_validation: validation.to_owned(),
        }
    }

    async fn manifests(&self) -> anyhow::Result<Vec<Manifest>> {
        let selector = LabelSelector::parse(&self.selector)?;
        let mut manifests = self.files.read().await?;
        manifests.retain(|manifest| selector.matches(manifest.labels().as_ref()));
        if manifests.is_empty() {
            bail!("no objects passed to apply");
        }
        Ok(manifests)
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.force_conflicts && !args.server_side {
        bail!("--force-conflicts only works with --server-side");
    }
    if args.server_side && args.dry_run.by == Rehearsal::Client {
        bail!("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    let session = args.connect.open()?;
    let details = args.details();
    let manifests = args.manifests().await?;
    let mut report = Report::new(args.output.clone(), args.dry_run.by);
    let mut failed = Vec::new();
    for manifest in &manifests {
        let kind = manifest.kind.descriptor();
        match apply(&args, &session, manifest, &details).await {
            Ok((Applied::Object(object), done)) => {
                report.line(kind, &manifest.name, done)?;
                report.object(&object);
            }
            Ok((Applied::Meant(value), done)) => {
                report.line(kind, &manifest.name, done)?;
                report.value(value);
            }
            // The other objects may be good; all that is wrong is told.
            Err(error) if manifests.len() > 1 => failed.push(match manifest.name.as_str() {
                "" => format!("{error:#}"),
                name => format!("{}: {error:#}", output::named(kind, name)),
            }),
            Err(error) => return Err(error),
        }
    }
    report.end()?;
    output::failures(&failed)
}

/// What there is after an object was applied.
enum Applied {
    Object(Arc<Object>),
    /// What there would be, as far as can be said without the server's defaults: it was not sent.
    Meant(Value),
}

/// The object as it is then, and what became of it.
async fn apply(
    args: &Args,
    session: &Session,
    manifest: &Manifest,
    details: &WriteDetails,
) -> anyhow::Result<(Applied, &'static str)> {
    let rehearsed = args.dry_run.by == Rehearsal::Client;
    if manifest.name.is_empty() {
        // The sentence of kubectl: an object without a name cannot be found again to be changed.
        let prefix = &manifest.value["metadata"]["generateName"];
        bail!("from {}: cannot use generate name with apply", prefix.as_str().unwrap_or_default());
    }
    let key = place(session, manifest)?;
    if args.server_side {
        let applied = by_the_server(session, (manifest, &key), args.force_conflicts, details).await;
        return applied.map(|(object, done)| (Applied::Object(object), done));
    }
    let wanted = with_annotation(manifest, &key)?;
    let remote = &session.remote;
    let current = match remote.get(manifest.kind, &key).await {
        Ok(current) => current,
        Err(failure) if failure.reason == Reason::NotFound && rehearsed => {
            return Ok((Applied::Meant(checked(manifest, wanted, details)?), "created"));
        }
        Err(failure) if failure.reason == Reason::NotFound => {
            let written = remote.create_object(manifest.kind, &key.namespace, &wanted, details).await?;
            output::warn(&written.warnings);
            return Ok((Applied::Object(written.object), "created"));
        }
        Err(failure) => return Err(failure.into()),
    };
    let patch = difference(manifest, wanted, &current, details)?;
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok((Applied::Object(current), "unchanged"));
    }
    if rehearsed {
        let (body, present) = (patch.to_string(), current.bare_value());
        let patched =
            patch::apply(patch::PatchType::Strategic, manifest.kind, &present, body.as_bytes())?.value;
        return Ok((Applied::Meant(patched), "configured"));
    }
    let strategic = (v1::PatchType::Strategic, &patch);
    let written = remote.patch(manifest.kind, &key, v1::Part::Main, strategic, details).await?;
    output::warn(&written.warnings);
    let changed = written.object.revision() != current.revision() || details.dry_run;
    Ok((Applied::Object(written.object), if changed { "configured" } else { "unchanged" }))
}

async fn by_the_server(
    session: &Session,
    (manifest, key): (&Manifest, &Key),
    force: bool,
    details: &WriteDetails,
) -> anyhow::Result<(Arc<Object>, &'static str)> {
    let mut wanted = manifest.value.clone();
    put_in_namespace(&mut wanted, key)?;
    let config = (&wanted, force);
    let apply = || session.remote.apply(manifest.kind, key, v1::Part::Main, config, details);
    match apply().await {
        Ok(mut written) => {
            output::warn(&written.warnings);
            // Nothing was written that a dry run could go on from.
            if !details.dry_run {
                match ownership::take_over(session, key, &written.object, details).await {
                    Ok(true) => written = apply().await?,
                    Ok(false) => {}
                    Err(error) => output::tell(format_args!(
                        "Warning: {} was applied, but fields of earlier applies keep their owner: {error:#}; apply it once more",
                        output::named(manifest.kind.descriptor(), &manifest.name)
                    )),
                }
            }
            Ok((written.object, "serverside-applied"))
        }
        Err(failure) if failure.reason == Reason::Conflict => bail!(
            "{failure}\nTake these fields with --force-conflicts, leave them out of the manifest, or give them the values that they have"
        ),
        Err(failure) => Err(failure.into()),
    }
}

/// Says in the object where it is, and gives its metadata.
fn put_in_namespace<'a>(value: &'a mut Value, key: &Key) -> anyhow::Result<&'a mut Map<String, Value>> {
    let meta = value.get_mut("metadata").and_then(Value::as_object_mut).context("metadata is no object")?;
    if !key.namespace.is_empty() {
        meta.insert("namespace".to_owned(), json!(*key.namespace));
    }
    Ok(meta)
}

/// The manifest in its namespace, with itself in the annotation.
fn with_annotation(manifest: &Manifest, key: &Key) -> anyhow::Result<Value> {
    let mut value = manifest.value.clone();
    let meta = put_in_namespace(&mut value, key)?;
    let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    annotations.as_object_mut().context("metadata.annotations is no object")?.remove(LAST_APPLIED);
    let text = format!("{}\n", output::sorted(value.clone()));
    value["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(value)
}

/// The manifest as its kind knows it, with what is to be said or refused about fields that there are none of.
fn checked(manifest: &Manifest, wanted: Value, details: &WriteDetails) -> anyhow::Result<Value> {
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
    Ok(checked.value)
}

/// The patch that makes `current` what the manifest says.
fn difference(
    manifest: &Manifest,
    wanted: Value,
    current: &Object,
    details: &WriteDetails,
) -> anyhow::Result<Value> {
    let descriptor = manifest.kind.descriptor();
    let wanted = checked(manifest, wanted, details)?;
    let annotations = current.meta().annotations.as_ref();
    let last = match annotations.and_then(|annotations| annotations.get(LAST_APPLIED)) {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => {
            output::tell(format_args!(
                "Warning: {} lacks what was applied last; fields that it got otherwise stay until they are removed by hand",
                output::named(descriptor, &manifest.name)
            ));
            Value::Null
        }
    };
    Ok(patch::three_way(descriptor.message, &last, &wanted, &current.value()))
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
