//! One step of a path into an object: a field, an item of a list by its keys or its value, an index.
//!
//! Order and text are those of FieldsV1, so that sets written by one release or client are the same
//! bytes as those written by another.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

/// A step of a path.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of an object, or a key of a map: `f:name`.
    Field(Box<str>),
    /// The item of a list that has these values, sorted by name: `k:{"name":"main"}`.
    Key(Box<[(Box<str>, Value)]>),
    /// The item of a set: `v:"text"`.
    Value(Value),
    /// An item by its place: `i:0`.
    Index(i64),
}

/// A path that is no text of FieldsV1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// A kind of step that a newer release may know.
    #[error("path element \"{0}\" is of an unknown kind")]
    Unknown(String),
    /// Not a step at all.
    #[error("\"{0}\" is not a path element")]
    Malformed(String),
}

impl Element {
    /// A field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// Reads a key of FieldsV1.
    ///
    /// # Errors
    /// When it is none; unknown kinds of steps are told apart, for readers pass over them.
    pub fn parse(text: &str) -> Result<Self, ElementError> {
        let malformed = || ElementError::Malformed(text.to_owned());
        let (kind, rest) = text.split_once(':').filter(|(kind, _)| kind.len() == 1).ok_or_else(malformed)?;
        match kind {
            "f" => Ok(Self::field(rest)),
            "v" => serde_json::from_str(rest).map(Self::Value).map_err(|_| malformed()),
            "i" => rest.parse().map(Self::Index).map_err(|_| malformed()),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| malformed())?;
                Ok(Self::keys(keys.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect()))
            }
            _ => Err(ElementError::Unknown(text.to_owned())),
        }
    }

    /// An item by its keys, in whatever order they come.
    pub fn keys(mut keys: Vec<(Box<str>, Value)>) -> Self {
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(keys.into_boxed_slice())
    }

    /// Its key in FieldsV1, as it stands within quotes of JSON.
    pub(super) fn write_escaped(&self, out: &mut String) {
        match self {
            Self::Field(name) => {
                out.push_str("f:");
                escape(out, name);
            }
            Self::Key(keys) => {
                let mut text = String::from("{");
                for (i, (name, value)) in keys.iter().enumerate() {
                    if i > 0 {
                        text.push(',');
                    }
                    text.push('"');
                    escape(&mut text, name);
                    text.push_str("\":");
                    text.push_str(&value.to_string());
                }
                text.push('}');
                out.push_str("k:");
                escape(out, &text);
            }
            Self::Value(value) => {
                out.push_str("v:");
                escape(out, &value.to_string());
            }
            Self::Index(index) => out.push_str(&format!("i:{index}")),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// Appends `text` as it stands within quotes of JSON.
pub(super) fn escape(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push_str(text);
    } else {
        let quoted = Value::from(text).to_string();
        out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
    }
}

impl fmt::Display for Element {
    /// As conflicts name it: `.spec`, `[name="main"]`, `[="text"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((name, value), (other_name, other_value)) in a.iter().zip(b.iter()) {
                    let order = name.cmp(other_name).then_with(|| compare(value, other_value));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// The order of values: numbers, texts, booleans, lists, maps, null; each kind by itself.
fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
        },
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) if a != b => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        for text in [
            "f:spec",
            "f:a:b",
            "f:with \"quotes\"",
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"v:"x y""#,
            "v:3",
            "i:7",
        ] {
            let element = Element::parse(text).unwrap();
            let mut out = String::from("\"");
            element.write_escaped(&mut out);
            out.push('"');
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
        assert_eq!(Element::parse("x:1"), Err(ElementError::Unknown("x:1".to_owned())));
        for text in ["", "f", "spec", "i:x", "k:[]", "v:"] {
            assert!(matches!(Element::parse(text), Err(ElementError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn conflicts_name_them_as_kubernetes_does() {
        let element =
            Element::keys(vec![("protocol".into(), json!("TCP")), ("containerPort".into(), json!(80))]);
        assert_eq!(element.to_string(), r#"[containerPort=80,protocol="TCP"]"#);
        assert_eq!(Element::field("spec").to_string(), ".spec");
        assert_eq!(Element::Value(json!("a")).to_string(), r#"[="a"]"#);
        assert_eq!(Element::Index(3).to_string(), "[3]");
    }

    #[test]
    fn fields_come_before_items() {
        let mut elements = [
            Element::Index(0),
            Element::Value(json!("a")),
            Element::Value(json!(2)),
            Element::keys(vec![("n".into(), json!("b"))]),
            Element::keys(vec![("n".into(), json!("a"))]),
            Element::field("z"),
            Element::field("a"),
        ];
        elements.sort();
        let texts: Vec<String> = elements.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [".a", ".z", "[n=\"a\"]", "[n=\"b\"]", "[=2]", "[=\"a\"]", "[0]"]);
    }
}
