//! `metadata.managedFields`: who owns what, as it stands in objects.
//!
//! Read from and written to JSON text. The field sets of entries are decoded only when somebody asks:
//! most writes concern one manager, and the others' text goes through as it is.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::element::escape;
use super::set::Set;

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What one manager owns by one kind of write.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who.
    pub manager: String,
    /// How.
    pub operation: Operation,
    /// In which version of the API the fields are named.
    pub api_version: String,
    /// When it last changed, RFC 3339; empty when nobody says.
    pub time: String,
    /// Through which part of the object; empty for the object itself.
    pub subresource: String,
    fields: Fields,
}

#[derive(Clone, Debug)]
enum Fields {
    Text(Box<str>),
    Set(Set),
}

impl Entry {
    /// An entry that owns `set`.
    pub fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str, set: Set) -> Self {
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            time: String::new(),
            subresource: subresource.to_owned(),
            fields: Fields::Set(set),
        }
    }

    /// What it owns.
    pub fn set(&self) -> Cow<'_, Set> {
        match &self.fields {
            Fields::Set(set) => Cow::Borrowed(set),
            // Checked when it was read.
            Fields::Text(text) => Cow::Owned(Set::parse(text).unwrap_or_default()),
        }
    }

    /// Makes it own just that.
    pub fn own(&mut self, set: Set) {
        self.fields = Fields::Set(set);
    }

    /// Whether it may own something whose path begins with one of these fields. Never wrongly no.
    pub(super) fn may_own_below(&self, tops: &[String]) -> bool {
        match &self.fields {
            Fields::Text(text) => tops.iter().any(|top| text.contains(top.as_str())),
            Fields::Set(_) => true,
        }
    }

    /// Whether an entry is the one of that manager. An applier is the same in every version.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn order(&self) -> (Operation, &str, &str, &str, &str) {
        (self.operation, &self.time, &self.manager, &self.api_version, &self.subresource)
    }

    fn write(&self, out: &mut String) {
        let mut text = |name: &str, value: &str| {
            out.push_str(name);
            out.push('"');
            escape(out, value);
            out.push('"');
        };
        text("{\"manager\":", &self.manager);
        text(",\"operation\":", self.operation.as_str());
        text(",\"apiVersion\":", &self.api_version);
        if !self.time.is_empty() {
            text(",\"time\":", &self.time);
        }
        out.push_str(",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
        match &self.fields {
            Fields::Text(text) => out.push_str(text),
            Fields::Set(set) => set.write(out),
        }
        if !self.subresource.is_empty() {
            out.push_str(",\"subresource\":\"");
            escape(out, &self.subresource);
            out.push('"');
        }
        out.push('}');
    }
}

/// Who owns what of an object.
#[derive(Clone, Debug, Default)]
pub struct Managed {
    /// The entries; sorted when they are written.
    pub entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    api_version: String,
    time: Option<String>,
    #[serde(default)]
    fields_type: String,
    #[serde(borrow, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
    #[serde(default)]
    subresource: String,
}

/// Why something is no `managedFields`.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// Not what it should look like.
    #[error("managedFields do not decode: {0}")]
    Json(#[from] serde_json::Error),
    /// An entry that says too little.
    #[error("{0}")]
    Entry(String),
}

