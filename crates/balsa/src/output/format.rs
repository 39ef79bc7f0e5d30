//! `-o`: how objects are written.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use balsa_model::Object;
use serde_json::{Map, Value};

use super::CustomColumns;
use crate::jsonpath::JsonPath;

/// What `-o` says.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// More columns.
    Wide,
    /// Other columns.
    Custom(CustomColumns),
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// `pod/web`.
    Name,
    /// What an expression selects.
    JsonPath(JsonPath),
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "wide" => Self::Wide,
            "yaml" => Self::Yaml,
            "json" => Self::Json,
            "name" => Self::Name,
            _ => match text.split_once('=') {
                Some(("jsonpath", expression)) => Self::JsonPath(JsonPath::parse(expression)?),
                Some(("custom-columns", columns)) => Self::Custom(columns.parse()?),
                _ => bail!(
                    "unknown format; there are wide, yaml, json, name, jsonpath=EXPRESSION and custom-columns=NAME:PATH,…"
                ),
            },
        })
    }
}

impl Format {
    /// One value, or a list, as text.
    pub(crate) fn render(&self, value: &Value) -> anyhow::Result<String> {
        match self {
            // Tables are made elsewhere, where other rows are known; this is one row.
            Self::Custom(columns) => Ok(columns.row(value).join("   ") + "\n"),
            Self::Json => {
                let mut out = Vec::new();
                let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
                let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
                serde::Serialize::serialize(value, &mut serializer).context("as JSON")?;
                out.push(b'\n');
                String::from_utf8(out).context("as JSON")
            }
            Self::JsonPath(path) => Ok(path.render(value)),
            Self::Yaml | Self::Wide | Self::Name => {
                balsa_model::yaml::to_text(value).map_err(anyhow::Error::msg)
            }
        }
    }
}

/// An object's JSON with its fields by name and without the servers' book-keeping.
pub(crate) fn presentable(object: &Object) -> Value {
    shown(object, false)
}

/// The same, with or without the book-keeping.
pub(crate) fn shown(object: &Object, managed_fields: bool) -> Value {
    let mut value = object.value();
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut).filter(|_| !managed_fields) {
        meta.remove("managedFields");
    }
    sorted(value)
}

/// The same with all fields by name.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(String, Value)> = map.into_iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
