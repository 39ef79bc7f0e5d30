//! The table of messages: which fields the built-in types have, under which names and numbers.
//!
//! Read once from `data/protobuf-fields.json`. Invariant: indices in the table are valid, because the
//! table never changes after it was built; a type that the data does not describe is opaque.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, OnceLock};

use serde::Deserialize;

use super::list::{Semantics, semantics};

/// Index of a message in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId(u32);

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cardinality {
    One,
    List,
    /// Keys are text.
    Map,
}

/// What a field holds. The named ones have a JSON form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    Message(MessageId),
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    /// Any JSON; its text in protobuf (`RawExtension`, `FieldsV1`, `JSON`).
    Raw,
    /// A list of texts that is a message of its own in protobuf (`Verbs`, `ExtraValue`).
    Texts,
    /// A CRD schema, or in JSON something else in its place, as the field of that name says.
    SchemaOr(MessageId, &'static str),
    /// The data says nothing about it.
    Opaque,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
    pub(crate) cardinality: Cardinality,
    pub(crate) ty: Type,
    /// Its fields stand directly in the JSON object of the message.
    pub(crate) inline: bool,
    /// How it merges, once somebody has asked.
    semantics: OnceLock<Option<&'static Semantics>>,
}

impl Field {
    /// How this field of `owner` merges, if the data says it: to look that up each time is much of what a write of a
    /// small object takes to say who owns what.
    pub(crate) fn semantics(&self, owner: &Message) -> Option<&'static Semantics> {
        *self.semantics.get_or_init(|| semantics(owner.name, self.name))
    }
}

/// A message and its fields.
#[derive(Debug)]
pub(crate) struct Message {
    /// `core.v1.PodSpec`
    pub(crate) name: &'static str,
    /// By number.
    pub(crate) fields: Vec<Field>,
    /// JSON name → message that has the field (this one, or an inline one) and index there.
    by_json: HashMap<&'static str, (MessageId, usize)>,
    /// Whether its JSON may carry apiVersion and kind.
    pub(crate) has_type_meta: bool,
    /// How it merges as a whole, once somebody has asked.
    semantics: OnceLock<Option<&'static Semantics>>,
}

impl Message {
    /// The field of that JSON name.
    pub(crate) fn json_field(&'static self, name: &str) -> Option<&'static Field> {
        let (message, index) = self.by_json.get(name)?;
        message.get().fields.get(*index)
    }

    /// The message that has the field of that JSON name: this one, or an inline one.
    pub(crate) fn json_owner(&self, name: &str) -> Option<&'static Message> {
        self.by_json.get(name).map(|(message, _)| message.get())
    }

    /// The field of that number.
    pub(crate) fn number(&self, number: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&number, |field| field.number).ok().map(|i| &self.fields[i])
    }

    /// How it merges as a whole, wherever it stands.
    pub(crate) fn semantics(&self) -> Option<&'static Semantics> {
        *self.semantics.get_or_init(|| semantics(self.name, "_struct"))
    }

    /// `PodSpec`
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `v1`
    pub(crate) fn version(&self) -> &'static str {
        self.name.rsplit('.').nth(1).unwrap_or_default()
    }
}

impl MessageId {
    /// The message.
    pub(crate) fn get(self) -> &'static Message {
        &TABLE.messages[self.0 as usize]
    }
}

/// The message of that name.
pub(crate) fn find(name: &str) -> Option<MessageId> {
    TABLE.by_name.get(name).copied()
}

struct Table {
    messages: Vec<Message>,
    by_name: HashMap<&'static str, MessageId>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(borrow)]
    messages: BTreeMap<&'static str, BTreeMap<u32, (&'static str, &'static str, &'static str)>>,
}

static DATA: &str = include_str!("../../data/protobuf-fields.json");
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // A part of the program: a test reads it.
    build(serde_json::from_str(DATA).unwrap_or(Data { messages: BTreeMap::new() }))
});

