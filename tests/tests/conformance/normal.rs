//! Answers made comparable: what differs from run to run (names, UIDs, versions, times, ages, addresses)
//! becomes a placeholder, given out by first appearance or by rank, so that equality and order count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value, json};

use crate::case::{Case, Step, drop_pointer};
use crate::replay::{Answer, Run};

static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap());
static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)").unwrap());
static IPV4: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d+\.\d+\.\d+\.\d+$").unwrap());
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(\d+(y|d|h|m|s))+$").unwrap());
static NODE_PORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r":\d{5}/").unwrap());

/// What is replaced in every text, and by what.
static TEXTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
        (r"(resource version: \d+ \()\d+\)", "${1}<rv>)"),
        (r"(current: )\d+", "${1}<rv>"),
        (r#"(\\?"resourceVersion\\?":\\?")\d+"#, "${1}<rv>"),
        (r"0x[0-9a-f]{8,}", "<address>"),
        (r"(?s)\n\W*core\.\w+\{\n.*", "\n<diff>"),
    ]
    .map(|(pattern, with)| (Regex::new(pattern).unwrap(), with))
    .into()
});
static IN_MESSAGE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(ResourceVersion in (?:the precondition|record) \()(\d+)\)").unwrap());

/// Groups, and of them the versions, that the recordings tell of.
const GROUPS: [&str; 16] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
];

/// A step, its answer, and the body and the events of that as they are compared.
type Prepared<'a> = (&'a Step, &'a Answer, Option<Value>, Option<Vec<Value>>);

/// The answers of a run as a recording has them.
pub(crate) fn recording(run: &Run<'_>) -> Vec<Value> {
    let prepared: Vec<Prepared<'_>> = run
        .answers
        .iter()
        .map(|(step, answer)| {
            let (mut body, mut events) = (answer.body.clone(), answer.events.clone());
            if let Some(body) = &mut body {
                prepare(body, run.case, step);
            }
            if let Some(events) = &mut events {
                prepare_events(events, run.case, step);
            }
            (*step, answer, body, events)
        })
        .collect();
    let mut names = Placeholders::default();
    for (step, _, body, events) in prepared.iter().filter(|(step, ..)| !step.quiet) {
        let _ = step;
        body.iter().for_each(|body| names.collect(body, run));
        events.iter().flatten().for_each(|event| names.collect(event, run));
    }
    names.rank();
    prepared
        .into_iter()
        .map(|(step, answer, body, events)| names.step(run, step, answer, body, events))
        .collect()
}

fn prepare_events(events: &mut Vec<Value>, case: &Case, step: &Step) {
    events.retain(|e| e.pointer("/object/metadata/name").and_then(Value::as_str) != Some("kube-root-ca.crt"));
    if step.unordered {
        events.sort_by_key(|event| {
            let name = event.pointer("/object/metadata/name");
            name.or_else(|| event.pointer("/object/rows/0/object/metadata/name")).map(Value::to_string)
        });
    }
    for event in events {
        if let Some(object) = event.get_mut("object") {
            prepare(object, case, step);
        }
    }
}

/// Takes away what is never compared, before numbers are given out.
fn prepare(document: &mut Value, case: &Case, step: &Step) {
    clean(document, case);
    if step.unordered
        && let Some(items) = document.get_mut("items").and_then(Value::as_array_mut)
    {
        items.sort_by_key(|item| item.pointer("/metadata/name").map(Value::to_string));
    }
    for pointer in case.drop.iter().chain(&step.drop) {
        drop_pointer(document, pointer);
    }
    if let Some(pick) = &step.pick
        && document.is_object()
        && document["kind"] != "Status"
    {
        let picked = pick.iter().map(|p| (p.clone(), document.pointer(p).cloned().unwrap_or_default()));
        *document = Value::Object(picked.collect());
    }
}

fn managers(case: &Case) -> BTreeSet<&str> {
    let named = case.steps.iter().filter_map(|step| step.query.get("fieldManager")?.as_str());
    named.chain(["golden"]).collect()
}

