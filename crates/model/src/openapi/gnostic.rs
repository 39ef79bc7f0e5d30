//! The Swagger document as protobuf: message `openapi.v2.Document` of gnostic.
//!
//! A generic writer: what matters is which JSON field goes under which number; a field that is not in
//! these tables is either an extension (`x-…`) or is left out.

use serde_json::{Map, Value};

use crate::protobuf::wire::{write_bytes, write_double, write_int};

/// How a JSON field is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Number,
    Integer,
    Flag,
    /// A message by table.
    Message(Table),
    /// A list of messages.
    Messages(Table),
    /// A JSON object whose entries are messages `{1: name, 2: value}` in field 1 of a message.
    Named(Table),
    /// Any JSON value, as YAML text.
    Any,
    /// A list of those.
    Anys,
    /// `type`: one text or several.
    Type,
    /// `items`: a schema, in a list of one.
    Items,
    /// `additionalProperties`: a schema or a boolean.
    SchemaOrFlag,
    /// `parameters` of an operation or path.
    Parameters,
    /// `responses` by code.
    Responses,
    /// `paths`.
    Paths,
    /// `security`: alternatives of required schemes.
    Security,
}

/// JSON field, number, form; and the number under which extensions go.
type Fields = (&'static [(&'static str, u32, Form)], u32);

#[derive(Clone, Copy)]
enum Table {
    Document,
    Info,
    PathItem,
    Operation,
    Schema,
    Response,
    ApiKey,
}

impl Table {
    fn fields(self) -> Fields {
        match self {
            Self::Document => DOCUMENT,
            Self::Info => INFO,
            Self::PathItem => PATH_ITEM,
            Self::Operation => OPERATION,
            Self::Schema => SCHEMA,
            Self::Response => RESPONSE,
            Self::ApiKey => API_KEY,
        }
    }
}

const DOCUMENT: Fields = (
    &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(Table::Info)),
        ("paths", 8, Form::Paths),
        ("definitions", 9, Form::Named(Table::Schema)),
        ("security", 12, Form::Security),
        ("securityDefinitions", 13, Form::Named(Table::ApiKey)),
    ],
    16,
);
const INFO: Fields =
    (&[("title", 1, Form::Text), ("version", 2, Form::Text), ("description", 3, Form::Text)], 7);
const PATH_ITEM: Fields = (
    &[
        ("get", 2, Form::Message(Table::Operation)),
        ("put", 3, Form::Message(Table::Operation)),
        ("post", 4, Form::Message(Table::Operation)),
        ("delete", 5, Form::Message(Table::Operation)),
        ("patch", 8, Form::Message(Table::Operation)),
        ("parameters", 9, Form::Parameters),
    ],
    10,
);
const OPERATION: Fields = (
    &[
        ("tags", 1, Form::Texts),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Responses),
        ("schemes", 10, Form::Texts),
    ],
    13,
);
const SCHEMA: Fields = (
    &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("multipleOf", 6, Form::Number),
        ("maximum", 7, Form::Number),
        ("minimum", 9, Form::Number),
        ("maxLength", 11, Form::Integer),
        ("minLength", 12, Form::Integer),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Integer),
        ("minItems", 15, Form::Integer),
        ("uniqueItems", 16, Form::Flag),
        ("maxProperties", 17, Form::Integer),
        ("minProperties", 18, Form::Integer),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::Anys),
        ("additionalProperties", 21, Form::SchemaOrFlag),
        ("type", 22, Form::Type),
        ("items", 23, Form::Items),
        ("allOf", 24, Form::Messages(Table::Schema)),
        ("properties", 25, Form::Named(Table::Schema)),
    ],
    31,
);
const RESPONSE: Fields = (&[("description", 1, Form::Text)], 5);
const API_KEY: Fields = (
    &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    5,
);

/// The document's bytes.
pub(super) fn document(document: &Value) -> Vec<u8> {
    message(Table::Document, document)
}

fn message(table: Table, value: &Value) -> Vec<u8> {
    let (fields, extensions) = table.fields();
    let mut out = Vec::new();
    let Some(map) = value.as_object() else { return out };
    for (name, number, form) in fields {
        if let Some(value) = map.get(*name) {
            write(&mut out, *number, *form, value);
        }
    }
    write_extensions(&mut out, extensions, map);
    out
}

