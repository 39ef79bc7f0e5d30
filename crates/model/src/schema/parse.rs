//! JSON and YAML bodies to trees. A field that stands twice is reported; the last one counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::mend::mend;
use crate::status::Failure;
use crate::yaml;

/// Reads a JSON body. Beside the tree: duplicate fields, in Kubernetes' words
/// (`duplicate field "spec.replicas"`).
///
/// # Errors
/// `BadRequest` when it is no JSON object. The caller puts in front which kind it expected.
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    let mut parsed = read_json(bytes);
    if parsed.is_err()
        && let Some(mended) = mend(bytes)
    {
        parsed = read_json(&mended);
    }
    let parsed = parsed.map_err(|error| go_json_error(&error, bytes));
    match parsed.and_then(|(value, duplicates)| Ok((expect_object(value)?, duplicates))) {
        Ok(read) => Ok(read),
        Err(why) => Err(Failure::bad_request(format!(
            "couldn't get version/kind; json parse error: {why} ({})",
            excerpt(bytes)
        ))),
    }
}

fn read_json(bytes: &[u8]) -> serde_json::Result<(Value, Vec<String>)> {
    let mut log = Log::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Tree { log: &mut log }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, log.duplicates))
}

/// The fields that stand twice in a JSON text of any form; of what cannot be read, as far as it can.
pub fn duplicates(bytes: &[u8]) -> Vec<String> {
    let mut log = Log::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // What is wrong with it is told by whoever reads it for what it says.
    let _ = Tree { log: &mut log }.deserialize(&mut deserializer);
    log.duplicates
}

/// Reads a YAML body: one document, as [`yaml`] has it. Beside the tree: keys that stand twice, in the words
/// of Kubernetes' reader of YAML (`line 3: key "replicas" already set in map`).
///
/// # Errors
/// `BadRequest` when it is no YAML mapping, or when it holds several documents: Kubernetes passes the
/// others over, and whoever sent them would not learn of it.
pub fn parse_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    read_yaml(bytes).map_err(|why| Failure::bad_request(format!("{why} ({})", excerpt(bytes))))
}

/// The same for a patch, whose refusals do not show how the body begins.
///
/// # Errors
/// As [`parse_yaml`].
pub fn parse_yaml_patch(bytes: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    read_yaml(bytes).map_err(Failure::bad_request)
}

fn read_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut documents = yaml::documents(bytes);
    let Some(first) = documents.next().transpose()? else {
        return Ok((Value::Object(Map::new()), Vec::new()));
    };
    for other in documents {
        if !other?.value.is_null() {
            return Err("yaml: more than one document".to_owned());
        }
    }
    Ok((expect_object(first.value)?, first.duplicates))
}