fn clean(value: &mut Value, case: &Case) {
    if let Value::Object(map) = value {
        clean_managed(map, case);
        if is_list(map)
            && let Some(items) = map.get_mut("items").and_then(Value::as_array_mut)
        {
            items.retain(|item| item.pointer("/metadata/name") != Some(&json!("kube-root-ca.crt")));
        }
        match map.get("kind").and_then(Value::as_str) {
            Some("Table") => clean_table(map, case),
            Some("APIGroupList") => {
                if let Some(groups) = map.get_mut("groups").and_then(Value::as_array_mut) {
                    groups.retain_mut(keep_group);
                }
            }
            Some("APIGroup") => drop(keep_group(value)),
            Some("APIVersions") => drop(map.shift_remove("serverAddressByClientCIDRs")),
            _ => {}
        }
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| clean(value, case)),
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, case)),
        _ => {}
    }
}

fn clean_managed(map: &mut Map<String, Value>, case: &Case) {
    let Some(Value::Array(managed)) = map.get_mut("managedFields") else { return };
    if !case.managed_fields {
        map.shift_remove("managedFields");
        return;
    }
    let mine = managers(case);
    managed.retain(|entry| entry["manager"].as_str().is_some_and(|manager| mine.contains(manager)));
    managed.sort_by_key(|entry| {
        ["operation", "manager", "subresource", "apiVersion"]
            .map(|field| entry[field].as_str().unwrap_or_default().to_owned())
    });
}

fn clean_table(map: &mut Map<String, Value>, case: &Case) {
    for column in map.get_mut("columnDefinitions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(column) = column.as_object_mut() {
            column.shift_remove("description");
        }
    }
    let rows = map.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
    for cell in rows.filter_map(|row| row.get_mut("cells")?.as_array_mut()).flatten() {
        let Some(text) = cell.as_str() else { continue };
        *cell = if AGE.is_match(text) {
            "<age>".into()
        } else if IPV4.is_match(text) && !case.text.contains(text) {
            "<ip>".into()
        } else {
            NODE_PORT.replace_all(text, ":<port>/").into_owned().into()
        };
    }
}

fn keep_group(group: &mut Value) -> bool {
    if !GROUPS.iter().any(|known| group["name"] == *known) {
        return false;
    }
    if let Some(versions) = group.get_mut("versions").and_then(Value::as_array_mut) {
        versions.retain(|version| version["version"] == "v1");
    }
    if let Some(group) = group.as_object_mut() {
        group.shift_remove("serverAddressByClientCIDRs");
    }
    true
}

fn is_list(map: &Map<String, Value>) -> bool {
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    (kind.ends_with("List") || kind == "Table")
        && map.contains_key("metadata")
        && !kind.starts_with("APIResource")
}

/// What stands for what.
#[derive(Default)]
struct Placeholders {
    uids: BTreeMap<String, String>,
    versions: BTreeSet<u64>,
    ranks: BTreeMap<u64, String>,
    /// Generated names.
    names: Vec<(String, String)>,
}

impl Placeholders {
    fn collect(&mut self, value: &Value, run: &Run<'_>) {
        match value {
            Value::String(text) => {
                for found in UUID.find_iter(text).filter(|found| !run.case.text.contains(found.as_str())) {
                    let next = format!("<uid-{}>", self.uids.len() + 1);
                    self.uids.entry(found.as_str().to_owned()).or_insert(next);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.collect(item, run)),
            Value::Object(map) => {
                let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
                if map.contains_key("uid") {
                    self.versions.extend(text("resourceVersion").parse::<u64>().ok());
                }
                let (base, name) = (text("generateName"), text("name"));
                if !base.is_empty()
                    && name.starts_with(base)
                    && !run.case.text.contains(name)
                    && !self.names.iter().any(|(known, _)| known == name)
                {
                    let with = format!("{base}<rand-{}>", self.names.len() + 1);
                    self.names.push((name.to_owned(), with));
                }
                let mut fields: Vec<_> = map.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                fields.into_iter().for_each(|(_, value)| self.collect(value, run));
            }
            _ => {}
        }
    }

    fn rank(&mut self) {
        let ranked = self.versions.iter().enumerate().map(|(i, v)| (*v, format!("<rv-{}>", i + 1)));
        self.ranks = ranked.collect();
        self.names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    fn text(&self, text: &str, run: &Run<'_>) -> String {
        let literal = &run.case.text;
        let mut text = text.to_owned();
        for (name, with) in &self.names {
            text = text.replace(name, with);
        }
        text = text.replace(&run.names.namespace, "<ns>").replace(&run.names.word, "<x>");
        let uid = |c: &Captures<'_>| self.uids.get(&c[0]).cloned().unwrap_or_else(|| c[0].to_owned());
        text = UUID.replace_all(&text, uid).into_owned();
        let time = |c: &Captures<'_>| {
            if literal.contains(&c[0]) { c[0].to_owned() } else { "<time>".to_owned() }
        };
        text = TIME.replace_all(&text, time).into_owned();
        let version = |c: &Captures<'_>| {
            let said = literal.contains(&format!("\"{}\"", &c[2]));
            if said { c[0].to_owned() } else { format!("{}<rv>)", &c[1]) }
        };
        text = IN_MESSAGE.replace_all(&text, version).into_owned();
        for (pattern, with) in TEXTS.iter() {
            text = pattern.replace_all(&text, *with).into_owned();
        }
        text
    }

