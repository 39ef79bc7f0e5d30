//! Every kind that discovery names, and every verb that it says the kind has: status codes, reasons, revisions,
//! tables. The objects are in `kinds.yaml`; what is asked of them is the same for all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use balsa_testkit::{Connection, Rest, Watch};
use bytes::Bytes;
use http::{Method, Request};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(crate) const NAMESPACE: &str = "every-kind";
const NAMES: (&str, &str) = ("every-a", "every-b");
const LABEL: &str = "conformance.balsa.dev/every=kind";
const MERGE: &str = "application/merge-patch+json";
/// How long a controller may take to let go of an object that is deleted.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `kinds.yaml` says of a kind.
#[derive(Clone, Deserialize)]
pub(crate) struct Sample {
    /// The only verbs that are asked for, of kinds that are questions rather than objects.
    #[serde(default)]
    only: Vec<String>,
    /// Why nothing is asked, and where it is instead.
    skipped: Option<String>,
    name: Option<String>,
    second: Option<String>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// The samples by `group/version/plural`; the core group has no `group/`.
pub(crate) fn samples() -> BTreeMap<String, Sample> {
    let path = super::case::folder().join("../tests/conformance/kinds.yaml");
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A resource as discovery has it.
pub(crate) struct Resource {
    /// `v1/pods`, `apps/v1/deployments`.
    pub(crate) id: String,
    api_version: String,
    kind: String,
    plural: String,
    namespaced: bool,
    verbs: Vec<String>,
    subresources: Vec<String>,
}

/// All resources of all groups and versions.
pub(crate) async fn discover(rest: &Rest) -> Vec<Resource> {
    let mut found = Vec::new();
    let get = async |path: String| rest.call(Method::GET, &path, &Value::Null).await.unwrap().body;
    let mut versions = vec!["v1".to_owned()];
    for group in list(&get("/apis".to_owned()).await, "/groups") {
        versions.extend(list(&group, "/versions").iter().map(|version| text(version, "/groupVersion")));
    }
    for api_version in versions {
        let all = list(&get(root(&api_version)).await, "/resources");
        let (parts, whole): (Vec<&Value>, Vec<&Value>) =
            all.iter().partition(|resource| text(resource, "/name").contains('/'));
        for resource in whole {
            let plural = text(resource, "/name");
            let part =
                |part: &&Value| text(part, "/name").strip_prefix(&format!("{plural}/")).map(str::to_owned);
            found.push(Resource {
                id: format!("{api_version}/{plural}"),
                api_version: api_version.clone(),
                kind: text(resource, "/kind"),
                namespaced: resource["namespaced"] == true,
                verbs: list(resource, "/verbs")
                    .iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect(),
                subresources: parts.iter().filter_map(part).collect(),
                plural,
            });
        }
    }
    found
}

fn root(api_version: &str) -> String {
    format!("/{}/{api_version}", if api_version.contains('/') { "apis" } else { "api" })
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(value: &Value, pointer: &str) -> Vec<Value> {
    value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or(0)
}

/// The questions to one kind. What is not as it should be is kept, and the next question asked.
struct Examination<'a> {
    resource: &'a Resource,
    sample: &'a Sample,
    connection: Connection,
    wrong: Vec<String>,
}

/// All that is wrong with a kind.
pub(crate) async fn examine(rest: &Rest, resource: &Resource, sample: &Sample) -> Vec<String> {
    if sample.skipped.is_some() {
        return Vec::new();
    }
    let connection = rest.connect().await.unwrap();
    let mut it = Examination { resource, sample, connection, wrong: Vec::new() };
    if sample.only.is_empty() {
        let mut watch = rest.watch(&it.url("?watch=true&resourceVersion=0")).await.unwrap();
        it.is_created().await;
        it.is_read().await;
        it.has_rows().await;
        it.is_updated().await;
        it.is_patched().await;
        it.has_parts().await;
        it.refuses_what_it_has_not().await;
        it.is_deleted().await;
        it.was_watched(&mut watch).await;
    } else if sample.only == ["create"] {
        let mut question = it.object(NAMES.0);
        // It is nobody's object, and may not be named like one.
        question["metadata"] = json!({});
        it.expect("a question is answered", 201, Method::POST, "", &question).await;
    } else {
        it.expect("it is listed", 200, Method::GET, "", &Value::Null).await;
    }
    it.wrong.iter().map(|wrong| format!("{}: {wrong}", resource.id)).collect()
}

impl Examination<'_> {
    /// The names of the two objects.
    fn names(&self) -> (String, String) {
        let or = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
        (or(&self.sample.name, NAMES.0), or(&self.sample.second, NAMES.1))
    }

    /// Where the kind is; `rest` begins with `/` or `?`, or is empty.
    fn url(&self, rest: &str) -> String {
        let namespace =
            if self.resource.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        format!("{}{namespace}/{}{rest}", root(&self.resource.api_version), self.resource.plural)
    }

    fn object(&self, name: &str) -> Value {
        let (label, value) = LABEL.split_once('=').unwrap();
        let mut object = json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind,
            "metadata": {"name": name, "labels": {label: value}},
        });
        object.as_object_mut().unwrap().extend(self.sample.fields.clone());
        object
    }

    fn check(&mut self, what: &str, holds: bool, seen: &Value) {
        if !holds {
            self.wrong.push(format!("{what}: {}", seen.to_string().chars().take(300).collect::<String>()));
        }
    }

    async fn ask(&mut self, method: Method, rest: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.connection.raw(method, &self.url(rest), content_type, body).await.unwrap();
        (answer.code, answer.body)
    }

    /// Asks with JSON; what the answer holds.
    async fn expect(&mut self, what: &str, code: u16, method: Method, rest: &str, body: &Value) -> Value {
        self.expect_of(what, code, method, rest, "application/json", body).await
    }

    async fn expect_of(
        &mut self,
        what: &str,
        code: u16,
        method: Method,
        rest: &str,
        content_type: &str,
        body: &Value,
    ) -> Value {
        let (got, answer) = self.ask(method, rest, content_type, body).await;
        self.check(&format!("{what}: {got} and not {code}"), got == code, &answer);
        if code >= 400 && got == code {
            let is_status =
                answer["kind"] == "Status" && answer["status"] == "Failure" && answer["code"] == code;
            self.check(&format!("{what}: a Status"), is_status, &answer);
        }
        answer
    }

    async fn expect_reason(
        &mut self,
        what: &str,
        code: u16,
        reason: &str,
        method: Method,
        rest: &str,
        body: &Value,
    ) {
        let answer = self.expect(what, code, method, rest, body).await;
        self.check(&format!("{what}: reason {reason}"), answer["reason"] == reason, &answer);
    }

    async fn is_created(&mut self) {
        let (name, second) = self.names();
        self.expect_reason(
            "none of that name",
            404,
            "NotFound",
            Method::GET,
            &format!("/{name}"),
            &Value::Null,
        )
        .await;
        let dry = self.object(&name);
        self.expect("tried", 201, Method::POST, "?dryRun=All", &dry).await;
        self.expect("only tried", 404, Method::GET, &format!("/{name}"), &Value::Null).await;
        for name in [&name, &second] {
            let made = self.expect("made", 201, Method::POST, "", &self.object(name)).await;
            let complete = revision(&made) > 0
                && ["/metadata/uid", "/metadata/creationTimestamp"]
                    .iter()
                    .all(|at| !text(&made, at).is_empty())
                && made["kind"] == self.resource.kind.as_str()
                && made["apiVersion"] == self.resource.api_version.as_str();
            self.check("what was made is told", complete, &made);
        }
        let again = self.object(&name);
        self.expect_reason("made again", 409, "AlreadyExists", Method::POST, "", &again).await;
        let mut other = self.object(&second);
        other["kind"] = "Other".into();
        self.expect_reason("of another kind", 400, "BadRequest", Method::POST, "", &other).await;
        let bad = self.object("a/b");
        self.expect_reason("with a bad name", 422, "Invalid", Method::POST, "", &bad).await;
        if self.resource.namespaced {
            let mut elsewhere = self.object(&second);
            elsewhere["metadata"]["namespace"] = "elsewhere".into();
            self.expect_reason("of another namespace", 400, "BadRequest", Method::POST, "", &elsewhere).await;
        }
    }

    async fn is_read(&mut self) {
        let (name, _) = self.names();
        let item = format!("/{name}");
        let one = self.expect("got", 200, Method::GET, &item, &Value::Null).await;
        self.check("its name", one.pointer("/metadata/name") == Some(&name.as_str().into()), &one);
        let as_known = format!("{item}?resourceVersion=0");
        let known = self.expect("got as known", 200, Method::GET, &as_known, &Value::Null).await;
        self.check("its uid", known.pointer("/metadata/uid") == one.pointer("/metadata/uid"), &known);
        let wanted = format!("?labelSelector={}", LABEL.replace('/', "%2F").replace('=', "%3D"));
        let all = self.expect("listed", 200, Method::GET, &wanted, &Value::Null).await;
        let is_list =
            all["kind"] == format!("{}List", self.resource.kind) && revision(&all) >= revision(&one);
        self.check("a list of two", is_list && list(&all, "/items").len() == 2, &all);
        let page = self.expect("a page", 200, Method::GET, &format!("{wanted}&limit=1"), &Value::Null).await;
        let token = text(&page, "/metadata/continue");
        self.check("there is more", list(&page, "/items").len() == 1 && !token.is_empty(), &page);
        let next = format!("{wanted}&limit=1&continue={token}");
        let next = self.expect("the next page", 200, Method::GET, &next, &Value::Null).await;
        let last = list(&next, "/items").len() == 1 && text(&next, "/metadata/continue").is_empty();
        self.check("the last page", last && revision(&next) == revision(&page), &next);
        let named = format!("?fieldSelector=metadata.name%3D{name}");
        let named = self.expect("by its name", 200, Method::GET, &named, &Value::Null).await;
        self.check("one by its name", list(&named, "/items").len() == 1, &named);
        let unknown = "?fieldSelector=no.such%3Dfield";
        self.expect_reason(
            "by a field that it has not",
            400,
            "BadRequest",
            Method::GET,
            unknown,
            &Value::Null,
        )
        .await;
        let matching = "?resourceVersionMatch=Exact";
        self.expect_reason("matching nothing", 422, "Invalid", Method::GET, matching, &Value::Null).await;
    }

    /// As kubectl prints it, and its metadata alone.
    async fn has_rows(&mut self) {
        let (name, _) = self.names();
        for (accept, kind) in [
            ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
            ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
        ] {
            let request = Request::get(self.url(&format!("/{name}"))).header("accept", accept);
            let response = self.connection.exchange(request.body(Bytes::new()).unwrap()).await.unwrap();
            let got: Value = serde_json::from_slice(response.body()).unwrap_or_default();
            self.check(&format!("as {kind}"), response.status() == 200 && got["kind"] == kind, &got);
            if kind == "Table" {
                let columns = list(&got, "/columnDefinitions");
                let cells = list(&got, "/rows/0/cells");
                let place = columns.iter().position(|column| column["name"] == "Name");
                let fits = columns.len() == cells.len()
                    && columns.iter().all(|c| !text(c, "/description").is_empty());
                let named = place.is_some_and(|place| cells.get(place) == Some(&name.as_str().into()));
                self.check("a row with its name", fits && named, &got);
            } else {
                self.check("only metadata", got.get("spec").is_none() && revision(&got) > 0, &got);
            }
        }
    }

    /// The object as it is now, for a write that a controller may come before.
    async fn present(&mut self) -> Value {
        let (name, _) = self.names();
        self.ask(Method::GET, &format!("/{name}"), "", &Value::Null).await.1
    }

    async fn is_updated(&mut self) {
        let item = format!("/{}", self.names().0);
        let before = self.put(&item, "put as it is", |_| {}).await;
        self.check("put as it is, nothing changes", before.0 == before.1, &json!([before.0, before.1]));
        let (old, new) =
            self.put(&item, "put", |object| object["metadata"]["labels"]["turn"] = "1".into()).await;
        self.check("a new revision", new > old, &json!([old, new]));
        let mut late = self.present().await;
        late["metadata"]["resourceVersion"] = old.to_string().into();
        late["metadata"]["labels"]["turn"] = "2".into();
        self.expect_reason("put too late", 409, "Conflict", Method::PUT, &item, &late).await;
        late["metadata"]["name"] = "another".into();
        self.expect_reason("put as another", 400, "BadRequest", Method::PUT, &item, &late).await;
    }

    /// Puts the object as `change` leaves it, again where a controller was faster; its revisions before and after.
    async fn put(&mut self, item: &str, what: &str, change: impl Fn(&mut Value)) -> (u64, u64) {
        loop {
            let before = self.present().await;
            let mut object = before.clone();
            change(&mut object);
            let (code, after) = self.ask(Method::PUT, item, "application/json", &object).await;
            if code != 409 {
                self.check(&format!("{what}: {code} and not 200"), code == 200, &after);
                return (revision(&before), revision(&after));
            }
        }
    }

    async fn is_patched(&mut self) {
        let item = format!("/{}", self.names().0);
        let applied = self.expect_applied(&item).await;
        let mut newest = revision(&applied);
        let label = |value: &str| json!({"metadata": {"labels": {"turn": value}}});
        let replace = json!([{"op": "replace", "path": "/metadata/labels/turn", "value": "json"}]);
        for (kind, patch) in [
            (MERGE, label("merge")),
            ("application/strategic-merge-patch+json", label("strategic")),
            ("application/json-patch+json", replace),
        ] {
            let patched = self.expect_of(kind, 200, Method::PATCH, &item, kind, &patch).await;
            self.check(&format!("{kind}: a new revision"), revision(&patched) > newest, &patched);
            newest = revision(&patched);
        }
        let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"turn": "late"}}});
        let late = self.expect_of("patched too late", 409, Method::PATCH, &item, MERGE, &stale).await;
        self.check("patched too late: a conflict", late["reason"] == "Conflict", &late);
        self.expect_of("patched by nothing known", 415, Method::PATCH, &item, "text/plain", &json!({})).await;
        self.expect_of("nothing patched", 404, Method::PATCH, "/nobody", MERGE, &label("none")).await;
        let failing = json!([{"op": "test", "path": "/metadata/name", "value": "another"}]);
        let kind = "application/json-patch+json";
        let refused = self.expect_of("a test that fails", 422, Method::PATCH, &item, kind, &failing).await;
        self.check("a test that fails: reason", refused["reason"] == "Invalid", &refused);
    }

    /// A label applied, which has an owner then.
    async fn expect_applied(&mut self, item: &str) -> Value {
        let (name, _) = self.names();
        let wanted = json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind,
            "metadata": {"name": name, "labels": {"applied": "yes"}},
        });
        let path = format!("{item}?fieldManager=examiner");
        let kind = "application/apply-patch+yaml";
        let applied = self.expect_of("applied", 200, Method::PATCH, &path, kind, &wanted).await;
        let owned = list(&applied, "/metadata/managedFields")
            .iter()
            .any(|entry| entry["manager"] == "examiner" && entry["operation"] == "Apply");
        self.check("applied: with an owner", owned, &applied);
        self.expect_of("applied by nobody", 422, Method::PATCH, item, kind, &wanted).await;
        applied
    }

    /// Those of its parts that are got and put.
    async fn has_parts(&mut self) {
        let (name, _) = self.names();
        for part in ["status", "scale"] {
            if !self.resource.subresources.iter().any(|has| has == part) {
                self.expect(
                    &format!("no {part}"),
                    404,
                    Method::GET,
                    &format!("/{name}/{part}"),
                    &Value::Null,
                )
                .await;
                continue;
            }
            let path = format!("/{name}/{part}");
            loop {
                let present = self.expect(part, 200, Method::GET, &path, &Value::Null).await;
                let (code, put) = self.ask(Method::PUT, &path, "application/json", &present).await;
                if code != 409 {
                    self.check(&format!("{part} put as it is: {code}"), code == 200, &put);
                    break;
                }
            }
        }
    }

    async fn refuses_what_it_has_not(&mut self) {
        let item = format!("/{}", self.names().0);
        let object = self.object("another");
        self.expect_reason("posted to", 405, "MethodNotAllowed", Method::POST, &item, &object).await;
        self.expect_reason("put to all", 405, "MethodNotAllowed", Method::PUT, "", &object).await;
        self.expect("a part that it has not", 404, Method::GET, &format!("{item}/nothing"), &Value::Null)
            .await;
        if !self.resource.verbs.iter().any(|verb| verb == "deletecollection") {
            self.expect_reason(
                "deleted as a whole",
                405,
                "MethodNotAllowed",
                Method::DELETE,
                "",
                &Value::Null,
            )
            .await;
        }
    }

    async fn is_deleted(&mut self) {
        let (name, second) = self.names();
        let item = format!("/{name}");
        let another = json!({"preconditions": {"uid": "another"}});
        self.expect_reason("another deleted", 409, "Conflict", Method::DELETE, &item, &another).await;
        self.expect("deletion tried", 200, Method::DELETE, &format!("{item}?dryRun=All"), &Value::Null).await;
        self.expect("not deleted", 200, Method::GET, &item, &Value::Null).await;
        self.expect("deleted", 200, Method::DELETE, &item, &Value::Null).await;
        if self.resource.verbs.iter().any(|verb| verb == "deletecollection") {
            let all = format!("?labelSelector={}", LABEL.replace('/', "%2F").replace('=', "%3D"));
            self.expect("all deleted", 200, Method::DELETE, &all, &Value::Null).await;
        } else {
            self.expect("the other deleted", 200, Method::DELETE, &format!("/{second}"), &Value::Null).await;
        }
        for name in [&name, &second] {
            let deadline = Instant::now() + PATIENCE;
            let gone = loop {
                let (code, left) = self.ask(Method::GET, &format!("/{name}"), "", &Value::Null).await;
                if code == 404 || Instant::now() > deadline {
                    break (code == 404, left);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            self.check(&format!("{name} is gone"), gone.0, &gone.1);
        }
        self.expect_reason("deleted again", 404, "NotFound", Method::DELETE, &item, &Value::Null).await;
    }

    /// What a watch told of the first object: added, modified, deleted, each later than the one before.
    async fn was_watched(&mut self, watch: &mut Watch) {
        let (name, _) = self.names();
        let (mut told, mut newest) = (Vec::new(), 0);
        while told.last().is_none_or(|last| last != "DELETED") {
            let event = tokio::time::timeout(PATIENCE, watch.next()).await;
            let Ok(Ok(Some(event))) = event else {
                self.check("a watch goes on until it is deleted", false, &json!(told));
                return;
            };
            if event.pointer("/object/metadata/name") != Some(&name.as_str().into()) {
                continue;
            }
            let later = revision(&event["object"]) > newest;
            self.check("a watch goes forward", later, &event);
            newest = revision(&event["object"]);
            told.push(text(&event, "/type"));
        }
        let between = told.get(1..told.len() - 1).unwrap_or_default();
        let in_order =
            told[0] == "ADDED" && !between.is_empty() && between.iter().all(|kind| kind == "MODIFIED");
        self.check("a watch tells all of it in order", in_order, &json!(told));
    }
}
