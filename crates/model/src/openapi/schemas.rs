//! Schemas of all built-in types, by the names that Kubernetes gives them
//! (`io.k8s.api.core.v1.Pod`), with what strategic patches and server-side apply need to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use k8s_openapi::Resource;
use k8s_openapi::api::{authentication, authorization, autoscaling, core, policy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Status};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::CustomSchemas;
use crate::discovery::GroupVersionKind;
use crate::kinds;
use crate::schema::list::semantics;
use crate::schema::table;

/// Where references point.
const REFERENCE: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const GVK: &str = "x-kubernetes-group-version-kind";

/// The one kind that must have metadata, says Kubernetes. In Rust all have.
const NEEDS_METADATA: &str = "io.k8s.api.core.v1.Event";

/// The schema name of a type of `meta/v1`.
pub(super) fn meta_name(kind: &str) -> String {
    format!("{META}{kind}")
}

/// A reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REFERENCE}{name}")})
}

struct Definitions {
    schemas: BTreeMap<String, Value>,
    names: BTreeMap<GroupVersionKind, String>,
}

static DEFINITIONS: LazyLock<Definitions> = LazyLock::new(build);

/// The schema name of a kind; `None` when it has no schema (`PodExecOptions`).
pub(super) fn name_of(kind: &GroupVersionKind, custom: &CustomSchemas) -> Option<String> {
    if custom.contains_key(kind) {
        let mut parts: Vec<&str> = kind.group.split('.').collect();
        parts.reverse();
        return Some(format!("{}.{}.{}", parts.join("."), kind.version, kind.kind));
    }
    DEFINITIONS.names.get(kind).cloned()
}

/// The schema name of the list of a kind.
pub(super) fn list_name(name: &str) -> String {
    format!("{name}List")
}

/// Adds every schema that `paths` refer to, and those that these refer to.
pub(super) fn collect(paths: &Map<String, Value>, custom: &CustomSchemas, out: &mut Map<String, Value>) {
    let own: BTreeMap<String, Value> = custom_schemas(custom);
    let mut wanted = BTreeSet::new();
    paths.values().for_each(|path| references(path, &mut wanted));
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    while let Some(name) = wanted.pop_first() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(schema) = own.get(&name).or_else(|| DEFINITIONS.schemas.get(&name)) else { continue };
        references(schema, &mut wanted);
        found.insert(name, schema.clone());
    }
    out.extend(found);
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                found.insert(name.to_owned());
            }
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

/// Schemas of custom kinds and of their lists, by name.
fn custom_schemas(custom: &CustomSchemas) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    for (kind, schema) in custom {
        let Some(name) = name_of(kind, custom) else { continue };
        let mut schema = if schema.is_object() { schema.clone() } else { json!({"type": "object"}) };
        let properties = &mut schema["properties"];
        if !properties.is_object() {
            *properties = json!({});
        }
        properties["apiVersion"] = json!({"type": "string"});
        properties["kind"] = json!({"type": "string"});
        properties["metadata"] = reference(&meta_name("ObjectMeta"));
        add_kinds(&mut schema, std::slice::from_ref(kind));
        out.insert(list_name(&name), list_schema(&name, kind));
        out.insert(name, schema);
    }
    out
}

fn add_kinds(schema: &mut Value, kinds: &[GroupVersionKind]) {
    let kinds: Vec<Value> =
        kinds.iter().map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind})).collect();
    schema[GVK] = kinds.into();
}

fn list_schema(item: &str, kind: &GroupVersionKind) -> Value {
    let mut schema = json!({
        "description": format!("{}List is a list of {}.", kind.kind, kind.kind),
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": reference(item)},
            "kind": {"type": "string"},
            "metadata": reference(&meta_name("ListMeta")),
        },
        "required": ["items"],
    });
    let list = GroupVersionKind { kind: format!("{}List", kind.kind), ..kind.clone() };
    add_kinds(&mut schema, &[list]);
    schema
}