fn write_extensions(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        write_bytes(out, number, &named(name, &any(value)));
    }
}

/// `{1: name, 2: value}`
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    write_bytes(&mut out, 1, name.as_bytes());
    write_bytes(&mut out, 2, value);
    out
}

/// Any value; JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

fn in_field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    write_bytes(&mut out, number, body);
    out
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn write(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    match form {
        Form::Text => write_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Texts => texts(value).for_each(|text| write_bytes(out, number, text.as_bytes())),
        Form::Number => write_double(out, number, value.as_f64().unwrap_or_default()),
        Form::Integer => write_int(out, number, value.as_i64().unwrap_or_default()),
        Form::Flag => write_int(out, number, value.as_bool().unwrap_or_default().into()),
        Form::Message(table) => write_bytes(out, number, &message(table, value)),
        Form::Messages(table) => items().for_each(|item| write_bytes(out, number, &message(table, item))),
        Form::Named(table) => {
            let mut body = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let value = message(table, value);
                // Security definitions are a choice, of which an API key is the second.
                let value = if matches!(table, Table::ApiKey) { in_field(2, &value) } else { value };
                write_bytes(&mut body, 1, &named(name, &value));
            }
            write_bytes(out, number, &body);
        }
        Form::Any => write_bytes(out, number, &any(value)),
        Form::Anys => items().for_each(|item| write_bytes(out, number, &any(item))),
        Form::Type => {
            let mut body = Vec::new();
            value
                .as_str()
                .into_iter()
                .chain(texts(value))
                .for_each(|t| write_bytes(&mut body, 1, t.as_bytes()));
            write_bytes(out, number, &body);
        }
        Form::Items => write_bytes(out, number, &in_field(1, &message(Table::Schema, value))),
        Form::SchemaOrFlag => {
            let mut body = Vec::new();
            match value {
                Value::Bool(flag) => write_int(&mut body, 2, (*flag).into()),
                schema => write_bytes(&mut body, 1, &message(Table::Schema, schema)),
            }
            write_bytes(out, number, &body);
        }
        Form::Parameters => items().for_each(|item| write_bytes(out, number, &in_field(1, &parameter(item)))),
        Form::Responses => write_bytes(out, number, &responses(value)),
        Form::Paths => {
            let mut body = Vec::new();
            for (path, item) in value.as_object().into_iter().flatten() {
                write_bytes(&mut body, 2, &named(path, &message(Table::PathItem, item)));
            }
            write_bytes(out, number, &body);
        }
        Form::Security => items().for_each(|item| {
            let mut body = Vec::new();
            for (name, scopes) in item.as_object().into_iter().flatten() {
                let mut list = Vec::new();
                write(&mut list, 1, Form::Texts, scopes);
                write_bytes(&mut body, 1, &named(name, &list));
            }
            write_bytes(out, number, &body);
        }),
    }
}

/// A body is one choice, anything else another, of which query and path parameters are choices again.
fn parameter(value: &Value) -> Vec<u8> {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let required = i64::from(value["required"].as_bool().unwrap_or(false));
    let mut body = Vec::new();
    if text("in") == "body" {
        write_bytes(&mut body, 2, text("name").as_bytes());
        write_bytes(&mut body, 3, b"body");
        write_int(&mut body, 4, required);
        write_bytes(&mut body, 5, &message(Table::Schema, &value["schema"]));
        return in_field(1, &body);
    }
    let is_path = text("in") == "path";
    write_int(&mut body, 1, required);
    write_bytes(&mut body, 2, text("in").as_bytes());
    write_bytes(&mut body, 3, text("description").as_bytes());
    write_bytes(&mut body, 4, text("name").as_bytes());
    // Path parameters have no `allowEmptyValue`, so that their type comes one number earlier.
    write_bytes(&mut body, if is_path { 5 } else { 6 }, text("type").as_bytes());
    let choice = if is_path { 4 } else { 3 };
    in_field(2, &in_field(choice, &body))
}

fn responses(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, answer) in value.as_object().into_iter().flatten() {
        let mut body = message(Table::Response, answer);
        if let Some(schema) = answer.get("schema") {
            write_bytes(&mut body, 2, &in_field(1, &message(Table::Schema, schema)));
        }
        write_bytes(&mut out, 1, &named(code, &in_field(1, &body)));
    }
    out
}
