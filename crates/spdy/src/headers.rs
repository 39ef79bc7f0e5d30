//! Header blocks: names and values, compressed with one stream for each direction of a connection.

use bytes::{BufMut as _, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::dictionary;
use crate::error::FrameError;

/// Bytes of all headers of a stream, inflated. Kubernetes' are a hundred or so.
pub(crate) const MAX_HEADERS: usize = 16 << 10;

/// Headers of a stream. Names are compared without regard to case, and written in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from names and values.
    pub fn new<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let lower = |name: N| name.into().to_ascii_lowercase();
        Self(pairs.into_iter().map(|(name, value)| (lower(name), value.into())).collect())
    }

    /// The first value of a header; empty when it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// All of them, names in lower case; a header with several values comes several times.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn plain(&self) -> BytesMut {
        // Several values of one name travel as one, with a zero byte between them.
        let mut merged: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.0 {
            match merged.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.push('\0');
                    values.push_str(value);
                }
                None => merged.push((name, value.clone())),
            }
        }
        let mut out = BytesMut::new();
        out.put_u32(merged.len() as u32);
        for (name, value) in merged {
            out.put_u32(name.len() as u32);
            out.put_slice(name.as_bytes());
            out.put_u32(value.len() as u32);
            out.put_slice(value.as_bytes());
        }
        out
    }

    fn parse(mut bytes: &[u8]) -> Result<Self, FrameError> {
        let count = number(&mut bytes)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = text(&mut bytes)?.to_ascii_lowercase();
            if name.is_empty() {
                return Err(FrameError::Headers("a header without a name"));
            }
            let value = text(&mut bytes)?;
            pairs.extend(value.split('\0').map(|value| (name.clone(), value.to_owned())));
        }
        Ok(Self(pairs))
    }
}

fn number(bytes: &mut &[u8]) -> Result<usize, FrameError> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(FrameError::Headers("cut off"))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*head) as usize)
}

fn text(bytes: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(bytes)?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(FrameError::Headers("cut off"))?;
    *bytes = rest;
    String::from_utf8(head.to_vec()).map_err(|_| FrameError::Headers("not UTF-8"))
}

/// Compresses the headers of one direction.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // A fresh compressor takes any dictionary; without one the stream would only be longer.
        let _ = compress.set_dictionary(dictionary());
        Self(compress)
    }

    /// Appends the block of `headers`.
    pub(crate) fn append(&mut self, headers: &Headers, out: &mut BytesMut) -> Result<(), FrameError> {
        let plain = headers.plain();
        let mut rest = &plain[..];
        let mut piece = [0; 1024];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let status = self.0.compress(rest, &mut piece, FlushCompress::Sync);
            status.map_err(|_| FrameError::Headers("cannot be deflated"))?;
            rest = &rest[(self.0.total_in() - before_in) as usize..];
            let written = (self.0.total_out() - before_out) as usize;
            out.extend_from_slice(&piece[..written]);
            // Room was left: everything that was in it has come out.
            if written < piece.len() && rest.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Inflates the headers of one direction.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of a block.
    pub(crate) fn read(&mut self, mut block: &[u8]) -> Result<Headers, FrameError> {
        let mut plain = Vec::new();
        let mut piece = [0; 1024];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress(block, &mut piece, FlushDecompress::Sync);
            let (read, written) =
                ((self.0.total_in() - before_in) as usize, (self.0.total_out() - before_out) as usize);
            block = block.get(read..).unwrap_or_default();
            plain.extend_from_slice(&piece[..written]);
            if plain.len() > MAX_HEADERS {
                return Err(FrameError::Headers("too long"));
            }
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(dictionary());
                    known.map_err(|_| FrameError::Headers("compressed with another dictionary"))?;
                }
                Err(_) => return Err(FrameError::Headers("cannot be inflated")),
                Ok(Status::StreamEnd) if !block.is_empty() => {
                    return Err(FrameError::Headers("the compression has ended"));
                }
                Ok(_) if written == piece.len() => {}
                Ok(_) if block.is_empty() || (read == 0 && written == 0) => break,
                Ok(_) => {}
            }
        }
        Headers::parse(&plain)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_share_one_compression() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let headers = Headers::new([("streamType", "error"), ("port", "80"), ("requestID", "7")]);
            let mut block = BytesMut::new();
            deflater.append(&headers, &mut block).unwrap();
            sizes.push(block.len());
            assert_eq!(inflater.read(&block).unwrap(), headers);
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
    }

    #[test]
    fn several_values_of_a_name_stay_several() {
        let headers = Headers::new([("a", "1"), ("b", "2"), ("A", "3")]);
        let mut block = BytesMut::new();
        Deflater::new().append(&headers, &mut block).unwrap();
        let read = Inflater::new().read(&block).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), [("a", "1"), ("a", "3"), ("b", "2")]);
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut block = BytesMut::new();
        Deflater::new().append(&Headers::new([("a", "b".repeat(1 << 20))]), &mut block).unwrap();
        assert_eq!(Inflater::new().read(&block), Err(FrameError::Headers("too long")));
    }
}
