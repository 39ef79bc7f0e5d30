//! An answer held against its recording, and the rules by which newer releases may differ from the one
//! that was recorded.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One difference: where, what was recorded, what came.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) step: String,
    pub(crate) path: String,
    pub(crate) golden: Value,
    pub(crate) got: Value,
}

/// What newer releases add, or word differently (`newer.json`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    extra_fields: Vec<At>,
    extra_items: Vec<At>,
    text: Vec<Text>,
    any_text: Vec<Text>,
    values: Vec<At>,
    wild_text: Vec<Text>,
    codes: Vec<Code>,
}

#[derive(Deserialize)]
struct At {
    path: String,
    key: Option<String>,
    #[serde(default)]
    golden: Value,
    #[serde(default)]
    newer: Value,
}

#[derive(Deserialize)]
struct Text {
    golden: String,
    #[serde(default)]
    newer: String,
    /// What is kept of the match is its first group.
    #[serde(default)]
    keep: bool,
}

#[derive(Deserialize)]
struct Code {
    golden: u16,
    newer: u16,
    text: String,
}

pub(crate) struct Newer {
    fields: Vec<Regex>,
    items: Vec<(Regex, Option<String>)>,
    text: Vec<(Regex, String)>,
    any_text: Vec<Regex>,
    values: Vec<(Regex, Value, Value)>,
    wild: Vec<(Regex, bool)>,
    codes: Vec<(u16, u16, Regex)>,
}

static SUPPORTED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"supported values: ("[^"]*"(?:, "[^"]*")*)"#).unwrap());
static QUOTED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""[^"]*""#).unwrap());

/// A pattern of pointers: `*` is one part, `**` any number of them.
pub(crate) fn glob(pattern: &str) -> Regex {
    let escaped = regex::escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*");
    Regex::new(&format!("(?s)^{escaped}$")).unwrap()
}

fn dotall(pattern: &str) -> Regex {
    Regex::new(&format!("(?s){pattern}")).unwrap()
}

impl Newer {
    pub(crate) fn parse(text: &str) -> Self {
        let written: Written = serde_json::from_str(text).unwrap();
        Self {
            fields: written.extra_fields.iter().map(|at| glob(&at.path)).collect(),
            items: written.extra_items.into_iter().map(|at| (glob(&at.path), at.key)).collect(),
            text: written.text.into_iter().map(|t| (dotall(&t.golden), t.newer)).collect(),
            any_text: written.any_text.iter().map(|t| dotall(&t.golden)).collect(),
            values: written.values.into_iter().map(|at| (glob(&at.path), at.golden, at.newer)).collect(),
            wild: written.wild_text.iter().map(|t| (dotall(&t.golden), t.keep)).collect(),
            codes: written.codes.iter().map(|c| (c.golden, c.newer, dotall(&c.text))).collect(),
        }
    }

    fn adds(&self, path: &str) -> bool {
        self.fields.iter().any(|field| field.is_match(path))
    }

    fn unordered(&self, path: &str) -> Option<&Option<String>> {
        self.items.iter().find(|(at, _)| at.is_match(path)).map(|(_, key)| key)
    }

    fn same_value(&self, path: &str, golden: &Value, got: &Value) -> bool {
        self.values
            .iter()
            .any(|(at, from, to)| at.is_match(path) && from == golden && (to == got || to == "*"))
    }

    /// A whole answer that newer releases give with another code.
    fn other_code(&self, golden: &Value, got: &Value) -> bool {
        let text = golden.pointer("/body/message").or_else(|| golden.get("text")).and_then(Value::as_str);
        let text = text.unwrap_or_default();
        golden["code"] != got["code"]
            && self.codes.iter().any(|(a, b, said)| {
                golden["code"] == u64::from(*a) && got["code"] == u64::from(*b) && said.is_match(text)
            })
    }

    fn same_text(&self, golden: &str, got: &str) -> bool {
        if golden == got || self.any_text.iter().any(|any| any.is_match(golden)) {
            return true;
        }
        let mut texts = vec![golden.to_owned()];
        for (pattern, with) in &self.text {
            for text in texts.clone() {
                let other = pattern.replace_all(&text, with.as_str()).into_owned();
                if !texts.contains(&other) {
                    texts.push(other);
                }
            }
        }
        let (plain, have) = supported(got);
        texts.iter().any(|text| {
            let (text, want) = supported(text);
            // Newer releases support more.
            let covered = want.len() == have.len()
                && want.iter().zip(&have).all(|(want, have)| want.iter().all(|value| have.contains(value)));
            covered && (text == plain || self.matches_wild(&text, &plain))
        })
    }

    fn matches_wild(&self, golden: &str, got: &str) -> bool {
        let mut pattern = golden.to_owned();
        for (wild, keep) in &self.wild {
            let with = |found: &regex::Captures<'_>| {
                let kept = if *keep { found.get(1).map_or("", |kept| kept.as_str()) } else { "" };
                let colon = if *keep && !kept.ends_with(' ') { ": " } else { "" };
                let tail = found.name("tail").map_or("", |tail| tail.as_str());
                format!("{kept}{colon}\0{tail}")
            };
            pattern = wild.replace_all(&pattern, with).into_owned();
        }
        let parts: Vec<String> = pattern.split('\0').map(regex::escape).collect();
        parts.len() > 1 && Regex::new(&format!("(?s)^{}$", parts.join(".*"))).is_ok_and(|p| p.is_match(got))
    }
}

/// A text without the values that it says are supported, and those.
fn supported(text: &str) -> (String, Vec<Vec<String>>) {
    let values = |found: regex::Captures<'_>| -> Vec<String> {
        QUOTED.find_iter(&found[1]).map(|quoted| quoted.as_str().to_owned()).collect()
    };
    let sets = SUPPORTED.captures_iter(text).map(values).collect();
    (SUPPORTED.replace_all(text, "supported values").into_owned(), sets)
}