fn referenced(schema: &Schema) -> Option<String> {
    Some(schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)?.to_owned())
}

fn build() -> Definitions {
    let mut generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.transforms.clear();
            settings.meta_schema = None;
        })
        .into_generator();
    let mut names = BTreeMap::new();
    for kind in kinds::served().chain(kinds::reported().iter().copied()) {
        let descriptor = kind.descriptor();
        if let Some(name) = referenced(&kind.schema(&mut generator)) {
            names.insert(GroupVersionKind::new(descriptor.group, descriptor.version, descriptor.kind), name);
        }
    }
    let stored = names.clone();
    questions(&mut generator, &mut names);
    for other in [
        generator.subschema_for::<DeleteOptions>(),
        generator.subschema_for::<ListMeta>(),
        generator.subschema_for::<Status>(),
    ] {
        debug_assert!(referenced(&other).is_some());
    }
    let mut schemas: BTreeMap<String, Value> = generator
        .take_definitions(false)
        .into_iter()
        .map(|(name, mut schema)| {
            refine(&name, &mut schema);
            (name, schema)
        })
        .collect();
    for (kind, name) in &names {
        if let Some(schema) = schemas.get_mut(name) {
            add_kinds(schema, std::slice::from_ref(kind));
            if name != NEEDS_METADATA {
                forget_metadata(schema);
            }
        }
    }
    for (kind, name) in &stored {
        schemas.insert(list_name(name), list_schema(name, kind));
    }
    add_meta_types(&mut schemas, &names);
    Definitions { schemas, names }
}

fn forget_metadata(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let Some(Value::Array(mut required)) = schema.remove("required") else { return };
    required.retain(|field| field != "metadata");
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
}

/// Kinds that are answered and not stored, or are parts of others.
fn questions(generator: &mut SchemaGenerator, names: &mut BTreeMap<GroupVersionKind, String>) {
    fn add<T: JsonSchema + Resource>(
        generator: &mut SchemaGenerator,
        names: &mut BTreeMap<GroupVersionKind, String>,
    ) {
        if let Some(name) = referenced(&generator.subschema_for::<T>()) {
            names.insert(GroupVersionKind::new(T::GROUP, T::VERSION, T::KIND), name);
        }
    }
    add::<core::v1::Binding>(generator, names);
    add::<policy::v1::Eviction>(generator, names);
    add::<autoscaling::v1::Scale>(generator, names);
    add::<authentication::v1::TokenRequest>(generator, names);
    add::<authentication::v1::TokenReview>(generator, names);
    add::<authentication::v1::SelfSubjectReview>(generator, names);
    add::<authorization::v1::LocalSubjectAccessReview>(generator, names);
    add::<authorization::v1::SelfSubjectAccessReview>(generator, names);
    add::<authorization::v1::SelfSubjectRulesReview>(generator, names);
    add::<authorization::v1::SubjectAccessReview>(generator, names);
}