    fn value(&self, value: &Value, run: &Run<'_>, requested: &str) -> Value {
        match value {
            Value::String(text) => self.text(text, run).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item, run, requested)).collect(),
            Value::Object(map) => {
                let is_list = is_list(map);
                let field = |(name, value): (&String, &Value)| {
                    if name == "metadata" && is_list && value.is_object() {
                        return (name.clone(), list_meta(value, requested));
                    }
                    (self.text(name, run), self.field(name, value, run, requested))
                };
                Value::Object(map.iter().map(field).collect())
            }
            other => other.clone(),
        }
    }

    fn field(&self, name: &str, value: &Value, run: &Run<'_>, requested: &str) -> Value {
        let literal = &run.case.text;
        let text = value.as_str().unwrap_or_default();
        let is_address = |text: &str| IPV4.is_match(text) && !literal.contains(text);
        match name {
            "resourceVersion" if text.parse::<u64>().is_ok() => {
                let rank = text.parse().ok().and_then(|version: u64| self.ranks.get(&version));
                match rank {
                    Some(rank) if !run.case.loose_versions => rank.clone().into(),
                    _ => "<rv>".into(),
                }
            }
            _ if (name == "continue" || name.ends_with("/continue")) && !text.is_empty() => {
                "<continue>".into()
            }
            "nodePort" | "healthCheckNodePort"
                if value.as_u64().is_some_and(|port| port >= 30_000)
                    && !literal.contains(&value.to_string()) =>
            {
                "<port>".into()
            }
            "clusterIP" if is_address(text) => "<ip>".into(),
            "clusterIPs" => {
                let shown = |ip: &Value| {
                    if is_address(ip.as_str().unwrap_or_default()) { "<ip>".into() } else { ip.clone() }
                };
                value.as_array().map_or_else(|| value.clone(), |ips| ips.iter().map(shown).collect())
            }
            _ => self.value(value, run, requested),
        }
    }

    fn step(
        &self,
        run: &Run<'_>,
        step: &Step,
        answer: &Answer,
        body: Option<Value>,
        events: Option<Vec<Value>>,
    ) -> Value {
        let mut out =
            json!({"id": step.id, "request": format!("{} {}", step.method, step.path), "code": answer.code});
        if step.quiet {
            return out;
        }
        let content_type = answer.content_type.replace(' ', "");
        if !matches!(content_type.as_str(), "application/json" | "application/json;charset=utf-8") {
            out["contentType"] = content_type.into();
        }
        if !answer.warnings.is_empty() {
            out["warnings"] = answer.warnings.iter().map(|warning| self.text(warning, run)).collect();
        }
        let requested = step.query.get("resourceVersion").map(|version| run.names.fill(version));
        let requested = requested.as_ref().and_then(Value::as_str).unwrap_or_default();
        if let Some(events) = events {
            let mut events: Vec<Value> = events.iter().map(|event| self.value(event, run, "")).collect();
            for event in events.iter_mut().filter(|event| event["type"] == "BOOKMARK") {
                event["object"]["metadata"]["resourceVersion"] = "<rv>".into();
            }
            out["events"] = events.into();
        } else if let Some(body) = body {
            out["body"] = self.value(&body, run, requested);
        } else if let Some(text) = &answer.text {
            out["text"] = self.text(text, run).into();
        }
        out
    }
}

fn list_meta(meta: &Value, requested: &str) -> Value {
    let mut meta = meta.clone();
    if let Some(version) = meta.get("resourceVersion").and_then(Value::as_str).filter(|v| !v.is_empty()) {
        let same = !requested.is_empty() && version == requested;
        meta["resourceVersion"] = if same { "<rv-requested>" } else { "<rv-list>" }.into();
    }
    if meta.get("continue").and_then(Value::as_str).is_some_and(|token| !token.is_empty()) {
        meta["continue"] = "<continue>".into();
    }
    meta
}