/// The differences between a recording and an answer, step by step.
pub(crate) fn compare(golden: &[Value], got: &[Value], newer: &Newer) -> Vec<Difference> {
    let mut found = Vec::new();
    for (i, golden) in golden.iter().enumerate() {
        let got = got.get(i).cloned().unwrap_or_default();
        if newer.other_code(golden, &got) {
            continue;
        }
        let step = golden["id"].as_str().unwrap_or_default();
        let mut comparison = Comparison { newer, step, found: &mut found };
        comparison.values(golden, &got, "");
    }
    found
}

struct Comparison<'a> {
    newer: &'a Newer,
    step: &'a str,
    found: &'a mut Vec<Difference>,
}

impl Comparison<'_> {
    fn differ(&mut self, path: &str, golden: &Value, got: &Value) {
        self.found.push(Difference {
            step: self.step.to_owned(),
            path: path.to_owned(),
            golden: golden.clone(),
            got: got.clone(),
        });
    }

    fn values(&mut self, golden: &Value, got: &Value, path: &str) {
        match (golden, got) {
            (Value::Object(golden), Value::Object(got)) => self.objects(golden, got, path),
            (Value::Array(golden), Value::Array(got)) => self.arrays(golden, got, path),
            (Value::String(a), Value::String(b)) => {
                if !self.newer.same_text(a, b) && !self.newer.same_value(path, golden, got) {
                    self.differ(path, golden, got);
                }
            }
            _ => {
                // Restarts became a text: `3 (5m ago)`.
                let restarts = golden.is_number()
                    && path.contains("/cells/")
                    && got.as_str().is_some_and(|text| text.split(' ').next() == Some(&golden.to_string()));
                let same = golden == got || (golden.is_number() && golden.as_f64() == got.as_f64());
                if !same && !restarts && !self.newer.same_value(path, golden, got) {
                    self.differ(path, golden, got);
                }
            }
        }
    }

    fn objects(&mut self, golden: &Map<String, Value>, got: &Map<String, Value>, path: &str) {
        let is = |map: &Map<String, Value>, kind: &str| map.get("kind").is_some_and(|k| k == kind);
        let has_columns =
            |map: &Map<String, Value>| map.get("columnDefinitions").is_some_and(Value::is_array);
        let (mut golden, mut got) = (golden.clone(), got.clone());
        if is(&golden, "Table") && is(&got, "Table") && has_columns(&golden) && has_columns(&got) {
            let (want, mut have) = (by_column(&mut golden), by_column(&mut got));
            have.retain(|name| want.contains(name));
            if want != have {
                self.differ(&format!("{path}/columnDefinitions"), &want.into(), &have.into());
            }
        }
        if is(&golden, "Status") && is(&got, "Status") && self.same_causes(&golden, &got) {
            for map in [&mut golden, &mut got] {
                map.shift_remove("message");
                map.shift_remove("details");
            }
        }
        for (name, value) in &golden {
            let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
            match got.get(name) {
                None if value.is_null() => {}
                None => self.differ(&path, value, &"(missing)".into()),
                Some(other) if name == "managedFields" => {
                    self.values(&managed(value), &managed(other), &path)
                }
                Some(other) => self.values(value, other, &path),
            }
        }
        for (name, value) in
            got.iter().filter(|(name, value)| !golden.contains_key(*name) && !value.is_null())
        {
            let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
            if !self.newer.adds(&path) {
                self.differ(&path, &"(missing)".into(), value);
            }
        }
    }

    fn arrays(&mut self, golden: &[Value], got: &[Value], path: &str) {
        let key = match self.newer.unordered(path) {
            // Plain values: those that were recorded must be there.
            Some(None) => {
                for value in golden.iter().filter(|value| !got.contains(value)) {
                    self.differ(path, value, &"(missing)".into());
                }
                return;
            }
            Some(Some(key)) => Some(key.clone()),
            None if path.ends_with("/conditions")
                && golden.iter().chain(got).all(|c| c.get("type").is_some()) =>
            {
                Some("type".to_owned())
            }
            None => None,
        };
        if let Some(key) = key {
            for value in golden {
                let path = format!("{path}[{}]", value[&key]);
                match got.iter().find(|other| other[&key] == value[&key]) {
                    Some(other) => self.values(value, other, &path),
                    None => self.differ(&path, value, &"(missing)".into()),
                }
            }
            return;
        }
        for i in 0..golden.len().max(got.len()) {
            let path = format!("{path}/{i}");
            match (golden.get(i), got.get(i)) {
                (Some(golden), Some(got)) => self.values(golden, got, &path),
                (Some(golden), None) => self.differ(&path, golden, &"(missing)".into()),
                (None, got) => self.differ(&path, &"(missing)".into(), got.unwrap_or(&Value::Null)),
            }
        }
    }

    /// The same causes in another order are the same refusal.
    fn same_causes(&self, golden: &Map<String, Value>, got: &Map<String, Value>) -> bool {
        let details = |map: &Map<String, Value>| -> (Vec<Value>, Map<String, Value>) {
            let mut details = map.get("details").and_then(Value::as_object).cloned().unwrap_or_default();
            let causes = details.shift_remove("causes");
            (causes.and_then(|c| c.as_array().cloned()).unwrap_or_default(), details)
        };
        let ((want, about), (mut have, other)) = (details(golden), details(got));
        let head = |map: &Map<String, Value>| {
            let message = map.get("message").and_then(Value::as_str).unwrap_or_default();
            message.split(" is invalid: ").next().unwrap_or_default().to_owned()
        };
        if about != other || want.is_empty() || want.len() != have.len() || head(golden) != head(got) {
            return false;
        }
        want.iter().all(|cause| {
            let text = |cause: &Value| cause["message"].as_str().unwrap_or_default().to_owned();
            let same = |other: &Value| {
                other["field"] == cause["field"]
                    && other["reason"] == cause["reason"]
                    && self.newer.same_text(&text(cause), &text(other))
            };
            have.iter().position(same).map(|at| have.remove(at)).is_some()
        })
    }
}