fn expect_object(value: Value) -> Result<Value, String> {
    let found = match value {
        Value::Object(_) => return Ok(value),
        // An empty body; what is missing is told by whoever looks for it.
        Value::Null => return Ok(Value::Object(Map::new())),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(format!(
        "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    ))
}

/// The beginning of a body: text when it looks like JSON, else its bytes.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    if bytes.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let text = match shown {
        [b'{', ..] => String::from_utf8_lossy(shown).into_owned(),
        _ => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if bytes.len() > SHOWN { format!("{text} ...") } else { text }
}

/// A decoder's error in the words of Go's decoder, as far as they say the same.
fn go_json_error(error: &serde_json::Error, bytes: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).copied().unwrap_or(b'?');
    let found = if found.is_ascii_graphic() || found == b' ' { char::from(found) } else { '?' };
    let text = error.to_string();
    let place = match text.split(" at line ").next().unwrap_or_default() {
        "trailing characters" => "after top-level value",
        "key must be a string" => "looking for beginning of object key string",
        "expected `:`" => "after object key",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "trailing comma" | "expected value" => "looking for beginning of value",
        other => return other.to_owned(),
    };
    format!("invalid character '{found}' {place}")
}

#[derive(Default)]
struct Log {
    path: String,
    duplicates: Vec<String>,
}

impl Log {
    /// Extends the path; the length it had goes back to [`Log::leave`].
    fn enter(&mut self, part: fmt::Arguments<'_>, dot: bool) -> usize {
        let length = self.path.len();
        if dot && length > 0 {
            self.path.push('.');
        }
        // Writing into a String does not fail.
        let _ = fmt::Write::write_fmt(&mut self.path, part);
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }
}

/// Deserializes a tree and writes down what stands twice. Depth is bounded by the decoders.
struct Tree<'a> {
    log: &'a mut Log,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let length = self.log.enter(format_args!("[{}]", out.len()), false);
            let item = items.next_element_seed(Tree { log: &mut *self.log })?;
            self.log.leave(length);
            match item {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let length = self.log.enter(format_args!("{key}"), true);
            if out.contains_key(&key) {
                self.log.duplicates.push(format!("duplicate field \"{}\"", self.log.path));
            }
            let value = entries.next_value_seed(Tree { log: &mut *self.log })?;
            self.log.leave(length);
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_reported_and_the_last_counts() {
        let (value, duplicates) =
            parse_json(br#"{"spec":{"replicas":1,"replicas":2,"c":[{"a":1,"a":2}]},"spec2":null}"#).unwrap();
        assert_eq!(value, json!({"spec": {"replicas": 2, "c": [{"a": 2}]}, "spec2": null}));
        assert_eq!(duplicates, ["duplicate field \"spec.replicas\"", "duplicate field \"spec.c[0].a\""]);
    }

    #[test]
    fn bad_json_is_told_in_the_words_of_go() {
        let error = |text: &str| parse_json(text.as_bytes()).unwrap_err().message;
        assert_eq!(
            error("{"),
            "couldn't get version/kind; json parse error: unexpected end of JSON input ({)"
        );
        assert_eq!(
            error(""),
            "couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
        );
        assert!(error("[]").contains("cannot unmarshal array into Go value"));
        assert!(error("{} trailing").contains("invalid character 't' after top-level value"));
        assert!(error("{\"a\" 1}").contains("invalid character '1' after object key"));
        assert!(parse_json(&[b'['; 100_000]).is_err());
        assert_eq!(parse_json(b"null").unwrap().0, json!({}));
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let (value, duplicates) =
            parse_json(b"{\"a\": \"\xff\", \"b\": \"\\ud800\", \"a\": \"\xff\"}").unwrap();
        assert_eq!(value, json!({"a": "\u{fffd}", "b": "\u{fffd}"}));
        assert_eq!(duplicates.len(), 1);
        assert!(parse_json(b"{\"a\": \xff}").is_err());
    }

    #[test]
    fn yaml_becomes_json() {
        let text =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a: 'x'\n  8080: |\n    t\n";
        let (value, duplicates) = parse_yaml(text.as_bytes()).unwrap();
        assert_eq!(value["data"], json!({"a": "x", "8080": "t\n"}));
        assert!(duplicates.is_empty());
        let (value, duplicates) = parse_yaml(b"a: 1\na: 0400\n---\n").unwrap();
        assert_eq!(value, json!({"a": 256}));
        assert_eq!(duplicates, ["line 2: key \"a\" already set in map"]);
        assert_eq!(parse_yaml(b"").unwrap().0, json!({}));
        let error = |text: &str| parse_yaml(text.as_bytes()).unwrap_err().message;
        assert_eq!(error("a: b: c"), "yaml: mapping values are not allowed in this context (613a20623a2063)");
        assert!(error("- a\n").contains("cannot unmarshal array into Go value"));
        assert!(error("a: 1\n---\nb: 2\n").starts_with("yaml: more than one document"));
        let error = parse_yaml_patch(b": : :").unwrap_err().message;
        assert_eq!(error, "yaml: did not find expected key");
    }
}
