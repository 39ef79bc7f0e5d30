//! YAML as Kubernetes reads and writes it, for manifests, request bodies and answers: the one place that
//! knows how.
//!
//! The grammar is libyaml's, as it is for Kubernetes, and so are the words of its complaints; what words
//! mean is [`scalar`]'s. Keys become texts (`8080: x`), anchors are copied, `<<` merges, and of a key
//! that stands twice the last one counts and both are told. Nothing is known about the kind here.

mod scalar;
mod write;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libyaml_safer::{Encoding, Error, ErrorKind, Event, EventData, Parser};
use serde_json::{Map, Value};

use crate::schema::MAX_DEPTH;

pub use write::to_text;

/// Bytes and values that aliases may add to a document: some times a request body. A few lines can ask
/// for more than any memory holds.
const MOST_COPIED: usize = 8 << 20;

/// One document.
#[derive(Debug, PartialEq)]
pub struct Document {
    /// What it says; null when it is empty.
    pub value: Value,
    /// Keys that stand twice, in Kubernetes' words: `line 7: key "a" already set in map`.
    pub duplicates: Vec<String>,
}

/// All documents of a text, in order. Those after a mistake are not read.
///
/// # Errors
/// In the words of Kubernetes' reader: `yaml: line 3: did not find expected key`.
pub fn documents(text: &[u8]) -> impl Iterator<Item = Result<Document, String>> {
    let mut events = Events::new(text);
    std::iter::from_fn(move || {
        let next = read_document(&mut events).transpose();
        if !matches!(next, Some(Ok(_))) {
            events.ended = true;
        }
        next
    })
}

/// What a strict reader says of keys that stand twice: one error for all of them.
pub fn strict_error(duplicates: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  "))
}

fn read_document(events: &mut Events<'_>) -> Result<Option<Document>, String> {
    loop {
        match events.next()?.data {
            EventData::StreamEnd => return Ok(None),
            EventData::DocumentStart { .. } => break,
            _ => {}
        }
    }
    let mut tree = Tree { events, anchors: HashMap::new(), copied: 0, duplicates: Vec::new() };
    let first = tree.events.next()?;
    let value = tree.value(first, MAX_DEPTH)?;
    Ok(Some(Document { value, duplicates: tree.duplicates }))
}

/// The parser, whose complaints are put in words.
struct Events<'a> {
    parser: Parser<&'a [u8]>,
    ended: bool,
}

impl<'a> Events<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut parser = Parser::new();
        // Nobody sends UTF-16, and libyaml-safer 0.3 loses its place in it.
        parser.set_encoding(Encoding::Utf8);
        parser.set_input(text);
        Self { parser, ended: false }
    }

    fn next(&mut self) -> Result<Event, String> {
        if self.ended {
            return Ok(Event::stream_end());
        }
        // libyaml-safer 0.3 panics at a tag with a comma behind it (`[!a,b]`); libyaml of Kubernetes refuses that.
        let parsed = catch_unwind(AssertUnwindSafe(|| self.parser.parse()));
        match parsed {
            Ok(parsed) => parsed.map_err(|error| complaint(&error)),
            Err(_panicked) => Err("yaml: did not find expected whitespace or line break".to_owned()),
        }
    }
}

