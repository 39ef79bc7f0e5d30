//! The operations of a group version, as the third version of OpenAPI writes them.

use serde_json::{Map, Value, json};

use super::{CustomSchemas, schemas};
use crate::discovery::{GroupVersion, GroupVersionKind, ResourceInfo, SubresourceInfo};
use crate::patch::PatchType;

/// Where a group version is served, without the first slash: `api/v1`, `apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// All paths of a group version.
pub(super) fn of_group(group: &GroupVersion, custom: &CustomSchemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in &group.resources {
        Maker { group, resource, custom }.paths(&mut paths);
    }
    paths
}

/// `(name, type, description)` of query parameters.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string", "All: run every check, and store nothing.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "Who makes this change, for managedFields.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn, Strict.");
const FORCE: Parameter = ("force", "boolean", "Take over fields that others own (apply patches only).");
const PRETTY: Parameter = ("pretty", "string", "If 'true', the answer is indented.");
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds between the request and the end; 0: now."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What dependents become: Orphan, Background, Foreground."),
];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    ("continue", "string", "Where the list goes on: the token of the page before."),
    ("fieldSelector", "string", "Only objects with these fields."),
    ("labelSelector", "string", "Only objects with these labels."),
    ("limit", "integer", "How many objects a page may have."),
    ("resourceVersion", "string", "How fresh the answer must be."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: NotOlderThan, Exact."),
    ("sendInitialEvents", "boolean", "Whether a watch starts with what is there."),
    ("timeoutSeconds", "integer", "How long the call may take."),
    ("watch", "boolean", "Stream changes instead of listing."),
];

struct Maker<'a> {
    group: &'a GroupVersion,
    resource: &'a ResourceInfo,
    custom: &'a CustomSchemas,
}

