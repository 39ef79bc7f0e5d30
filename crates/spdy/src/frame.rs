//! Frames: bytes to frames and back, without I/O.
//!
//! A data frame may be 16 MiB long; it is handed out in pieces as they come, so that nothing waits for its
//! end. A control frame is taken whole, and is short or refused.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::error::FrameError;
use crate::headers::{Deflater, Headers, Inflater};

/// The longest control frame that is read.
pub const MAX_CONTROL: usize = 16 << 10;
/// The longest piece of data that is handed out at once.
pub const MAX_PIECE: usize = 32 << 10;

const VERSION: u16 = 3;
const HEAD: usize = 8;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Begins a stream.
    SynStream {
        /// The stream; odd when the client began it.
        id: u32,
        /// 0 is the most urgent, 7 the least.
        priority: u8,
        /// The sender will send nothing on it.
        fin: bool,
        /// The receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Takes a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// The answer.
        headers: Headers,
    },
    /// Ends a stream at once, in both directions.
    Reset {
        /// The stream.
        id: u32,
        /// Why; see [`status`](crate::status).
        status: u32,
    },
    /// Says something about the connection.
    Settings(Vec<Setting>),
    /// Asks whether the peer lives; is sent back by it.
    Ping(u32),
    /// No stream begun after `last` will be served.
    GoAway {
        /// The last stream that is.
        last: u32,
        /// 0: all is well.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// The sender will send no more.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// The receiver may send so much more.
    WindowUpdate {
        /// The stream; 0: the whole connection.
        id: u32,
        /// How many bytes more.
        delta: u32,
    },
    /// Bytes of a stream, at most [`MAX_PIECE`] of them when read.
    Data {
        /// The stream.
        id: u32,
        /// The sender will send no more.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
}

/// One thing said about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whether it is to be remembered; nobody does.
    pub flags: u8,
    /// What it is about.
    pub id: u32,
    /// What it is.
    pub value: u32,
}

/// How much a stream's sender may send before it hears more.
pub const INITIAL_WINDOW_SIZE: u32 = 7;

/// Writes frames.
pub struct Encoder(Deflater);

impl Encoder {
    /// For one direction of a connection, from its start.
    pub fn new() -> Self {
        Self(Deflater::new())
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// When it has more in it than a frame can say.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let start = out.len();
        match frame {
            Frame::SynStream { id, priority, fin, unidirectional, headers } => {
                let flags = flag(*fin, FIN) | flag(*unidirectional, UNIDIRECTIONAL);
                control(out, SYN_STREAM, flags);
                out.put_u32(id & STREAM_MASK);
                out.put_u32(0);
                out.put_u8((priority & 7) << 5);
                out.put_u8(0);
                self.0.append(headers, out)?;
            }
            Frame::SynReply { id, fin, headers } => {
                control(out, SYN_REPLY, flag(*fin, FIN));
                out.put_u32(id & STREAM_MASK);
                self.0.append(headers, out)?;
            }
            Frame::Headers { id, fin, headers } => {
                control(out, HEADERS, flag(*fin, FIN));
                out.put_u32(id & STREAM_MASK);
                self.0.append(headers, out)?;
            }
            Frame::Reset { id, status } => pair(out, RST_STREAM, id & STREAM_MASK, *status),
            Frame::GoAway { last, status } => pair(out, GOAWAY, last & STREAM_MASK, *status),
            Frame::WindowUpdate { id, delta } => {
                pair(out, WINDOW_UPDATE, id & STREAM_MASK, delta & STREAM_MASK);
            }
            Frame::Ping(id) => {
                control(out, PING, 0);
                out.put_u32(*id);
            }
            Frame::Settings(settings) => {
                control(out, SETTINGS, 0);
                out.put_u32(settings.len() as u32);
                for setting in settings {
                    out.put_u32(u32::from(setting.flags) << 24 | setting.id & 0x00ff_ffff);
                    out.put_u32(setting.value);
                }
            }
            Frame::Data { id, fin, bytes } => {
                out.put_u32(id & STREAM_MASK);
                out.put_u32(u32::from(flag(*fin, FIN)) << 24);
                out.put_slice(bytes);
            }
        }
        let length = out.len() - start - HEAD;
        if length >= 1 << 24 {
            out.truncate(start);
            return Err(FrameError::TooLong(length));
        }
        // The length is known only now; its three bytes were left zero.
        out[start + 5..start + HEAD].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        Ok(())
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, 0);
    out.put_u32(first);
    out.put_u32(second);
}