/// An error with its line, which Kubernetes does not tell of the first one, and counts from zero where
/// the mistake is one of grammar.
fn complaint(error: &Error) -> String {
    let line = |mark: Option<libyaml_safer::Mark>| mark.map(|mark| mark.line).filter(|line| *line > 0);
    let place = match (line(error.problem_mark()), line(error.context_mark())) {
        (Some(line), _) if error.kind() == ErrorKind::Scanner => format!("line {}: ", line + 1),
        (Some(line), _) | (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    };
    format!("yaml: {place}{}", error.problem())
}

/// What an anchor stands for.
enum Anchored {
    /// It is still being read: who names it now would be its own part.
    Open,
    Known {
        value: Value,
        size: usize,
    },
}

/// A document while it is made.
struct Tree<'e, 'a> {
    events: &'e mut Events<'a>,
    anchors: HashMap<String, Anchored>,
    copied: usize,
    duplicates: Vec<String>,
}

impl Tree<'_, '_> {
    /// The value that begins with an event.
    fn value(&mut self, begins: Event, room: usize) -> Result<Value, String> {
        let room = room.checked_sub(1).ok_or("yaml: exceeded max depth")?;
        match begins.data {
            EventData::Scalar { anchor, tag, value, plain_implicit, .. } => {
                let value = scalar::resolve(tag.as_deref(), &value, plain_implicit)?;
                self.remember(anchor, &value);
                Ok(value)
            }
            EventData::SequenceStart { anchor, .. } => {
                self.open(anchor.as_ref());
                let value = self.sequence(room)?;
                self.remember(anchor, &value);
                Ok(value)
            }
            EventData::MappingStart { anchor, .. } => {
                self.open(anchor.as_ref());
                let value = self.mapping(room)?;
                self.remember(anchor, &value);
                Ok(value)
            }
            EventData::Alias { anchor } => self.copy(&anchor),
            other => Err(format!("yaml: a value expected, found {other:?}")),
        }
    }

    fn sequence(&mut self, room: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            let event = self.events.next()?;
            if matches!(event.data, EventData::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.push(self.value(event, room)?);
        }
    }

    fn mapping(&mut self, room: usize) -> Result<Value, String> {
        let mut map = Map::new();
        loop {
            let event = self.events.next()?;
            if matches!(event.data, EventData::MappingEnd) {
                return Ok(Value::Object(map));
            }
            let merges = is_merge(&event.data);
            let key = self.value(event, room)?;
            let begins = self.events.next()?;
            let line = begins.start_mark.line + 1;
            let value = self.value(begins, room)?;
            if merges {
                self.merge(&mut map, value, line)?;
            } else {
                self.set(&mut map, key_text(&key, &value)?, value, line);
            }
        }
    }

    /// `<<: *base`. What stands later counts, as for any key: fields of `map` that are already there are
    /// overwritten. Of several maps the first counts.
    fn merge(&mut self, map: &mut Map<String, Value>, from: Value, line: u64) -> Result<(), String> {
        let parts = match from {
            Value::Array(parts) => parts,
            one => vec![one],
        };
        for part in parts.into_iter().rev() {
            let Value::Object(part) = part else {
                return Err("yaml: map merge requires map or sequence of maps as the value".to_owned());
            };
            part.into_iter().for_each(|(key, value)| self.set(map, key, value, line));
        }
        Ok(())
    }

    fn set(&mut self, map: &mut Map<String, Value>, key: String, value: Value, line: u64) {
        if map.contains_key(&key) {
            self.duplicates
                .push(format!("line {line}: key {} already set in map", Value::from(key.as_str())));
        }
        map.insert(key, value);
    }

    fn open(&mut self, anchor: Option<&String>) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor.clone(), Anchored::Open);
        }
    }

    fn remember(&mut self, anchor: Option<String>, value: &Value) {
        if let Some(anchor) = anchor {
            let known = Anchored::Known { value: value.clone(), size: size(value) };
            self.anchors.insert(anchor, known);
        }
    }

    fn copy(&mut self, anchor: &str) -> Result<Value, String> {
        let (value, size) = match self.anchors.get(anchor) {
            None => return Err(format!("yaml: unknown anchor '{anchor}' referenced")),
            Some(Anchored::Open) => return Err(format!("yaml: anchor '{anchor}' value contains itself")),
            Some(Anchored::Known { value, size }) => (value, *size),
        };
        self.copied += size;
        if self.copied > MOST_COPIED {
            return Err("yaml: document contains excessive aliasing".to_owned());
        }
        Ok(value.clone())
    }
}

/// A key `<<` that merges: one in quotes is a key as any other.
fn is_merge(begins: &EventData) -> bool {
    let EventData::Scalar { value, tag, plain_implicit, .. } = begins else { return false };
    value == "<<" && (*plain_implicit || tag.as_deref() == Some("tag:yaml.org,2002:merge"))
}

/// A key as the text that JSON wants.
fn key_text(key: &Value, value: &Value) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(key.to_string()),
        Value::Null => Err(format!("unsupported map key of type: %!s(<nil>), key: <nil>, value: {value}")),
        Value::Array(_) | Value::Object(_) => Err(format!("yaml: invalid map key: {key}")),
    }
}