impl Managed {
    /// Reads what an object of the server's own has: empty text is nobody.
    pub fn stored(text: &str) -> Self {
        Self::read(text, false).unwrap_or_default()
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// When an entry is not complete, or its fields are no FieldsV1.
    pub fn sent(text: &str) -> Result<Self, ManagedError> {
        Self::read(text, true)
    }

    fn read(text: &str, check: bool) -> Result<Self, ManagedError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wire: Vec<Wire<'_>> = serde_json::from_str(text)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(wire.len());
        for (i, wire) in wire.into_iter().enumerate() {
            let entry = read_entry(i, wire, check)?;
            // The last of two for one manager counts.
            entries.retain(|other| !other.is_of(&entry));
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sorts the entries and writes them as JSON; nothing when there are none.
    pub fn write(&mut self) -> String {
        self.entries.retain(|entry| match &entry.fields {
            Fields::Set(set) => !set.is_empty(),
            Fields::Text(_) => true,
        });
        if self.entries.is_empty() {
            return String::new();
        }
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut out = String::with_capacity(512);
        for (i, entry) in self.entries.iter().enumerate() {
            out.push(if i == 0 { '[' } else { ',' });
            entry.write(&mut out);
        }
        out.push(']');
        out
    }
}

/// Whether two texts of `managedFields` differ in nothing but when entries last changed.
pub fn same_but_times(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let timeless = |text: &str| {
        let mut managed = Managed::stored(text);
        managed.entries.iter_mut().for_each(|entry| entry.time.clear());
        managed.write()
    };
    timeless(a) == timeless(b)
}

fn read_entry(i: usize, wire: Wire<'_>, check: bool) -> Result<Entry, ManagedError> {
    let wrong = |why: String| Err(ManagedError::Entry(why));
    let operation = match wire.operation.as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return wrong("operation must be `Apply` or `Update`".to_owned()),
    };
    if wire.api_version.is_empty() {
        return wrong("apiVersion must not be empty".to_owned());
    }
    match wire.fields_type.as_str() {
        "FieldsV1" => {}
        "" => return wrong(format!("missing fieldsType in managed fields entry {i}")),
        other => return wrong(format!("invalid fieldsType \"{other}\" in managed fields entry {i}")),
    }
    let text = wire.fields.map_or("{}", RawValue::get);
    let fields = if check { Fields::Set(Set::parse(text)?) } else { Fields::Text(text.into()) };
    Ok(Entry {
        manager: wire.manager,
        operation,
        api_version: wire.api_version,
        time: wire.time.unwrap_or_default(),
        subresource: wire.subresource,
        fields,
    })
}

/// What a client says about ownership in an object that it writes.
#[derive(Clone, Debug)]
pub enum Said {
    /// Nothing: ownership goes on as it was.
    Nothing,
    /// Forget all of it: `[]`, or one empty entry.
    Reset,
    /// That is who owns what.
    Managed(Managed),
}

impl Said {
    /// Takes `metadata.managedFields` out of an object, and reads it. `stored` is what the object has
    /// now. What does not decode says nothing.
    pub fn take(value: &mut Value, stored: &str) -> Self {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let sent = match metadata.and_then(|metadata| metadata.shift_remove("managedFields")) {
            None | Some(Value::Null) => return Self::Nothing,
            Some(Value::Array(entries)) => entries,
            Some(_) => return Self::Nothing,
        };
        if is_reset(&sent) {
            return Self::Reset;
        }
        let text = Value::Array(sent).to_string();
        if text == stored {
            return Self::Nothing;
        }
        match Managed::sent(&text) {
            Ok(managed) if !managed.is_empty() => Self::Managed(managed),
            _ => Self::Nothing,
        }
    }
}

fn is_reset(sent: &[Value]) -> bool {
    match sent {
        [] => true,
        [Value::Object(only)] => only.values().all(Value::is_null),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"[{"manager":"a","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:x":{}}}},{"manager":"b","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{}},"subresource":"status"}]"#;

    #[test]
    fn what_is_read_is_written() {
        assert_eq!(Managed::stored(TEXT).write(), TEXT);
        assert_eq!(Managed::sent(TEXT).unwrap().write(), TEXT);
        assert_eq!(Managed::stored("").write(), "");
    }

    #[test]
    fn entries_are_sorted() {
        let mut managed = Managed::stored(TEXT);
        managed.entries.reverse();
        assert_eq!(managed.write(), TEXT);
    }

    #[test]
    fn what_clients_send_is_checked() {
        for (bad, why) in [
            (json!([{"manager": "x"}]), "operation must be"),
            (json!([{"operation": "Update"}]), "apiVersion must not be empty"),
            (json!([{"operation": "Update", "apiVersion": "v1"}]), "missing fieldsType"),
            (json!([{"operation": "Update", "apiVersion": "v1", "fieldsType": "F"}]), "invalid fieldsType"),
            (
                json!([{"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}]),
                "not a path element",
            ),
        ] {
            let error = Managed::sent(&bad.to_string()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_said_with_an_object() {
        let said = |managed: Value| {
            let mut object = json!({"metadata": {"name": "x", "managedFields": managed}});
            let said = Said::take(&mut object, TEXT);
            assert_eq!(object, json!({"metadata": {"name": "x"}}));
            said
        };
        assert!(matches!(said(json!([{}])), Said::Reset));
        assert!(matches!(said(json!([])), Said::Reset));
        assert!(matches!(said(Value::Null), Said::Nothing));
        assert!(matches!(said(json!([{"manager": "x"}])), Said::Nothing));
        assert!(matches!(said(serde_json::from_str(TEXT).unwrap()), Said::Nothing));
        let mut one: Value = serde_json::from_str(TEXT).unwrap();
        one.as_array_mut().unwrap().pop();
        assert!(matches!(said(one), Said::Managed(managed) if managed.entries.len() == 1));
    }
}