/// Reads frames.
pub struct Decoder {
    inflater: Inflater,
    /// What is left of a data frame: its stream, whether it is the last, and how many bytes.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// For one direction of a connection, from its start.
    pub fn new() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }

    /// Takes a frame, or a piece of a data frame, off the front of `bytes`; `None` when there is none
    /// yet. Frames of unknown types are skipped.
    ///
    /// # Errors
    /// When it is no SPDY/3.1. Nothing more can be read then.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some((id, fin, left)) = self.data {
                return Ok(self.piece(id, fin, left, bytes));
            }
            let Some(head) = bytes.first_chunk::<HEAD>().copied() else { return Ok(None) };
            let [a, b, c, d, flags, length @ ..] = head;
            let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
            if a & 0x80 == 0 {
                bytes.advance(HEAD);
                self.data = Some((u32::from_be_bytes([a, b, c, d]), flags & FIN != 0, length));
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(FrameError::TooLong(length));
            }
            if bytes.len() < HEAD + length {
                return Ok(None);
            }
            bytes.advance(HEAD);
            let body = bytes.split_to(length);
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, id: u32, fin: bool, left: usize, bytes: &mut BytesMut) -> Option<Frame> {
        let size = left.min(bytes.len()).min(MAX_PIECE);
        if size == 0 && left > 0 {
            return None;
        }
        let left = left - size;
        self.data = (left > 0).then_some((id, fin, left));
        // Copied: a few bytes must not keep the whole buffer that they came in.
        let piece = Bytes::copy_from_slice(&bytes[..size]);
        bytes.advance(size);
        Some(Frame::Data { id, fin: fin && left == 0, bytes: piece })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Option<Frame>, FrameError> {
        let fin = flags & FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let id = stream(&mut body, "SYN_STREAM")?;
                let _associated = stream(&mut body, "SYN_STREAM")?;
                let (&[priority, _slot], block) =
                    body.split_first_chunk::<2>().ok_or(FrameError::Malformed("SYN_STREAM"))?;
                let headers = self.inflater.read(block)?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Frame::SynStream { id, priority: priority >> 5, fin, unidirectional, headers }
            }
            SYN_REPLY => {
                let id = stream(&mut body, "SYN_REPLY")?;
                Frame::SynReply { id, fin, headers: self.inflater.read(body)? }
            }
            HEADERS => {
                let id = stream(&mut body, "HEADERS")?;
                Frame::Headers { id, fin, headers: self.inflater.read(body)? }
            }
            RST_STREAM => {
                let (id, status) = two(body, "RST_STREAM")?;
                Frame::Reset { id, status }
            }
            GOAWAY => {
                let (last, status) = two(body, "GOAWAY")?;
                Frame::GoAway { last, status }
            }
            WINDOW_UPDATE => {
                let (id, delta) = two(body, "WINDOW_UPDATE")?;
                Frame::WindowUpdate { id, delta: delta & STREAM_MASK }
            }
            PING => Frame::Ping(last_number(body, "PING")?),
            SETTINGS => Frame::Settings(settings(body)?),
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

fn number(body: &mut &[u8], what: &'static str) -> Result<u32, FrameError> {
    let (head, rest) = body.split_first_chunk::<4>().ok_or(FrameError::Malformed(what))?;
    *body = rest;
    Ok(u32::from_be_bytes(*head))
}

fn stream(body: &mut &[u8], what: &'static str) -> Result<u32, FrameError> {
    Ok(number(body, what)? & STREAM_MASK)
}

/// The number that is all there is.
fn last_number(mut body: &[u8], what: &'static str) -> Result<u32, FrameError> {
    let value = number(&mut body, what)?;
    if body.is_empty() { Ok(value) } else { Err(FrameError::Malformed(what)) }
}

fn two(mut body: &[u8], what: &'static str) -> Result<(u32, u32), FrameError> {
    Ok((stream(&mut body, what)?, last_number(body, what)?))
}

fn settings(mut body: &[u8]) -> Result<Vec<Setting>, FrameError> {
    let count = number(&mut body, "SETTINGS")? as usize;
    if body.len() != count.saturating_mul(8) {
        return Err(FrameError::Malformed("SETTINGS"));
    }
    let mut settings = Vec::with_capacity(count);
    for _ in 0..count {
        let first = number(&mut body, "SETTINGS")?;
        let value = number(&mut body, "SETTINGS")?;
        settings.push(Setting { flags: (first >> 24) as u8, id: first & 0x00ff_ffff, value });
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn streams_that_another_implementation_began() {
        // Two SYN_STREAMs of one port-forward; their headers were compressed by the C zlib at its best.
        let hex = concat!(
            "800300010000003c0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0",
            "808614cb45a024cc64610024398b209198094adc8c0600000000ffff800300010000001800000003",
            "000000000000c2aa15540a2512d209000000ffff",
        );
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let mut bytes: BytesMut = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        let mut decoder = Decoder::new();
        for (expected, kind) in [(1, "error"), (3, "data")] {
            let Some(Frame::SynStream { id, headers, fin: false, .. }) = decoder.decode(&mut bytes).unwrap()
            else {
                panic!("no SYN_STREAM");
            };
            assert_eq!((id, headers.get("streamType")), (expected, kind));
            assert_eq!((headers.get("port"), headers.get("requestID")), ("80", "0"));
        }
        assert_eq!(decoder.decode(&mut bytes), Ok(None));
    }
}
