//! The wire format: varints, tags, lengths.

use super::ProtobufError;

/// What a tag is followed by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Scalar<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::WireType),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Utf8)
    }

    pub(crate) fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(ProtobufError::WireType),
        }
    }

    /// A signed number: negative ones are written as 64 bits.
    pub(crate) fn int(self) -> Result<i64, ProtobufError> {
        self.varint().map(u64::cast_signed)
    }
}

/// Reads fields one after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(ProtobufError::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next field; `None` at the end. Groups, which nobody has written since proto2's youth, are
    /// refused.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Scalar<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Overflow)?;
        let scalar = match tag & 7 {
            0 => Scalar::Varint(self.varint()?),
            1 => Scalar::Fixed64(u64::from_le_bytes(array(self.take(8)?)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Scalar::Bytes(self.take(length)?)
            }
            5 => Scalar::Fixed32(u32::from_le_bytes(array(self.take(4)?)?)),
            _ => return Err(ProtobufError::WireType),
        };
        Ok(Some((number, scalar)))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ProtobufError> {
    bytes.try_into().map_err(|_| ProtobufError::Truncated)
}

fn write_varint_value(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_tag(out: &mut Vec<u8>, number: u32, wire: u64) {
    write_varint_value(out, u64::from(number) << 3 | wire);
}

pub(crate) fn write_int(out: &mut Vec<u8>, number: u32, value: i64) {
    write_tag(out, number, 0);
    write_varint_value(out, value.cast_unsigned());
}

pub(crate) fn write_double(out: &mut Vec<u8>, number: u32, value: f64) {
    write_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    write_tag(out, number, 2);
    write_varint_value(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
