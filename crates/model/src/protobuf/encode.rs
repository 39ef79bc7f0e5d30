//! JSON to messages.

use serde_json::{Map, Value};

use super::ProtobufError;
use super::wire::{write_bytes, write_double, write_int};
use crate::schema::table::{Cardinality, Field, MessageId, Type};
use crate::schema::{MAX_DEPTH, scalar};

/// JSON as a message.
pub(super) fn message(id: MessageId, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::with_capacity(512);
    write_message(id, value.as_object().ok_or(ProtobufError::Value)?, &mut out, 0)?;
    Ok(out)
}

fn write_message(
    id: MessageId,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth >= MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    for field in &id.get().fields {
        if let (true, Type::Message(inner)) = (field.inline, field.ty) {
            let mut body = Vec::new();
            write_message(inner, map, &mut body, depth + 1)?;
            write_bytes(out, field.number, &body);
        } else if let Some(value) = map.get(field.name).filter(|value| !value.is_null()) {
            write_field(field, value, out, depth)?;
        }
    }
    Ok(())
}

fn write_field(field: &Field, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtobufError> {
    match field.cardinality {
        Cardinality::One => write_value(field.ty, field.number, value, out, depth),
        Cardinality::List => value
            .as_array()
            .ok_or(ProtobufError::Value)?
            .iter()
            .try_for_each(|item| write_value(field.ty, field.number, item, out, depth)),
        Cardinality::Map => {
            for (key, value) in value.as_object().ok_or(ProtobufError::Value)? {
                let mut entry = Vec::new();
                write_bytes(&mut entry, 1, key.as_bytes());
                write_value(field.ty, 2, value, &mut entry, depth)?;
                write_bytes(out, field.number, &entry);
            }
            Ok(())
        }
    }
}

fn write_value(
    ty: Type,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let text = || value.as_str().ok_or(ProtobufError::Value);
    match ty {
        Type::Bool => write_int(out, number, value.as_bool().ok_or(ProtobufError::Value)?.into()),
        Type::Int32 | Type::Int64 => write_int(out, number, value.as_i64().ok_or(ProtobufError::Value)?),
        Type::Double => write_double(out, number, value.as_f64().ok_or(ProtobufError::Value)?),
        Type::String => write_bytes(out, number, text()?.as_bytes()),
        Type::Opaque => {}
        _ => {
            let body = value_body(ty, value, depth)?;
            write_bytes(out, number, &body);
        }
    }
    Ok(())
}

/// The bytes behind the length of a value that has one.
fn value_body(ty: Type, value: &Value, depth: usize) -> Result<Vec<u8>, ProtobufError> {
    let text = || value.as_str().ok_or(ProtobufError::Value);
    let mut body = Vec::new();
    match ty {
        Type::Bytes => body = scalar::from_base64(text()?).map_err(|_| ProtobufError::Value)?,
        Type::Message(id) => {
            write_message(id, value.as_object().ok_or(ProtobufError::Value)?, &mut body, depth + 1)?;
        }
        Type::Quantity => match value {
            Value::Number(number) => write_bytes(&mut body, 1, number.to_string().as_bytes()),
            _ => write_bytes(&mut body, 1, text()?.as_bytes()),
        },
        Type::IntOrString => {
            let is_text = value.is_string();
            write_int(&mut body, 1, is_text.into());
            write_int(&mut body, 2, value.as_i64().unwrap_or(0));
            write_bytes(&mut body, 3, value.as_str().unwrap_or_default().as_bytes());
        }
        Type::Time | Type::MicroTime => {
            let (seconds, nanos) = scalar::time_parts(text()?).ok_or(ProtobufError::Value)?;
            write_int(&mut body, 1, seconds);
            write_int(&mut body, 2, nanos.into());
        }
        Type::Duration => {
            let nanos = scalar::parse_duration(text()?).map_err(|_| ProtobufError::Value)?;
            write_int(&mut body, 1, nanos);
        }
        Type::Raw => write_bytes(&mut body, 1, value.to_string().as_bytes()),
        Type::Texts => {
            for item in value.as_array().ok_or(ProtobufError::Value)? {
                write_bytes(&mut body, 1, item.as_str().ok_or(ProtobufError::Value)?.as_bytes());
            }
        }
        Type::SchemaOr(id, other) => {
            let name = if value.is_object() { "schema" } else { other };
            let mut map = Map::new();
            if name == "schema" && other == "allows" {
                map.insert(other.to_owned(), Value::Bool(true));
            }
            map.insert(name.to_owned(), value.clone());
            write_message(id, &map, &mut body, depth + 1)?;
        }
        Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::String | Type::Opaque => {}
    }
    Ok(body)
}
