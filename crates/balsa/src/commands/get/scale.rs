//! `balsa get --subresource=scale`: how many replicas objects shall have, as a Scale says it.

use anyhow::{Context as _, bail};
use balsa_model::{Object, table};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Args, Found};
use crate::output::{self, Format, Table};

/// Shows the scales of what was found.
pub(super) fn show(args: &Args, found: &Found) -> anyhow::Result<()> {
    let objects: Vec<_> = found.kinds.iter().flat_map(|of_kind| &of_kind.items).collect();
    match &args.output {
        None | Some(Format::Wide) => {
            let mut table = Table::new(["NAME", "DESIRED", "AVAILABLE", "AGE"]);
            for object in objects {
                let scale = scale(object)?;
                let created = object.meta().creation_timestamp.as_ref();
                let age = created.map_or_else(String::new, |at| table::age(at.0, Timestamp::now()));
                let number = |pointer| scale.pointer(pointer).unwrap_or(&Value::Null).to_string();
                let name = object.key().name.to_string();
                table.row([name, number("/spec/replicas"), number("/status/replicas"), age]);
            }
            output::print(&table.render(!args.no_headers))
        }
        Some(Format::Name) => objects
            .into_iter()
            .try_for_each(|object| output::line(format!("scale.autoscaling/{}", object.key().name))),
        Some(Format::Custom(_)) => {
            bail!("-o custom-columns and --subresource=scale do not go together; use -o jsonpath=…")
        }
        Some(format) => {
            let mut scales = objects.into_iter().map(|o| scale(o)).collect::<anyhow::Result<Vec<_>>>()?;
            let value = match scales.as_slice() {
                [_] if found.named => scales.remove(0),
                _ => {
                    json!({"apiVersion": "v1", "items": scales, "kind": "List", "metadata": {"resourceVersion": ""}})
                }
            };
            output::print(&format.render(&value)?)
        }
    }
}

fn scale(object: &Object) -> anyhow::Result<Value> {
    let kind = object.kind().descriptor().plural;
    let of = object.decode().and_then(|object| object.scale());
    let of =
        of.with_context(|| format!("{kind} have no scale; deployments, replicasets and statefulsets do"))?;
    let mut metadata = object.value().get("metadata").cloned().unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
        metadata.retain(|field, _| kept.contains(&field.as_str()));
    }
    Ok(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": {"replicas": of.replicas}, "status": of.status}))
}
