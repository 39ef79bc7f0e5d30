//! Messages to JSON.

use serde_json::{Map, Number, Value};

use super::ProtobufError;
use super::wire::{Reader, Scalar};
use crate::quantity;
use crate::schema::table::{Cardinality, Field, MessageId, Type};
use crate::schema::{MAX_DEPTH, scalar as forms, unset};

/// How many values an object may have: small bodies of empty messages must not become large trees.
const MAX_VALUES: usize = 1_000_000;

/// A message as JSON.
pub(super) fn message(id: MessageId, raw: &[u8]) -> Result<Value, ProtobufError> {
    let mut decoder = Decoder { depth: 0, values: 0 };
    let mut out = Map::new();
    decoder.message(id, raw, &mut out)?;
    Ok(Value::Object(out))
}

struct Decoder {
    depth: usize,
    values: usize,
}

impl Decoder {
    /// Reads a message's fields into `out`, which holds those of the message it is inline in.
    fn message(
        &mut self,
        id: MessageId,
        raw: &[u8],
        out: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        if self.depth >= MAX_DEPTH {
            return Err(ProtobufError::Depth);
        }
        self.depth += 1;
        let message = id.get();
        let mut reader = Reader::new(raw);
        while let Some((number, scalar)) = reader.field()? {
            let Some(field) = message.number(number) else { continue };
            match (field.ty, field.cardinality) {
                (Type::Message(inner), _) if field.inline => self.message(inner, scalar.bytes()?, out)?,
                (_, Cardinality::One) => {
                    let value = self.value(field.ty, scalar)?;
                    if unset::is_unset(message, field, &value) {
                        out.remove(field.name);
                    } else {
                        out.insert(field.name.to_owned(), value);
                    }
                }
                (_, Cardinality::List) => self.list(field, scalar, out)?,
                (_, Cardinality::Map) => self.map(field, scalar, out)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn list(
        &mut self,
        field: &Field,
        scalar: Scalar<'_>,
        out: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let entry = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(items) = entry else { return Err(ProtobufError::WireType) };
        let numbers = matches!(field.ty, Type::Int32 | Type::Int64 | Type::Bool);
        if let (true, Scalar::Bytes(packed)) = (numbers, scalar) {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                let number = Scalar::Varint(reader.varint()?);
                items.push(self.value(field.ty, number)?);
            }
            return Ok(());
        }
        items.push(self.value(field.ty, scalar)?);
        Ok(())
    }

    fn map(
        &mut self,
        field: &Field,
        scalar: Scalar<'_>,
        out: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(scalar.bytes()?);
        while let Some((number, scalar)) = reader.field()? {
            match number {
                1 => key = scalar.text()?.to_owned(),
                2 => value = Some(self.value(field.ty, scalar)?),
                _ => {}
            }
        }
        // An entry without a value has the empty one.
        let value = match (value, field.ty) {
            (Some(value), _) => value,
            (None, Type::Bool | Type::Int32 | Type::Int64) => self.value(field.ty, Scalar::Varint(0))?,
            (None, Type::Double) => self.value(field.ty, Scalar::Fixed64(0))?,
            (None, _) => self.value(field.ty, Scalar::Bytes(b""))?,
        };
        let entry = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(entries) = entry else { return Err(ProtobufError::WireType) };
        entries.insert(key, value);
        Ok(())
    }

    fn value(&mut self, ty: Type, scalar: Scalar<'_>) -> Result<Value, ProtobufError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(ProtobufError::Size);
        }
        Ok(match ty {
            Type::Bool => Value::Bool(scalar.varint()? != 0),
            // A 32 bit number is read as Go does: what is above is cut off.
            Type::Int32 => Value::from(scalar.int()? as i32),
            Type::Int64 => Value::from(scalar.int()?),
            Type::Double => match scalar {
                Scalar::Fixed64(bits) => {
                    Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
                }
                Scalar::Fixed32(bits) => {
                    Number::from_f64(f32::from_bits(bits).into()).map_or(Value::Null, Value::Number)
                }
                _ => return Err(ProtobufError::WireType),
            },
            Type::String => Value::from(scalar.text()?),
            Type::Bytes => Value::from(forms::to_base64(scalar.bytes()?)),
            Type::Message(id) => {
                let mut out = Map::new();
                self.message(id, scalar.bytes()?, &mut out)?;
                Value::Object(out)
            }
            Type::Quantity => {
                let text = first_bytes(scalar.bytes()?)?;
                let text = std::str::from_utf8(text).map_err(|_| ProtobufError::Utf8)?;
                let text = if text.is_empty() { "0" } else { text };
                Value::from(quantity::canonicalize(text).map_err(|_| ProtobufError::Value)?)
            }
            Type::IntOrString => int_or_string(scalar.bytes()?)?,
            Type::Time => time(scalar.bytes()?, false)?,
            Type::MicroTime => time(scalar.bytes()?, true)?,
            Type::Duration => {
                let (nanos, _) = two_ints(scalar.bytes()?)?;
                Value::from(forms::write_duration(nanos))
            }
            Type::Raw => raw_json(first_bytes(scalar.bytes()?)?)?,
            Type::Texts => texts(scalar.bytes()?)?,
            Type::SchemaOr(id, other) => {
                let mut out = Map::new();
                self.message(id, scalar.bytes()?, &mut out)?;
                // A schema stands for itself; `false` alone is left out of the message.
                match (out.remove("schema"), out.remove(other)) {
                    (Some(schema), Some(Value::Bool(_)) | None) => schema,
                    (_, Some(value)) => value,
                    (None, None) if other == "allows" => Value::Bool(false),
                    (None, None) => Value::Null,
                }
            }
            Type::Opaque => Value::Null,
        })
    }
}

/// The bytes of field 1.
fn first_bytes(raw: &[u8]) -> Result<&[u8], ProtobufError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(raw);
    while let Some((number, scalar)) = reader.field()? {
        if number == 1 {
            found = scalar.bytes()?;
        }
    }
    Ok(found)
}

/// The numbers of fields 1 and 2.
fn two_ints(raw: &[u8]) -> Result<(i64, i64), ProtobufError> {
    let mut found = (0, 0);
    let mut reader = Reader::new(raw);
    while let Some((number, scalar)) = reader.field()? {
        match number {
            1 => found.0 = scalar.int()?,
            2 => found.1 = scalar.int()?,
            _ => {}
        }
    }
    Ok(found)
}

fn int_or_string(raw: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number_value, mut text) = (false, 0, "");
    let mut reader = Reader::new(raw);
    while let Some((number, scalar)) = reader.field()? {
        match number {
            1 => is_text = scalar.int()? == 1,
            2 => number_value = scalar.int()? as i32,
            3 => text = scalar.text()?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number_value) })
}

/// An empty message is no time.
fn time(raw: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = two_ints(raw)?;
    Ok(Value::from(forms::write_time(seconds, nanos as i32, micro)))
}

fn raw_json(text: &[u8]) -> Result<Value, ProtobufError> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(text).map_err(|_| ProtobufError::RawJson)
}

fn texts(raw: &[u8]) -> Result<Value, ProtobufError> {
    let mut items = Vec::new();
    let mut reader = Reader::new(raw);
    while let Some((number, scalar)) = reader.field()? {
        if number == 1 {
            items.push(Value::from(scalar.text()?));
        }
    }
    Ok(Value::Array(items))
}
