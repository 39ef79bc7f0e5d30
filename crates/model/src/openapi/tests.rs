//! What kubectl reads out of the OpenAPI documents is in them.

use super::*;
use crate::discovery::{ResourceInfo, SubresourceInfo};

fn built_in(path: &str) -> Value {
    let document = v3_built_in().iter().find(|document| document.path == path).unwrap();
    serde_json::from_slice(&document.bytes).unwrap()
}

/// Every reference in a document has its target there.
fn assert_closed(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            map.values().for_each(|value| assert_closed(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| assert_closed(document, value)),
        _ => {}
    }
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let document = built_in("api/v1");
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.ConfigMap"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "ConfigMap");
    assert!(schema["properties"]["metadata"]["allOf"][0]["$ref"].is_string());
    assert!(document["components"]["schemas"].get("io.k8s.api.core.v1.ConfigMapList").is_some());
    for document in v3_built_in() {
        let value: Value = serde_json::from_slice(&document.bytes).unwrap();
        assert_closed(&value, &value);
    }
}

#[test]
fn schemas_say_how_they_merge() {
    let document = built_in("api/v1");
    let meta = &document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"];
    let owners = &meta["properties"]["ownerReferences"];
    assert_eq!(owners["x-kubernetes-patch-merge-key"], "uid");
    assert_eq!(owners["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(owners["x-kubernetes-list-map-keys"], json!(["uid"]));
}

#[test]
fn the_index_leads_to_the_documents() {
    let index = v3_index(v3_built_in());
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/api/v1?hash="));
}

fn custom() -> (GroupVersion, CustomSchemas) {
    let kind = GroupVersionKind::new("example.com", "v1", "Thing");
    let resource = ResourceInfo {
        plural: "things".to_owned(),
        singular: "thing".to_owned(),
        kind: kind.clone(),
        stored: Some(kind.clone()),
        namespaced: true,
        verbs: vec!["get".to_owned(), "list".to_owned(), "patch".to_owned()],
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: vec![SubresourceInfo {
            name: "status".to_owned(),
            kind: kind.clone(),
            verbs: vec!["get".to_owned()],
        }],
    };
    let group =
        GroupVersion { group: "example.com".to_owned(), version: "v1".to_owned(), resources: vec![resource] };
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "additionalProperties": true}}});
    (group, [(kind, schema)].into())
}

#[test]
fn custom_kinds_have_documents_too() {
    let (group, schemas) = custom();
    let document = v3_document(&group, &schemas);
    assert_eq!(document.path, "apis/example.com/v1");
    let value: Value = serde_json::from_slice(&document.bytes).unwrap();
    assert_closed(&value, &value);
    let patch = &value["paths"]["/apis/example.com/v1/namespaces/{namespace}/things/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    let schema = &value["components"]["schemas"]["com.example.v1.Thing"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["group"], "example.com");
}

#[test]
fn swagger_is_closed_and_has_both_forms() {
    let (group, schemas) = custom();
    let mut groups = crate::discovery::built_in();
    groups.push(group);
    let swagger = v2_document(&groups, &schemas);
    let value: Value = serde_json::from_slice(&swagger.json).unwrap();
    assert_closed(&value, &value);
    let patch = &value["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(patch["consumes"].as_array().unwrap().len(), 4);
    assert_eq!(patch["parameters"][0]["in"], "body");
    assert_eq!(value["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
    assert!(value["definitions"].get("com.example.v1.Thing").is_some());

    // Document.swagger is field 1, Document.definitions field 9, with named schemas in field 1.
    let mut reader = crate::protobuf::wire::Reader::new(&swagger.protobuf);
    let mut count = 0;
    while let Some((number, scalar)) = reader.field().unwrap() {
        match number {
            1 => assert_eq!(scalar.text().unwrap(), "2.0"),
            9 => {
                let mut definitions = crate::protobuf::wire::Reader::new(scalar.bytes().unwrap());
                while definitions.field().unwrap().is_some() {
                    count += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(count, value["definitions"].as_object().unwrap().len());
}
