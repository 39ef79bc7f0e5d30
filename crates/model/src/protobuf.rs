//! Protobuf bodies of the built-in types, to JSON and back, driven by the table of messages: there is
//! no code per kind here.
//!
//! Every object travels in an envelope: four magic bytes and a message `Unknown` that says apiVersion
//! and kind. Decoding never panics and is bounded in depth and in the number of values; fields that
//! the table does not know are skipped, as protobuf means it.
//!
//! - `wire`: varints, tags, lengths;
//! - `decode`, `encode`: messages to JSON and back.

mod decode;
mod encode;
pub(crate) mod wire;

use serde_json::Value;

use crate::schema::table;
use crate::status::Failure;
use wire::Reader;

/// What every object starts with: `k8s` and a zero byte.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why bytes are no protobuf of the message that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// They end in the middle.
    #[error("proto: unexpected EOF")]
    Truncated,
    /// A number has more than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field has another wire type than its schema says.
    #[error("proto: wrong wireType for a field")]
    WireType,
    /// A text is not UTF-8.
    #[error("proto: string field contains invalid UTF-8")]
    Utf8,
    /// Raw JSON inside a message is none.
    #[error("proto: a raw field is not JSON")]
    RawJson,
    /// Messages nest too deep.
    #[error("proto: message nests too deep")]
    Depth,
    /// More values than an object may have.
    #[error("proto: message has too many values")]
    Size,
    /// The magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// The content is packed in a way nobody uses.
    #[error("proto: unknown content encoding")]
    Encoding,
    /// The table has no such message.
    #[error("proto: this kind has no protobuf form")]
    NoMessage,
    /// A JSON value does not fit its field.
    #[error("proto: a value does not fit its field")]
    Value,
}

impl From<ProtobufError> for Failure {
    fn from(error: ProtobufError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// What an envelope holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// The object's own message.
    pub raw: &'a [u8],
}

/// Opens an envelope.
///
/// # Errors
/// When the bytes are none.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::Magic)?;
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(body);
    while let Some((number, scalar)) = reader.field()? {
        match number {
            1 => {
                let mut types = Reader::new(scalar.bytes()?);
                while let Some((number, scalar)) = types.field()? {
                    match number {
                        1 => envelope.api_version = scalar.text()?.to_owned(),
                        2 => envelope.kind = scalar.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = scalar.bytes()?,
            3 if !scalar.bytes()?.is_empty() => return Err(ProtobufError::Encoding),
            _ => {}
        }
    }
    Ok(envelope)
}

/// Puts a message into an envelope.
pub fn encode_envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut types = Vec::with_capacity(api_version.len() + kind.len() + 4);
    wire::write_bytes(&mut types, 1, api_version.as_bytes());
    wire::write_bytes(&mut types, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + types.len() + 24);
    out.extend_from_slice(&MAGIC);
    wire::write_bytes(&mut out, 1, &types);
    wire::write_bytes(&mut out, 2, raw);
    wire::write_bytes(&mut out, 3, b"");
    wire::write_bytes(&mut out, 4, b"");
    out
}

/// A message (`core.v1.Pod`) as JSON, without apiVersion and kind. Fields whose value is that of a
/// field that is not set are left out.
///
/// # Errors
/// When the bytes are no such message.
pub fn to_json(message: &str, raw: &[u8]) -> Result<Value, ProtobufError> {
    decode::message(table::find(message).ok_or(ProtobufError::NoMessage)?, raw)
}

/// JSON as a message; apiVersion and kind, and fields that the table does not know, are left out.
///
/// # Errors
/// When a value does not fit its field.
pub fn from_json(message: &str, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    encode::message(table::find(message).ok_or(ProtobufError::NoMessage)?, value)
}

/// One frame of a watch: four bytes of length, and a bare `WatchEvent` with the object's envelope.
pub fn watch_frame(event: &str, envelope: &[u8]) -> Vec<u8> {
    let mut object = Vec::with_capacity(envelope.len() + 8);
    wire::write_bytes(&mut object, 1, envelope);
    let mut body = Vec::with_capacity(object.len() + event.len() + 12);
    wire::write_bytes(&mut body, 1, event.as_bytes());
    wire::write_bytes(&mut body, 2, &object);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

#[cfg(test)]
mod tests;