fn build(data: Data) -> Table {
    let mut by_name = HashMap::new();
    for (id, name) in (0..).zip(data.messages.keys()) {
        by_name.insert(*name, MessageId(id));
    }
    let mut messages: Vec<Message> = data
        .messages
        .iter()
        .map(|(name, fields)| Message {
            name,
            has_type_meta: fields.values().any(|(json, _, ty)| *json == "metadata" && ty.ends_with("Meta"))
                && !name.ends_with("TemplateSpec")
                && !name.ends_with("ClaimTemplate"),
            fields: fields.iter().map(|(number, field)| build_field(*number, field, &by_name)).collect(),
            by_json: HashMap::new(),
            semantics: OnceLock::new(),
        })
        .collect();
    for id in 0..messages.len() {
        let mut names = HashMap::new();
        collect_names(&messages, id, &mut names, 0);
        messages[id].by_json = names;
    }
    Table { messages, by_name }
}

fn build_field(
    number: u32,
    (name, cardinality, ty): &(&'static str, &'static str, &'static str),
    by_name: &HashMap<&'static str, MessageId>,
) -> Field {
    let cardinality = match *cardinality {
        "list" => Cardinality::List,
        "map" => Cardinality::Map,
        _ => Cardinality::One,
    };
    let message = |name: &str| by_name.get(name).copied();
    let schema_or = |other| message(ty).map_or(Type::Opaque, |id| Type::SchemaOr(id, other));
    let ty = match *ty {
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "am.api.resource.Quantity" => Type::Quantity,
        "am.util.intstr.IntOrString" => Type::IntOrString,
        "am.apis.meta.v1.Time" => Type::Time,
        "am.apis.meta.v1.MicroTime" => Type::MicroTime,
        "am.apis.meta.v1.Duration" => Type::Duration,
        "am.apis.meta.v1.FieldsV1" | "am.runtime.RawExtension" | "apiextensions.v1.JSON" => Type::Raw,
        "am.apis.meta.v1.Verbs" => Type::Texts,
        other if other.ends_with(".ExtraValue") || other.ends_with(".AttestationValue") => Type::Texts,
        "apiextensions.v1.JSONSchemaPropsOrArray" => schema_or("jSONSchemas"),
        "apiextensions.v1.JSONSchemaPropsOrBool" => schema_or("allows"),
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => schema_or("property"),
        other => message(other).map_or(Type::Opaque, Type::Message),
    };
    Field { name, number, cardinality, ty, inline: name.is_empty(), semantics: OnceLock::new() }
}

fn collect_names(
    messages: &[Message],
    id: usize,
    names: &mut HashMap<&'static str, (MessageId, usize)>,
    depth: usize,
) {
    for (index, field) in messages[id].fields.iter().enumerate() {
        match field.ty {
            Type::Message(inner) if field.inline && depth < 8 => {
                collect_names(messages, inner.0 as usize, names, depth + 1);
            }
            _ => {
                names.insert(field.name, (MessageId(u32::try_from(id).unwrap_or(0)), index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_whole() {
        assert!(TABLE.messages.len() > 600);
        let pod = find("core.v1.Pod").unwrap().get();
        assert!(pod.has_type_meta);
        assert_eq!(pod.json_field("spec").unwrap().number, 2);
        let volume = find("core.v1.Volume").unwrap().get();
        assert_eq!(volume.json_field("hostPath").unwrap().name, "hostPath");
        assert!(volume.json_field("").is_none());
        assert!(!find("core.v1.PodTemplateSpec").unwrap().get().has_type_meta);
        assert_eq!(pod.version(), "v1");
        let or = find("apiextensions.v1.JSONSchemaProps").unwrap().get().json_field("items").unwrap();
        let Type::SchemaOr(id, other) = or.ty else { panic!("{or:?}") };
        assert!(id.get().json_field(other).is_some());
    }
}