impl Maker<'_> {
    fn paths(&self, out: &mut Map<String, Value>) {
        let base = format!("/{}", root(&self.group.group, &self.group.version));
        let plural = &self.resource.plural;
        let namespaced = self.resource.namespaced;
        let collection = if namespaced {
            format!("{base}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{base}/{plural}")
        };
        let mut item = self.collection();
        if !item.is_empty() {
            self.add_path_parameters(&mut item, false);
            out.insert(collection.clone(), item.into());
        }
        let mut item = self.object();
        if !item.is_empty() {
            self.add_path_parameters(&mut item, true);
            out.insert(format!("{collection}/{{name}}"), item.into());
        }
        for part in &self.resource.subresources {
            let mut item = self.part(part);
            self.add_path_parameters(&mut item, true);
            out.insert(format!("{collection}/{{name}}/{}", part.name), item.into());
        }
        if namespaced && self.can("list") {
            let mut item = Map::new();
            item.insert("get".to_owned(), self.list("ForAllNamespaces"));
            item.insert("parameters".to_owned(), json!([query(&PRETTY)]));
            out.insert(format!("{base}/{plural}"), item.into());
        }
    }

    fn can(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|v| v == verb)
    }

    fn collection(&self) -> Map<String, Value> {
        let mut item = Map::new();
        let kind = &self.resource.kind;
        if self.can("list") {
            item.insert("get".to_owned(), self.list(""));
        }
        if self.can("create") {
            let operation = Operation { action: "post", id: "create", part: "", kind, parameters: WRITE };
            item.insert(
                "post".to_owned(),
                self.operation(&operation, Some(self.body(kind)), self.answers(kind, true)),
            );
        }
        if self.can("deletecollection") {
            let operation = Operation {
                action: "deletecollection",
                id: "deleteCollection",
                part: "",
                kind,
                parameters: DELETE,
            };
            let mut made = self.operation(&operation, Some(delete_body()), status_answer());
            if let Some(parameters) = made["parameters"].as_array_mut() {
                // A collection is deleted as it is listed.
                parameters.extend(
                    LIST.iter().filter(|p| p.0 != "watch" && p.0 != "allowWatchBookmarks").map(query),
                );
            }
            item.insert("delete".to_owned(), made);
        }
        item
    }

    fn object(&self) -> Map<String, Value> {
        let mut item = Map::new();
        let kind = &self.resource.kind;
        let verbs = ["get", "update", "delete", "patch"];
        for verb in verbs.into_iter().filter(|verb| self.can(verb)) {
            let (method, operation) = self.verb(verb, "", kind);
            item.insert(method.to_owned(), operation);
        }
        item
    }

    fn part(&self, part: &SubresourceInfo) -> Map<String, Value> {
        let mut item = Map::new();
        for verb in &part.verbs {
            let (method, operation) = self.verb(verb, &part.name, &part.kind);
            item.insert(method.to_owned(), operation);
        }
        item
    }

    /// An operation on one object or on a part of it: its method, and itself.
    fn verb(&self, verb: &str, part: &str, kind: &GroupVersionKind) -> (&'static str, Value) {
        let operation = |action, id, parameters| Operation { action, id, part, kind, parameters };
        match verb {
            "create" => (
                "post",
                self.operation(
                    &operation("post", "create", WRITE),
                    Some(self.body(kind)),
                    self.answers(kind, true),
                ),
            ),
            "update" => (
                "put",
                self.operation(
                    &operation("put", "replace", WRITE),
                    Some(self.body(kind)),
                    self.answers(kind, true),
                ),
            ),
            "patch" => (
                "patch",
                self.operation(
                    &operation("patch", "patch", PATCH),
                    Some(self.patch_body()),
                    self.answers(kind, true),
                ),
            ),
            "delete" => (
                "delete",
                self.operation(&operation("delete", "delete", DELETE), Some(delete_body()), status_answer()),
            ),
            _ => ("get", self.operation(&operation("get", "read", &[]), None, self.answers(kind, false))),
        }
    }

    fn list(&self, scope: &str) -> Value {
        let kind = &self.resource.kind;
        let schema =
            schemas::name_of(kind, self.custom).map(|name| schemas::reference(&schemas::list_name(&name)));
        let operation = Operation { action: "list", id: "list", part: scope, kind, parameters: LIST };
        let mut made = self.operation(&operation, None, answer("200", "OK", schema.as_ref()));
        if !scope.is_empty() {
            made["operationId"] = self.id("list", scope, false).into();
        }
        made
    }

    fn operation(&self, operation: &Operation<'_>, body: Option<Value>, responses: Value) -> Value {
        let kind = operation.kind;
        let parameters: Vec<Value> = operation.parameters.iter().map(query).collect();
        let of = if operation.part.is_empty() { String::new() } else { format!("{} of ", operation.part) };
        let mut made = json!({
            "tags": [self.tag()],
            "description": format!("{} {of}{}", operation.id, self.resource.kind.kind),
            "operationId": self.id(operation.id, operation.part, self.resource.namespaced),
            "parameters": parameters,
            "responses": responses,
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind":
                {"group": kind.group, "version": kind.version, "kind": kind.kind},
        });
        if let Some(body) = body {
            made["requestBody"] = body;
        }
        made
    }

    /// `apps_v1`
    fn tag(&self) -> String {
        let group = if self.group.group.is_empty() { "core" } else { group_word(&self.group.group) };
        format!("{}_{}", group.replace('.', "_"), self.group.version)
    }

    /// `createAppsV1NamespacedDeployment`
    fn id(&self, verb: &str, part: &str, namespaced: bool) -> String {
        let group = if self.group.group.is_empty() { "core" } else { group_word(&self.group.group) };
        let group: String = group.split('.').map(capitalized).collect();
        let namespaced = if namespaced { "Namespaced" } else { "" };
        format!(
            "{verb}{group}{}{namespaced}{}{}",
            capitalized(&self.group.version),
            self.resource.kind.kind,
            capitalized(part)
        )
    }

    fn schema(&self, kind: &GroupVersionKind) -> Option<Value> {
        schemas::name_of(kind, self.custom).map(|name| schemas::reference(&name))
    }

    fn body(&self, kind: &GroupVersionKind) -> Value {
        let schema = self.schema(kind).unwrap_or_else(|| json!({"type": "object"}));
        json!({"content": {"*/*": {"schema": schema}}, "required": true})
    }

    fn patch_body(&self) -> Value {
        let schema = schemas::reference(&schemas::meta_name("Patch"));
        let custom = self.custom.contains_key(&self.resource.kind);
        let mut content = Map::new();
        for patch_type in PatchType::ALL {
            // Custom resources say nothing about strategic merging.
            if !(custom && patch_type == PatchType::Strategic) {
                content.insert(patch_type.content_type().to_owned(), json!({"schema": schema}));
            }
        }
        json!({"content": content, "required": true})
    }

    fn answers(&self, kind: &GroupVersionKind, may_create: bool) -> Value {
        let schema = self.schema(kind);
        let mut answers = answer("200", "OK", schema.as_ref());
        if may_create
            && let (Some(all), Value::Object(created)) =
                (answers.as_object_mut(), answer("201", "Created", schema.as_ref()))
        {
            all.extend(created);
        }
        answers
    }

    fn add_path_parameters(&self, item: &mut Map<String, Value>, named: bool) {
        let mut parameters = Vec::new();
        if named {
            parameters.push(path_parameter("name", &format!("name of the {}", self.resource.kind.kind)));
        }
        if self.resource.namespaced {
            parameters.push(path_parameter("namespace", "the namespace it is in"));
        }
        parameters.push(query(&PRETTY));
        item.insert("parameters".to_owned(), parameters.into());
    }
}

struct Operation<'a> {
    /// `x-kubernetes-action`
    action: &'static str,
    /// Start of the operation's id.
    id: &'static str,
    /// The subresource, or the scope of a list.
    part: &'a str,
    kind: &'a GroupVersionKind,
    parameters: &'static [Parameter],
}

fn delete_body() -> Value {
    json!({"content": {"*/*": {"schema": schemas::reference(&schemas::meta_name("DeleteOptions"))}}})
}

fn status_answer() -> Value {
    answer("200", "OK", Some(&schemas::reference(&schemas::meta_name("Status"))))
}

fn answer(code: &str, description: &str, schema: Option<&Value>) -> Value {
    let mut answer = json!({"description": description});
    if let Some(schema) = schema {
        answer["content"] = json!({"application/json": {"schema": schema}});
    }
    json!({code: answer, "401": {"description": "Unauthorized"}})
}

fn query((name, kind, description): &Parameter) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "description": description, "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

fn group_word(group: &str) -> &str {
    group.strip_suffix(".k8s.io").unwrap_or(group)
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