/// Puts columns under their names, since newer releases insert some; the names in their order.
fn by_column(table: &mut Map<String, Value>) -> Vec<String> {
    let columns = table.get("columnDefinitions").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |column: &Value| column["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = columns.iter().map(name).collect();
    let named: Map<String, Value> = names.iter().cloned().zip(columns).collect();
    table.insert("columnDefinitions".to_owned(), named.into());
    for row in table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        let cells = row["cells"].as_array().cloned().unwrap_or_default();
        row["cells"] = Value::Object(names.iter().cloned().zip(cells).collect());
    }
    names
}

/// Managed fields by manager, so that their order does not matter; those of subresources with the rest.
fn managed(entries: &Value) -> Value {
    let mut out: BTreeMap<String, Value> = BTreeMap::new();
    for entry in entries.as_array().into_iter().flatten() {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let key = format!("{}|{}|{}", text("manager"), text("operation"), text("apiVersion"));
        merge(out.entry(key).or_insert_with(|| Value::Object(Map::new())), &entry["fieldsV1"]);
    }
    out.into_iter().filter(|(_, tree)| tree.as_object().is_some_and(|tree| !tree.is_empty())).collect()
}

fn merge(into: &mut Value, tree: &Value) {
    let (Some(into), Some(tree)) = (into.as_object_mut(), tree.as_object()) else { return };
    for (name, value) in tree {
        merge(into.entry(name).or_insert_with(|| Value::Object(Map::new())), value);
    }
}