/// What a copy costs: its texts, and something for each value.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(text: &str) -> Vec<Result<Document, String>> {
        documents(text.as_bytes()).collect()
    }

    fn one(text: &str) -> Result<Document, String> {
        let mut all = all(text);
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    fn value(text: &str) -> Value {
        one(text).unwrap().value
    }

    #[test]
    fn a_mark_before_the_text_says_nothing_and_other_encodings_are_refused() {
        assert_eq!(value("\u{feff}a: 1\n"), json!({"a": 1}));
        let wide: Vec<u8> = "\u{feff}a: 1".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(documents(&wide).all(|document| document.is_err()));
    }

    #[test]
    fn a_tag_with_a_comma_behind_it_is_refused() {
        assert_eq!(one("[!a,b]").unwrap_err(), "yaml: did not find expected whitespace or line break");
    }

    #[test]
    fn quotes_and_blocks_make_texts() {
        let text =
            "a: 0400\nb: '0400'\nc: \"yes\"\nd: yes\ne: |\n  0400\nf: >-\n  0400\ng: [0x10, on, 'on']\nh:\n";
        assert_eq!(
            value(text),
            json!({"a": 256, "b": "0400", "c": "yes", "d": true, "e": "0400\n", "f": "0400", "g": [16, true, "on"], "h": null})
        );
        assert_eq!(value("{\"a\": [1, {\"b\": \"\\u00e9\"}]}"), json!({"a": [1, {"b": "é"}]}));
    }

    #[test]
    fn keys_become_texts() {
        let text = "8080: a\n0400: b\non: c\n1.5: d\n'08': e\n";
        assert_eq!(value(text), json!({"8080": "a", "256": "b", "true": "c", "1.5": "d", "08": "e"}));
        let wrong = one("~: a").unwrap_err();
        assert_eq!(wrong, "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"a\"");
        assert!(one("? [a]\n: b").unwrap_err().starts_with("yaml: invalid map key: "));
    }

    #[test]
    fn the_last_of_two_counts_and_both_are_told() {
        let document = one("a:\n  b: 1\n  c: 2\n  b:\n    d: 3\non: 1\nyes: 2\n").unwrap();
        assert_eq!(document.value, json!({"a": {"b": {"d": 3}, "c": 2}, "true": 2}));
        let told = ["line 5: key \"b\" already set in map", "line 7: key \"true\" already set in map"];
        assert_eq!(document.duplicates, told);
        let strict = "yaml: unmarshal errors:\n  line 1: x\n  line 2: y";
        assert_eq!(strict_error(&["line 1: x".to_owned(), "line 2: y".to_owned()]), strict);
    }

    #[test]
    fn anchors_are_copied_and_merged() {
        let text = "base: &b {p: 1, q: 2}\nother: &o {q: 3, r: 4}\none: {<<: *b, q: 5}\ntwo: {<<: [*b, *o]}\n\
            same: *b\nlater: {q: 6, <<: *b}\ntext: {'<<': 1}\n";
        let read = value(text);
        assert_eq!(read["one"], json!({"p": 1, "q": 5}));
        assert_eq!(read["two"], json!({"p": 1, "q": 2, "r": 4}));
        assert_eq!(read["same"], json!({"p": 1, "q": 2}));
        assert_eq!(read["later"], json!({"p": 1, "q": 2}));
        assert_eq!(read["text"], json!({"<<": 1}));
        for (text, why) in [
            ("a: *b", "yaml: unknown anchor 'b' referenced"),
            ("a: &a [*a]", "yaml: anchor 'a' value contains itself"),
            ("a: {<<: 1}", "yaml: map merge requires map or sequence of maps as the value"),
        ] {
            assert_eq!(one(text).unwrap_err(), why);
        }
    }

    #[test]
    fn little_text_cannot_become_much() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for i in 1..12 {
            let before = i - 1;
            let names = vec![format!("*a{before}"); 8].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{names}]\n"));
        }
        assert_eq!(one(&laughs).unwrap_err(), "yaml: document contains excessive aliasing");
        assert_eq!(one(&"[".repeat(1000)).unwrap_err(), "yaml: exceeded max depth");
        assert_eq!(
            one(&format!("{}1{}", "[".repeat(200), "]".repeat(200))).unwrap_err(),
            "yaml: exceeded max depth"
        );
    }

    #[test]
    fn mistakes_are_told_in_kubernetes_words() {
        for (text, why) in [
            ("a: b: c", "yaml: mapping values are not allowed in this context"),
            ("x: 1\na: b: c", "yaml: line 2: mapping values are not allowed in this context"),
            (": : :", "yaml: did not find expected key"),
            ("a: 1\nb: [1, 2\nc: 3\n", "yaml: line 2: did not find expected ',' or ']'"),
            ("a: 1\n\tb: 2\n", "yaml: line 2: found a tab character that violates indentation"),
            ("a: 'b", "yaml: found unexpected end of stream"),
            ("a: \u{1}", "yaml: control characters are not allowed"),
        ] {
            assert_eq!(one(text).unwrap_err(), why, "{text:?}");
        }
        assert!(documents(b"a: \xff").next().unwrap().unwrap_err().starts_with("yaml: "));
    }

    #[test]
    fn documents_come_in_order() {
        let read: Vec<Value> = all("---\na: 1\n---\n# nothing\n---\n- 0400\n...\n")
            .into_iter()
            .map(|d| d.unwrap().value)
            .collect();
        assert_eq!(read, [json!({"a": 1}), json!(null), json!([256])]);
        assert!(all("").is_empty());
        assert!(all("# nothing\n").is_empty());
        let broken = all("a: 1\n---\nb: [\n---\nc: 1\n");
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].is_ok() && broken[1].is_err());
    }
}