fn add_meta_types(schemas: &mut BTreeMap<String, Value>, names: &BTreeMap<GroupVersionKind, String>) {
    let versions: BTreeSet<(&str, &str)> =
        names.keys().map(|kind| (kind.group.as_str(), kind.version.as_str())).collect();
    let everywhere = |kind: &str| -> Vec<GroupVersionKind> {
        versions.iter().map(|(group, version)| GroupVersionKind::new(group, version, kind)).collect()
    };
    if let Some(schema) = schemas.get_mut(&meta_name("DeleteOptions")) {
        add_kinds(schema, &everywhere("DeleteOptions"));
    }
    if let Some(schema) = schemas.get_mut(&meta_name("Status")) {
        add_kinds(schema, &[GroupVersionKind::new("", "v1", "Status")]);
    }
    let patch = json!({
        "description": "Patch is what a client sends to change an object: its form follows from the content type.",
        "type": "object",
    });
    schemas.insert(meta_name("Patch"), patch);
    let quantity = "A number with a suffix: m, k, M, G, T, P, E, or Ki, Mi, Gi, Ti, Pi, Ei, or an exponent.";
    schemas.insert(
        "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        json!({"description": quantity, "oneOf": [{"type": "string"}, {"type": "number"}]}),
    );
    schemas.insert(
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        json!({
            "description": "A number, or a text.",
            "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        }),
    );
}

/// `io.k8s.api.core.v1.Pod` → `core.v1.Pod`: the name in the tables.
fn message_of(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("io.k8s.apimachinery.pkg.") {
        return Some(format!("am.{rest}"));
    }
    name.strip_prefix("io.k8s.api.")
        .or_else(|| name.split_once(".pkg.apis.").map(|(_, rest)| rest))
        .map(str::to_owned)
}

/// Makes a generated schema what Kubernetes publishes: references beside other words go into `allOf`,
/// and fields say how they merge.
fn refine(name: &str, schema: &mut Value) {
    let message = message_of(name).and_then(|name| table::find(&name)).map(table::MessageId::get);
    if let (Some(message), Some(Value::Object(properties))) = (message, schema.get_mut("properties")) {
        for (field, property) in properties {
            let owner = message.json_owner(field).unwrap_or(message);
            let found = semantics(owner.name, field).or_else(|| semantics(message.name, field));
            let (Some(found), Some(property)) = (found, property.as_object_mut()) else { continue };
            let mut set = |key: &str, value: Value| property.insert(format!("x-kubernetes-{key}"), value);
            if let Some(list_type) = &found.list_type {
                set("list-type", list_type.as_str().into());
            }
            if !found.list_map_keys.is_empty() {
                set("list-map-keys", found.list_map_keys.clone().into());
            }
            if let Some(map_type) = found.map_type.as_ref().or(found.struct_type.as_ref()) {
                set("map-type", map_type.as_str().into());
            }
            if let Some(strategy) = &found.patch_strategy {
                set("patch-strategy", strategy.as_str().into());
            }
            if let Some(key) = &found.patch_merge_key {
                set("patch-merge-key", key.as_str().into());
            }
        }
    }
    wrap_references(schema);
}

fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(wrap_references);
            if map.len() > 1
                && map.get("$ref").is_some_and(Value::is_string)
                && let Some(target) = map.shift_remove("$ref")
            {
                map.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_every_field_of_the_types() {
        let mut missing = Vec::new();
        for (name, schema) in &DEFINITIONS.schemas {
            let Some(message) = message_of(name).and_then(|name| table::find(&name)) else { continue };
            for field in schema["properties"].as_object().into_iter().flat_map(Map::keys) {
                let type_meta = matches!(field.as_str(), "apiVersion" | "kind");
                if message.get().json_field(field).is_none() && !type_meta {
                    missing.push(format!("{name}.{field}"));
                }
            }
        }
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_kind_has_a_message_and_survives_it() {
        for kind in kinds::served() {
            let message = kind.descriptor().message;
            let value = kind.decode(json!({"metadata": {"name": "x"}})).unwrap().to_value();
            let bytes = crate::protobuf::from_json(message, &value).unwrap();
            let back = crate::protobuf::to_json(message, &bytes).unwrap();
            assert_eq!(back["metadata"]["name"], "x", "{message}");
        }
    }

    #[test]
    fn only_events_must_have_metadata() {
        let required = |name: &str| DEFINITIONS.schemas[name].get("required").cloned();
        assert_eq!(required("io.k8s.api.core.v1.Pod"), None);
        assert_eq!(
            required("io.k8s.api.discovery.v1.EndpointSlice"),
            Some(json!(["addressType", "endpoints"]))
        );
        assert_eq!(required(NEEDS_METADATA), Some(json!(["involvedObject", "metadata"])));
    }
}
