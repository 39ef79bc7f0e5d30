//! The part of kubectl's JSONPath that people use: `{.items[*].metadata.name}`,
//! `{.status.conditions[?(@.type=="Ready")].status}`, with plain text in between.

use anyhow::{Context as _, bail};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    /// Items in which the value at the path compares so.
    Where(Vec<Step>, Comparison),
}

#[derive(Clone, Debug, PartialEq)]
enum Comparison {
    Exists,
    Equal(String),
    NotEqual(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
}

/// A template of text and paths.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonPath(Vec<Part>);

impl JsonPath {
    /// Reads a template; without braces all of it is one path.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if !text.contains('{') {
            return Ok(Self(vec![Part::Path(steps(text).with_context(|| format!("jsonpath \"{text}\""))?)]));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(unescape(before)));
            }
            let Some((inside, after)) = after.split_once('}') else {
                bail!("jsonpath \"{text}\": a {{ without its }}");
            };
            parts.push(match inside.trim().strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
                Some(quoted) => Part::Text(unescape(quoted)),
                None => Part::Path(steps(inside.trim()).with_context(|| format!("jsonpath \"{text}\""))?),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(unescape(rest)));
        }
        Ok(Self(parts))
    }

    /// The template with what its paths select; several values are separated by spaces.
    pub(crate) fn render(&self, value: &Value) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Path(path) => select(value, path).into_iter().map(plain).collect::<Vec<_>>().join(" "),
        };
        self.0.iter().map(part).collect()
    }

    /// What its paths select, each as text.
    pub(crate) fn texts(&self, value: &Value) -> Vec<String> {
        let part = |part: &Part| match part {
            Part::Text(_) => Vec::new(),
            Part::Path(path) => select(value, path).into_iter().map(plain).collect(),
        };
        self.0.iter().flat_map(part).collect()
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// A value as text: strings without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn select<'a>(value: &'a Value, path: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in path {
        found = found.into_iter().flat_map(|value| advance(value, step)).collect();
    }
    found
}

fn advance<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let index = if *index < 0 { index + items.len() as i64 } else { *index };
            usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
        }
        Step::Every => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, comparison) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let keep = |item: &&Value| {
                let found = select(item, path);
                match comparison {
                    Comparison::Exists => !found.is_empty(),
                    Comparison::Equal(text) => found.iter().any(|value| plain(value) == *text),
                    Comparison::NotEqual(text) => !found.iter().any(|value| plain(value) == *text),
                }
            };
            items.iter().filter(keep).collect()
        }
    }
}

/// Reads `.a.b[0]['c'][?(@.d=="e")]`.
fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text.strip_prefix('$').unwrap_or(text);
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let Some(end) = closing(inside) else { bail!("a [ without its ]") };
            steps.push(bracket(inside[..end].trim())?);
            rest = &inside[end + 1..];
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let (name, after) = field(rest);
        match name.as_str() {
            "" if after.is_empty() || after.starts_with('[') => {}
            "" => bail!("a field without a name at \"{rest}\""),
            "*" => steps.push(Step::Every),
            _ => steps.push(Step::Field(name)),
        }
        rest = after;
    }
    Ok(steps)
}

/// The name of a field, in which a dot is written `\.`, and what comes after.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Where the bracket ends that was opened before `text`; quotes hide brackets.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), character) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> anyhow::Result<Step> {
    if inside == "*" {
        return Ok(Step::Every);
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        return condition_of(condition.trim());
    }
    if let Some(name) = unquote(inside) {
        return Ok(Step::Field(name));
    }
    let index = inside
        .parse()
        .with_context(|| format!("[{inside}] is neither a number, a name in quotes, * nor ?(…)"))?;
    Ok(Step::Index(index))
}

fn condition_of(text: &str) -> anyhow::Result<Step> {
    let path = |text: &str| match text.trim().strip_prefix('@') {
        Some(path) => steps(path),
        None => bail!("?({text}): a condition starts with @"),
    };
    let wanted = |text: &str| unquote(text.trim()).unwrap_or_else(|| text.trim().to_owned());
    if let Some((left, right)) = text.split_once("==") {
        return Ok(Step::Where(path(left)?, Comparison::Equal(wanted(right))));
    }
    if let Some((left, right)) = text.split_once("!=") {
        return Ok(Step::Where(path(left)?, Comparison::NotEqual(wanted(right))));
    }
    Ok(Step::Where(path(text)?, Comparison::Exists))
}

fn unquote(text: &str) -> Option<String> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_select() {
        let value = json!({"items": [
            {"metadata": {"name": "a", "labels": {"app.io/x": "1"}}, "n": 3,
             "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
            {"metadata": {"name": "b"}}
        ]});
        for (path, text) in [
            ("{.items[*].metadata.name}", "a b"),
            (".items[0].metadata.name", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0].conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[0].conditions[?(@.type!='Ready')].type}", "Other"),
            ("{.items[?(@.n)].metadata.name}", "a"),
            ("name={.items[1].metadata.name}\\n", "name=b\n"),
            ("{.items[0].metadata.labels.app\\.io/x}{\"\\t\"}{.items[0]['n']}", "1\t3"),
            ("{.nothing.there}", ""),
        ] {
            assert_eq!(JsonPath::parse(path).unwrap().render(&value), text, "{path}");
        }
        for wrong in ["{.a", "{.a[}", "{.a[b]}", "{.a[?(b)]}", "{..a}"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
