//! The second version of OpenAPI (Swagger), converted from the third.

use serde_json::{Map, Value, json};

use crate::patch::PatchType;

/// The document of all paths and definitions, both given as the third version writes them.
pub(super) fn document(info: Value, paths: Map<String, Value>, definitions: Map<String, Value>) -> Value {
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, path_item(item))).collect();
    let definitions: Map<String, Value> =
        definitions.into_iter().map(|(name, schema)| (name, convert(schema))).collect();
    json!({
        "swagger": "2.0",
        "info": info,
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey",
            "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn path_item(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let convert = |(method, value): (String, Value)| {
        let value = if method == "parameters" { parameters(&value) } else { operation(&method, value) };
        (method, value)
    };
    Value::Object(item.into_iter().map(convert).collect())
}

fn operation(method: &str, mut operation: Value) -> Value {
    let mut list = parameters(&operation["parameters"]);
    let body = operation.as_object_mut().and_then(|map| map.shift_remove("requestBody"));
    if let (Some(body), Some(list)) = (body, list.as_array_mut()) {
        let content = body.get("content").and_then(Value::as_object);
        let schema = content.and_then(|c| c.values().next()).map(|c| c["schema"].clone());
        let required = body.get("required").is_some_and(|r| r == true);
        let mut parameter =
            json!({"name": "body", "in": "body", "schema": convert(schema.unwrap_or(json!({})))});
        if required {
            parameter["required"] = true.into();
        }
        list.insert(0, parameter);
        operation["consumes"] = if method == "patch" {
            content.map(|c| c.keys().cloned().collect()).unwrap_or_default()
        } else {
            json!(["*/*"])
        };
        debug_assert!(method != "patch" || operation["consumes"][0] == PatchType::Json.content_type());
    }
    operation["parameters"] = list;
    operation["produces"] =
        json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]);
    operation["schemes"] = json!(["https"]);
    for answer in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let content = answer.as_object_mut().and_then(|map| map.shift_remove("content"));
        if let Some(schema) = content.and_then(|c| c.pointer("/application~1json/schema").cloned()) {
            answer["schema"] = convert(schema);
        }
    }
    operation
}

/// Parameters have their type where the third version has a schema.
fn parameters(list: &Value) -> Value {
    let one = |parameter: &Value| {
        let Value::Object(mut map) = parameter.clone() else { return parameter.clone() };
        if let Some(Value::Object(schema)) = map.shift_remove("schema") {
            map.extend(schema);
        }
        Value::Object(map)
    };
    list.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().into()
}

/// A schema: references point to `definitions` and may stand beside other words; there is no `oneOf`.
fn convert(schema: Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        let target = target.replace("#/components/schemas/", "#/definitions/");
                        out.insert(key, target.into());
                    }
                    ("allOf", Value::Array(items)) if items.len() == 1 => {
                        for item in items {
                            if let Value::Object(inner) = convert(item) {
                                out.extend(inner);
                            }
                        }
                    }
                    // A quantity and a number or text are written as texts; other choices are open.
                    ("oneOf" | "anyOf", Value::Array(items)) => {
                        if items.iter().any(|item| item["type"] == "string") {
                            out.insert("type".to_owned(), "string".into());
                        }
                    }
                    (_, value) => {
                        out.insert(key, convert(value));
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(convert).collect()),
        other => other,
    }
}
