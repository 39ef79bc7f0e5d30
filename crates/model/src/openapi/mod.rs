//! OpenAPI documents: what clients validate, explain and patch by.
//!
//! - `schemas`: schemas of all built-in types, with how they merge;
//! - `paths`: operations of a group version, third version of OpenAPI;
//! - `swagger`: the same in the second version, one document for everything;
//! - `gnostic`: that document as protobuf, which is how clients ask for it.
//!
//! kubectl reads more out of these than documentation: whether the server validates fields (PATCH has
//! a parameter `fieldValidation`), and whether a kind takes strategic merge patches (the content types
//! of PATCH). Documents of built-in kinds are made once, when first asked for; custom resources come
//! as arguments.

mod gnostic;
mod paths;
mod schemas;
mod swagger;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::KUBERNETES_VERSION;
use crate::discovery::{self, GroupVersion, GroupVersionKind};

/// Schemas of custom kinds: `openAPIV3Schema` of their versions.
pub type CustomSchemas = BTreeMap<GroupVersionKind, Value>;

/// One document, as it is served.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it stands below `/openapi/v3/`, `apis/apps/v1`.
    pub path: String,
    /// Its JSON.
    pub bytes: Bytes,
    /// Tells it from its other versions.
    pub hash: String,
}

/// The document of a group version, third version of OpenAPI.
pub fn v3_document(group: &GroupVersion, custom: &CustomSchemas) -> Document {
    let paths = paths::of_group(group, custom);
    let mut components = Map::new();
    schemas::collect(&paths, custom, &mut components);
    let document = json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication",
                "name": "authorization", "in": "header",
            }},
        },
    });
    let bytes = Bytes::from(document.to_string());
    let hash = discovery::hash(&bytes);
    Document { path: paths::root(&group.group, &group.version), bytes, hash }
}

/// The documents of everything that is built in.
pub fn v3_built_in() -> &'static [Document] {
    static DOCUMENTS: LazyLock<Vec<Document>> = LazyLock::new(|| {
        let measures = measures();
        discovery::built_in().iter().map(|group| v3_document(group, &measures)).collect()
    });
    &DOCUMENTS
}

/// `GET /openapi/v3`: where the documents are.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = &'a Document>) -> Value {
    let mut paths = Map::new();
    for document in documents {
        let url = format!("/openapi/v3/{}?hash={}", document.path, document.hash);
        paths.insert(document.path.clone(), json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

/// The one document of the second version, in both of its forms.
#[derive(Clone, Debug)]
pub struct Swagger {
    /// `application/json`
    pub json: Bytes,
    /// `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`
    pub protobuf: Bytes,
    /// Tells it from its other versions.
    pub hash: String,
}

/// `GET /openapi/v2`: everything that `groups` name.
pub fn v2_document(groups: &[GroupVersion], custom: &CustomSchemas) -> Swagger {
    let mut paths = Map::new();
    for group in groups {
        paths.extend(paths::of_group(group, custom));
    }
    let mut definitions = Map::new();
    schemas::collect(&paths, custom, &mut definitions);
    let document = swagger::document(info(), paths, definitions);
    let json = Bytes::from(document.to_string());
    let hash = discovery::hash(&json);
    Swagger { json, protobuf: gnostic::document(&document).into(), hash }
}

/// The second version's document of everything that is built in.
pub fn v2_built_in() -> &'static Swagger {
    static SWAGGER: LazyLock<Swagger> = LazyLock::new(|| v2_document(&discovery::built_in(), &measures()));
    &SWAGGER
}

/// Schemas of what is measured and has no type: `metrics.k8s.io`.
fn measures() -> CustomSchemas {
    let quantity = json!({"type": "string", "description": "An amount, `100m` or `1Gi`."});
    let usage = json!({
        "type": "object", "description": "What is used, by the name of the resource.", "additionalProperties": quantity,
    });
    let common = |what: &str, more: (&str, Value)| {
        let mut properties = json!({
            "timestamp": {"type": "string", "format": "date-time", "description": "When it was measured."},
            "window": {"type": "string", "description": "Over how long it was measured."},
        });
        properties[more.0] = more.1;
        json!({"type": "object", "description": what, "properties": properties})
    };
    let container = json!({"type": "object", "properties": {
        "name": {"type": "string", "description": "The container's name."}, "usage": usage,
    }});
    let containers = json!({"type": "array", "description": "What each container uses.", "items": container});
    let kind = |kind: &str| GroupVersionKind::new("metrics.k8s.io", "v1beta1", kind);
    CustomSchemas::from([
        (kind("NodeMetrics"), common("What a node uses.", ("usage", usage.clone()))),
        (kind("PodMetrics"), common("What the containers of a pod use.", ("containers", containers))),
    ])
}

fn info() -> Value {
    let (major, minor, patch) = KUBERNETES_VERSION;
    json!({"title": "Kubernetes", "version": format!("v{major}.{minor}.{patch}")})
}

#[cfg(test)]
mod tests;
