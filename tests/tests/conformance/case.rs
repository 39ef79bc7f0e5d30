//! The cases as they are kept: requests with placeholders, and what the reference server answered.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A case, and what was recorded.
#[derive(Deserialize)]
pub(crate) struct Entry {
    pub(crate) case: Case,
    pub(crate) golden: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) area: String,
    #[serde(default = "yes")]
    pub(crate) namespace: bool,
    /// Managed fields are compared.
    #[serde(default)]
    pub(crate) managed_fields: bool,
    /// Versions are not ordered: controllers write too.
    #[serde(default)]
    pub(crate) loose_versions: bool,
    #[serde(default)]
    pub(crate) drop: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// The case itself: what stands in it is never replaced in answers.
    #[serde(skip)]
    pub(crate) text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) query: Map<String, Value>,
    pub(crate) accept: Option<String>,
    #[serde(rename = "type")]
    pub(crate) media_type: Option<String>,
    #[serde(default)]
    pub(crate) headers: Map<String, Value>,
    pub(crate) body: Option<Value>,
    pub(crate) raw: Option<String>,
    #[serde(default)]
    pub(crate) quiet: bool,
    pub(crate) pick: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) drop: Vec<String>,
    #[serde(default)]
    pub(crate) sleep: f64,
    pub(crate) until: Option<Until>,
    pub(crate) watch: Option<WatchFor>,
    #[serde(default)]
    pub(crate) unordered: bool,
}

/// What a request is repeated for.
#[derive(Deserialize)]
pub(crate) struct Until {
    pub(crate) code: Option<u16>,
    pub(crate) path: Option<String>,
    pub(crate) equals: Option<Value>,
}

/// How many events are read, and for how long at most.
#[derive(Deserialize)]
pub(crate) struct WatchFor {
    pub(crate) events: usize,
    #[serde(default = "six")]
    pub(crate) seconds: f64,
}

fn yes() -> bool {
    true
}

fn six() -> f64 {
    6.0
}

/// Where the recordings are.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// All cases, by area and name.
pub(crate) fn load() -> Vec<Entry> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "gz"));
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
        let raw: Vec<Value> = serde_json::from_str(&text).unwrap();
        for value in raw {
            let literal = value["case"].to_string();
            let mut entry: Entry = serde_json::from_value(value).unwrap();
            entry.case.text = literal;
            entries.push(entry);
        }
    }
    entries
}

/// What placeholders stand for in one run.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) namespace: String,
    pub(crate) word: String,
    /// The answers so far, by step.
    pub(crate) answers: HashMap<String, Value>,
}

impl Names {
    /// A value with its placeholders filled in: `{ns}`, `{x}`, `${step:/pointer}`, repeated text.
    pub(crate) fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill_text(text),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(map) => match (map.get("$repeat"), map.get("$times").and_then(Value::as_u64)) {
                (Some(Value::String(text)), Some(times)) => text.repeat(times as usize).into(),
                _ => map.iter().map(|(name, value)| (self.text(name), self.fill(value))).collect(),
            },
            other => other.clone(),
        }
    }

    /// A text with its placeholders filled in.
    pub(crate) fn text(&self, text: &str) -> String {
        match self.fill_text(text) {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    fn fill_text(&self, text: &str) -> Value {
        let text = text.replace("{ns}", &self.namespace).replace("{x}", &self.word);
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            let Some((reference, tail)) = after.split_once('}') else { break };
            let (step, pointer) = reference.split_once(':').unwrap_or((reference, ""));
            let found = self.answers.get(step).and_then(|answer| answer.pointer(pointer)).cloned();
            let found = found.unwrap_or_default();
            if before.is_empty() && out.is_empty() && (tail.is_empty() || tail == ":string") {
                return found;
            }
            out.push_str(before);
            out.push_str(&found.as_str().map_or_else(|| found.to_string(), str::to_owned));
            rest = tail;
        }
        out.push_str(rest);
        out.into()
    }
}

/// Removes what a pointer names; `*` is any one part.
pub(crate) fn drop_pointer(document: &mut Value, pointer: &str) {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    drop_steps(document, &steps);
}

fn drop_steps(document: &mut Value, steps: &[String]) {
    let Some((head, rest)) = steps.split_first() else { return };
    match document {
        Value::Object(map) => {
            let names: Vec<String> =
                if head == "*" { map.keys().cloned().collect() } else { vec![head.clone()] };
            for name in names {
                if rest.is_empty() {
                    map.shift_remove(&name);
                } else if let Some(child) = map.get_mut(&name) {
                    drop_steps(child, rest);
                }
            }
        }
        Value::Array(items) if head == "*" || head == "-" => {
            if rest.is_empty() {
                items.clear();
            } else {
                items.iter_mut().for_each(|item| drop_steps(item, rest));
            }
        }
        Value::Array(items) => {
            let Some(at) = head.parse::<usize>().ok().filter(|at| *at < items.len()) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else {
                drop_steps(&mut items[at], rest);
            }
        }
        _ => {}
    }
}
